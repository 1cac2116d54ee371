"""Names that people's scripts use."""
