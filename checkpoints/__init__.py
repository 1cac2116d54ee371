"""Weight files: which there are, where they come from, and how they reach the disk whole and verified.

Knows nothing of what is inside them.
"""
