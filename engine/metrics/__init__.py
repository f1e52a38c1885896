"""The shared fairness library: prediction table, formulas, intervals, and the frame by group."""
