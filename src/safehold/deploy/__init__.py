"""Choosing the next target, provably."""
