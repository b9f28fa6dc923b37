"""Suites of worlds that others made: names, horizons, and where their cost comes from."""
