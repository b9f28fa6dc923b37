"""Turning evidence into policies."""
