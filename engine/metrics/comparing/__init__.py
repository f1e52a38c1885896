"""Comparisons beyond a single frame: families of tests among groups, two models on the same patients, methods over several runs.

Each module takes frames or a table and returns records with a value, an interval and an adjusted p value.
"""
