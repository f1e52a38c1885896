"""Equipoise: fairness experiments in medical imaging.

The parts are :mod:`equipoise.engine` (training, evaluation, metrics, reports), :mod:`equipoise.tasks` (task kinds and
studies), :mod:`equipoise.data_builders` (cohorts) and :mod:`equipoise.launch` (the commands). This module names what
most programs need; each name is imported at its first use, so that ``import equipoise`` takes no time.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
