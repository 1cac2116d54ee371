"""Weight files: the catalog, the sources, and verified downloads.

This package does not interpret their contents.
"""
