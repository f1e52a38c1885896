"""The protocol of a method: how groups, or sites, enter training.

What a method carries from one step to the next is ``TrainState.method``; so it is in every checkpoint, and equal on every
device. What a method sums over a batch, it sums over the global batch.
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
    """Empirical risk minimisation, and the protocol: each method overrides what it does differently.

    Attributes:
      config: the run.
      groups: the groups that training knows; None under empirical risk minimisation.
      code: [n] the group of every training image, -1 for none.
      target: [n] the label of every training image.
      needs_group_sums: whether weights depend on the losses of the whole batch.
      is_by_group: whether an image's score depends on its group.
      varies_by_seed: whether runs with different seeds may make the same update by different programs.
    """

    config: Run
    groups: Groups | None = None
    code: Int[np.ndarray, " n"] | None = None
    target: np.ndarray | None = None

    needs_group_sums = False
    is_by_group = False
    varies_by_seed = False

    def resolved(self) -> Run:
        """The run that its folder holds: where the method counts in cycles, their number is replaced by updates."""
        return self.config

    def cycle(self, step: int) -> int | None:
        """How many cycles are complete after ``step`` updates; None in the middle of a cycle, or where the method has none."""
        return None

    def cost(self, step: int, state: TrainState) -> dict[str, int]:
        """What ``step`` updates cost beyond computing, such as transfers; it is written beside each evaluation.

        Args:
          step: updates made so far.
          state: the state of one model; only shapes are read.

        Returns:
          Costs by name; empty where all images are in one place.
        """
        return {}

    def order(self) -> grain.MapDataset | None:
        """The row that each draw gives, a pure function of the seed; None: every row once per epoch, shuffled."""
        return None

    def phase(self, step: int) -> str:
        """The name of the program that makes update ``step`` (from 0); each program is compiled once."""
        return "all"

    def init(self, state: TrainState, features: Callable[[], dict[str, Array]]) -> Any:
        """The method's part of a fresh state.

        Args:
          state: a fresh model and optimizer.
          features: returns the model's features of one image; only shapes are read.
        """
        return ()

    def adapt(self, task: TaskKind, phase: str) -> TaskKind:
        """The task whose loss a phase minimises."""
        return task

    def group_sums(self, example_losses: Float[Array, " b"], batch: dict[str, Array]) -> Any:
        """Sums over the examples of (a part of) a batch that :meth:`update` needs, such as each group's loss."""
        return ()

    def update(self, method_state: Any, sums: Any) -> Any:
        """The method's next state.

        Args:
          method_state: the method's part of the state before.
          sums: what :meth:`group_sums` gives over the global batch.
        """
        return method_state

    def weigh(self, method_state: Any, sums: Any, batch: dict[str, Array]) -> Float[Array, " b"]:
        """The weight of every example in the sum of losses, which is then divided by the number of examples.

        Args:
          method_state: the method's next state, as from :meth:`update`.
          sums: what :meth:`group_sums` gives over the global batch.
          batch: the examples, or a part of them.
        """
        return jnp.ones(batch["weight"].shape, batch["weight"].dtype)

    def gradient(self, grads: Any, state: TrainState, phase: str) -> Any:
        """The gradient that the optimizer gets: that of the loss, and what the method adds to it."""
        return grads

    def show(self, method_state: Any) -> dict[str, Array]:
        """What training reports of the method's state, by name."""
        return {}

    def wrap(self, step: Step, sweep: Sweep, phase: str) -> Step:
        """The whole update of a phase: ``step`` updates one model by weighted losses, and the method may do more around it.

        Args:
          step: the update of one model.
          sweep: passes over the global batch.
          phase: the name of the phase.
        """
        return step

    def variables(self, state: TrainState) -> dict[str, Any]:
        """The part of a state that prediction needs."""
        return {"params": state.params, "batch_stats": state.batch_stats}

    def predict(
        self, model: nn.Module, variables: dict[str, Any], images: Array, batch: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """Output and features of the model that scores each image.

        Args:
          model: the network.
          variables: from :meth:`variables`.
          images: [b, *spatial, c], preprocessed.
          batch: with ``group`` [b] where the method is by group.
        """
        return model.apply(variables, images, train=False)
