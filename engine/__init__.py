"""The training engine: arrays in, checkpoints, predictions and fairness reports out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["metrics"])
