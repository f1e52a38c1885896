"""Comparisons beyond a single frame: families of tests among groups, two models on the same patients, methods over several runs.

Each module takes frames or a table and returns records with a value, an interval and an adjusted p value.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["hypotheses", "methods", "paired"])
