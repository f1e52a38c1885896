"""Decisions that rest on scores: policies, claims that must be shown, choices among models, sizes of studies.

``policy`` judges bounds that ``rules`` reads from a file, ``acceptance`` tests claims, ``selection`` chooses among models and
checkpoints, and ``planning`` gives sample sizes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["acceptance", "planning", "policy", "rules", "selection"]
)
