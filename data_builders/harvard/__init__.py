"""harvard."""
