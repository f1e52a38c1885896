"""simba."""
