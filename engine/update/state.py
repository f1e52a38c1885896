"""What training carries from one update to the next."""

from typing import Any

from flax import struct
from jaxtyping import Array, Int


@struct.dataclass
class TrainState:
    """All that training carries from one step to the next, and all that a checkpoint holds.

    Attributes:
      step: updates made so far.
      params: the model's parameters.
      batch_stats: running statistics of normalisation layers.
      opt_state: the state of the optax chain.
      method: the method's part (:meth:`equipoise.engine.methods.base.Method.init`); mostly nothing.
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any
    method: Any = ()
