"""Formulas: what each metric is, and how its value is computed from rows or from sums of them."""
