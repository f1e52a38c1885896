"""The protocol of a method: how groups, or sites, enter training. The methods themselves: :mod:`equipoise.engine.methods`.

Whatever a method carries from one step to the next is ``TrainState.method``, and so it is in every checkpoint and equal
on every device. Whatever a method sums over a batch it sums over the global batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import grain
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from equipoise.engine.config import Run
from equipoise.engine.methods.groups import Groups
from equipoise.engine.update.state import TrainState
from equipoise.engine.update.sweep import Sweep
from equipoise.engine.update.task import TaskKind

Step = Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class Method:
    """Empirical risk minimisation, and the protocol: each method overrides what it does otherwise.

    Attributes:
      config: of the run.
      groups: that training knows; None under empirical risk minimisation.
      code: [n] group of every training image, -1 for none.
      target: [n] label of every training image.
    """

    config: Run
    groups: Groups | None = None
    code: Int[np.ndarray, " n"] | None = None
    target: np.ndarray | None = None

    needs_group_sums = False  # whether weights depend on the losses of the whole batch
    is_by_group = False  # whether an image's score depends on its group
    varies_by_seed = False  # whether runs of two seeds may make the same update by different programs

    def resolved(self) -> Run:
        """The run with its length in updates, where the method counts in cycles: what a run's folder then holds."""
        return self.config

    def cycle(self, step: int) -> int | None:
        """How many cycles ``step`` updates complete, where the method has any; None in the middle of one."""
        return None

    def cost(self, step: int, state: TrainState) -> dict[str, int]:
        """What ``step`` updates cost beyond computing, written beside each evaluation; nothing where one place has all images.

        Args:
          step: updates made.
          state: of one model; its shapes are meant, not its values.
        """
        return {}

    def order(self) -> grain.MapDataset | None:
        """The row of every draw, a pure function of the seed; None: each once per epoch, shuffled."""
        return None

    def phase(self, step: int) -> str:
        """Which of the method's programs makes update ``step`` (from 0); each is compiled once."""
        return "all"

    def init(self, state: TrainState, features: Callable[[], dict[str, Array]]) -> Any:
        """The method's own part of a fresh state.

        Args:
          state: model and optimizer, fresh.
          features: gives the model's features of one image; its shapes are meant, not its values.
        """
        return ()

    def adapt(self, task: TaskKind, phase: str) -> TaskKind:
        """The task whose loss a phase descends on."""
        return task

    def group_sums(self, example_losses: Float[Array, " b"], batch: dict[str, Array]) -> Any:
        """Sums over the examples of (a part of) a batch that :meth:`update` needs, such as each group's loss."""
        return ()

    def update(self, method_state: Any, sums: Any) -> Any:
        """The method's next state.

        Args:
          method_state: the method's part of the state before.
          sums: of :meth:`group_sums`, over the global batch.
        """
        return method_state

    def weigh(self, method_state: Any, sums: Any, batch: dict[str, Array]) -> Float[Array, " b"]:
        """The weight of every example in the sum of losses, which is then divided by the number of examples.

        Args:
          method_state: the method's next state, as from :meth:`update`.
          sums: of :meth:`group_sums`, over the global batch.
          batch: the examples, or a part of them.
        """
        return jnp.ones(batch["weight"].shape, batch["weight"].dtype)

    def gradient(self, grads: Any, state: TrainState, phase: str) -> Any:
        """What the optimizer descends along: the gradient of the loss, and what the method adds to it."""
        return grads

    def show(self, method_state: Any) -> dict[str, Array]:
        """What training reports of the method's state, by name."""
        return {}

    def wrap(self, step: Step, sweep: Sweep, phase: str) -> Step:
        """The whole update of a phase, around the update of one model by weighted losses."""
        return step

    def variables(self, state: TrainState) -> dict[str, Any]:
        """What prediction needs of a state."""
        return {"params": state.params, "batch_stats": state.batch_stats}

    def predict(
        self, model: nn.Module, variables: dict[str, Any], images: Array, batch: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """Output and features of the model that scores each image."""
        return model.apply(variables, images, train=False)
