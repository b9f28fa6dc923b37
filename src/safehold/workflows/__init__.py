"""Wiring: the only floor that knows everybody."""
