"""Resampling of patients: the bootstrap, and tests by permutation."""
