"""Training runs, and opening what they left.

- ``train`` trains a configuration to its end, and goes on from the newest checkpoint. It may raise ``Diverged`` or ``Preempted``.
- ``Machine`` is a run made concrete: compiled functions, up to the prediction table of a split. ``population.make`` makes the machine
  of one model, or of many that are trained at once.
- ``choose_steps`` and ``best_step`` choose a checkpoint of a run; ``restore`` opens it. ``Checkpoints`` are all of a run, checked by
  checksums; a ``Damaged`` one is never used.
- ``open_run`` opens a trained run: its checkpoints, and a machine that predicts with each.
- ``step`` makes the pure functions that are compiled; ``writers`` write a run's numbers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
