"""Values and protocols that every other room shares."""
