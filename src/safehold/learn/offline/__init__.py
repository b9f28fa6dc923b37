"""Methods that learn from a log and touch no environment."""
