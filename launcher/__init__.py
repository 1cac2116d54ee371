"""The launcher: `mt3-infer serve` and the supervisor that keeps its processes running."""
