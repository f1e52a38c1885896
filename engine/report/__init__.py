"""The fairness report: one page that stands alone, its figures, and ``metrics.json`` with its schema."""
