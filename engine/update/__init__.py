"""What one update is made of.

- ``TrainState``: all that training carries from one update to the next, and all that a checkpoint holds.
- ``TaskKind``: the protocol of a task. The kinds themselves are in ``tasks/kinds``.
- ``make_preprocess`` and ``preprocessed_shape``: from stored integers to the images that a model sees.
- ``Sweep``: sums and gradients over the global batch, microbatch by microbatch.
- ``losses``: one loss for each example. ``optim``: optax chains from the configuration.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
