"""Balancing classes and groups before training: by weights, or by how often an image is drawn."""

from __future__ import annotations

import functools
import sys
from typing import Any

import grain
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from equipoise.engine.methods.base import Method


def _counts(method: Method) -> Int[np.ndarray, "classes groups"]:
    """Training images by class and group."""
    known = method.code >= 0
    counts = np.zeros((method.target.max() + 1, len(method.groups.levels)), np.int64)
    np.add.at(counts, (method.target[known], method.code[known]), 1)
    return counts


class Reweighing(Method):
    """Weighs every example by ``w(c, g) = P(c) P(g) / P(c, g)``, which makes class and group independent.

    P are shares of the training split's images of known group. Kamiran and Calders 2012, Knowledge and Information Systems
    33:1-33, section 4.3. Where there is only one class, as with masks, each of G groups counts the same instead:
    ``w(g) = 1 / (G P(g))``.
    """

    @functools.cached_property
    def table(self) -> Float[np.ndarray, "classes groups+1"]:
        """Weights by class and group. The last column, which group -1 reads, is 1, and so is a cell without images."""
        counts = _counts(self)
        joint = counts / counts.sum()
        if len(joint) == 1:
            return np.pad(1 / (joint.size * joint), ((0, 0), (0, 1)), constant_values=1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            weights = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True) / joint
        return np.pad(np.where(counts > 0, weights, 1.0), ((0, 0), (0, 1)), constant_values=1.0)

    def weigh(self, method_state: Any, sums: Any, batch: dict[str, Array]) -> Float[Array, " b"]:
        """The weight of each example's class and group, from :attr:`table`."""
        return jnp.asarray(self.table, batch["weight"].dtype)[batch["target"], batch["group"]]


class _Weighted:
    """Rows drawn one by one with replacement; each draw is a pure function of (seed, number of the draw)."""

    def __init__(self, weights: Float[np.ndarray, " n"], seed: int):
        self._edges, self._seed = np.cumsum(weights), seed

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> int:
        drawn = np.random.default_rng((self._seed, index)).random() * self._edges[-1]
        return int(np.searchsorted(self._edges, drawn, side="right"))


class Resampling(Method):
    """Draws examples with replacement, so that every cell of class and group with images comes equally often.

    An image of unknown group comes as often as without resampling: once in n draws.
    """

    def order(self) -> grain.MapDataset:
        """Draws in which every cell comes equally often."""
        counts = _counts(self)
        known = self.code >= 0
        weights = np.ones(len(self.code))
        share = counts.sum() / (counts > 0).sum()
        weights[known] = share / counts[self.target[known], self.code[known]]
        return grain.MapDataset.source(_Weighted(weights, self.config.seed))
