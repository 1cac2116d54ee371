"""Runs the whole service on one machine: `mt3-infer serve`, and what keeps its processes running."""
