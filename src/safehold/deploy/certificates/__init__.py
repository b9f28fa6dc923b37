"""One file a certificate; the safe mask is what they certify."""
