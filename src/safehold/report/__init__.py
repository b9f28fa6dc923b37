"""Reading a ledger and drawing it."""
