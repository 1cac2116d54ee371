"""Weights: what is in a file, and which parameter of which network it is."""
