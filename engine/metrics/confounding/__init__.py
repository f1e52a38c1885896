"""confounding."""
