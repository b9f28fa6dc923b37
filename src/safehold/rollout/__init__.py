"""Where a policy meets a world."""
