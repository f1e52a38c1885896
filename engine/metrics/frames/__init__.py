"""Frames: every metric of a table, overall and by group, and the comparisons among groups."""
