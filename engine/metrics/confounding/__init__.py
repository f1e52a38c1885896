"""Gaps between groups once their confounders are alike, beside the raw gaps.

``gaps`` is the place to begin; ``balance`` holds the ways to weight or match rows, and ``pair`` the scores of two groups under any
weights.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["balance", "gaps", "pair"])
