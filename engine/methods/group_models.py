"""One model for each group, fine-tuned from one of everyone."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from equipoise.engine.data import shuffled
from equipoise.engine.methods.base import Method, Step
from equipoise.engine.update.state import TrainState
from equipoise.engine.update.sweep import Sweep


class _ByTurns:
    """Draws from everyone for the first batches; then each batch is drawn from one group, and the groups take turns."""

    def __init__(self, everyone: grain.MapDataset, groups: list[grain.MapDataset], first: int, size: int):
        self._everyone, self._groups, self._first, self._size = everyone, groups, first, size

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> int:
        batch, place = divmod(index, self._size)
        if batch < self._first:
            return self._everyone[index]
        turn, group = divmod(batch - self._first, len(self._groups))
        return self._groups[group][turn * self._size + place]


class GroupModels(Method):
    """Trains one model on everyone, then fine-tunes one for each group on the group's own images.

    After ``pretrain_steps`` the groups take turns, one update each, on shuffled batches of their own images. A group starts
    from the model of everyone and from its optimizer's state; both then stay as they are. An image is scored by its group's
    model, an image of unknown group by the model of everyone. Puyol-Anton et al. 2021, arXiv:2106.12387 (their
    protected-group models).
    """

    is_by_group = True

    def order(self) -> grain.MapDataset:
        """Draws from everyone, then from the groups by turns."""
        rows, seed = np.arange(len(self.code)), self.config.seed
        groups = [shuffled(rows[self.code == g], seed) for g in range(len(self.groups.levels))]
        first, size = self.config.method.pretrain_steps, self.config.data.batch_size
        return grain.MapDataset.source(_ByTurns(shuffled(rows, seed), groups, first, size))

    def phase(self, step: int) -> str:
        """``everyone`` before the groups take turns, then ``groups``."""
        return "everyone" if step < self.config.method.pretrain_steps else "groups"

    def init(self, state: TrainState, features: Callable[[], dict[str, Array]]) -> dict[str, Any]:
        """A place for every group's model and optimizer, [groups, ...]; it is used from the group's first turn on."""
        size = len(self.groups.levels)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *jnp.shape(x))), _model_of(state))

    def wrap(self, step: Step, sweep: Sweep, phase: str) -> Step:
        """Updates the model whose turn it is."""
        size, first = len(self.groups.levels), self.config.method.pretrain_steps

        def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
            if phase == "everyone":
                return step(state, batch)
            turn, group = jnp.divmod(state.step - first, size)
            everyone = _model_of(state)
            own = jax.tree.map(
                lambda first, models: jnp.where(turn == 0, first, models[group]), everyone, state.method
            )
            moved, metrics = step(state.replace(method=(), **own), batch)
            put = functools.partial(jax.tree.map, lambda models, new: models.at[group].set(new))
            return state.replace(step=moved.step, method=put(state.method, _model_of(moved))), metrics

        return train_step

    def variables(self, state: TrainState) -> dict[str, Any]:
        """The model of everyone, those of the groups, and how many groups have had a turn."""
        groups = {name: state.method[name] for name in ("params", "batch_stats")}
        turned = state.step - self.config.method.pretrain_steps
        return super().variables(state) | {"groups": groups, "turned": turned}

    def predict(
        self, model: nn.Module, variables: dict[str, Any], images: Array, batch: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """Runs every model on every image, and keeps the output of the model that scores the image."""
        groups, turned = variables["groups"], variables["turned"]
        everyone = {name: variables[name] for name in ("params", "batch_stats")}
        chosen = model.apply(everyone, images, train=False)
        for group in range(len(self.groups.levels)):
            of_group = model.apply(jax.tree.map(lambda x, g=group: x[g], groups), images, train=False)
            is_own = (batch["group"] == group) & (group < turned)
            chosen = jax.tree.map(
                lambda old, new, own=is_own: jnp.where(own.reshape(-1, *(1,) * (old.ndim - 1)), new, old),
                chosen,
                of_group,
            )
        return chosen


def _model_of(state: TrainState) -> dict[str, Any]:
    """The parts of a state that belong to one model."""
    return {name: getattr(state, name) for name in ("params", "batch_stats", "opt_state")}
