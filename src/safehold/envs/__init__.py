"""Worlds: adapters, suites, and toy worlds whose true values are known."""
