"""Torch modules, each on one page."""
