"""Evidence: what the recording itself says about a note, computed as its samples pass on their way to the network.

samples ─▶ windows of 2 s ─▶ energies by pitch, posteriors of Basic Pitch ─▶ `Evidence` ─┐
network ─▶ results ───────────────────────────────────────────────────────▶ notes ──────┴▶ velocity, confidence

The windows lie on a grid of their own, which depends neither on the model's segments nor on shards.
"""
