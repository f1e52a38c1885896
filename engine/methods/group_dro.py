"""Group distributionally robust optimisation: the group that fares worst weighs most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from equipoise.engine.methods.base import Method
from equipoise.engine.update.state import TrainState


class GroupDRO(Method):
    """Minimises ``sum_g q_g l_g``, in which groups with a larger loss get a larger weight q by exponentiated ascent.

    At each batch ``q_g <- q_g exp(step_size l_g) / sum``, where l_g is the mean loss of group g in the global batch (0 where
    it is absent); then the model descends on ``sum_g q_g l_g``. Sagawa et al. 2020, arXiv:1911.08731, algorithm 1, with
    every group's mean in each batch as in section 5. Images of unknown group keep their share of the batch, at weight 1.
    """

    needs_group_sums = True

    def init(self, state: TrainState, features: Callable[[], dict[str, Array]]) -> Float[Array, " groups"]:
        """Equal weights q of all groups."""
        size = len(self.groups.levels)
        return jnp.full(size, 1 / size, jnp.promote_types(self.config.model.dtype, jnp.float32))

    def _members(self, batch: dict[str, Array], dtype: Any) -> Float[Array, "b groups"]:
        inside = jax.nn.one_hot(batch["group"], len(self.groups.levels), dtype=dtype)  # -1 is nowhere
        return inside * batch["weight"].astype(dtype)[:, None]

    def group_sums(self, example_losses: Float[Array, " b"], batch: dict[str, Array]) -> tuple[Array, Array]:
        """(sum of losses, number of examples) of every group, [groups] each."""
        members = self._members(batch, example_losses.dtype)
        return jnp.where(members > 0, members * example_losses[:, None], 0).sum(0), members.sum(0)

    def update(self, method_state: Array, sums: tuple[Array, Array]) -> Array:
        """The next weights q, by exponentiated ascent."""
        total, count = sums
        grown = method_state * jnp.exp(self.config.method.step_size * total / jnp.maximum(count, 1)).astype(
            method_state.dtype
        )
        return grown / grown.sum()

    def weigh(
        self, method_state: Array, sums: tuple[Array, Array], batch: dict[str, Array]
    ) -> Float[Array, " b"]:
        """``q_g n_known / n_g``: then the mean over known examples is the sum of group means, weighted by q."""
        count = sums[1]
        weights = method_state * (count.sum() / jnp.maximum(count, 1)).astype(method_state.dtype)
        return jnp.append(weights, 1.0)[batch["group"]]

    def show(self, method_state: Array) -> dict[str, Array]:
        """The weight q of every group."""
        return {f"group_weight:{level}": method_state[i] for i, level in enumerate(self.groups.levels)}
