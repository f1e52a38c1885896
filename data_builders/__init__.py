"""TFDS builders, one file per cohort."""
