"""Changes to a model's scores or thresholds after training: chosen on one split, judged on another.

``recalibration`` maps scores to better calibrated ones, and ``parity`` chooses a threshold for each group. Both return a choice whose
``apply`` adds a model to a prediction table; ``tuning`` holds what they share.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["parity", "recalibration", "tuning"])
