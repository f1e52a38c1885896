"""The word for what is not known, the same in cohorts, prediction tables and reports."""

UNKNOWN = "unknown"
