"""Belief about a scalar function: exact Gaussian processes in float64, numpy and scipy alone."""
