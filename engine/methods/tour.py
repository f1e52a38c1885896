"""Visits to sites: which images each update sees in a run that learns across sites.

A cycle (or round) visits every site once. A visit of site k makes a number of passes over the site's n_k images. Each pass
shuffles them by (seed, cycle, epoch, site) and cuts them into ceil(n_k / b) batches of b images; the last batch has those
that are left.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

Rows = tuple[Int[np.ndarray, " n_k"], ...]  # for each site, the rows of its images


@dataclasses.dataclass(frozen=True, eq=False)
class Tour:
    """Cycles of visits to the same sites.

    Attributes:
      sites: for each site, the rows of its images.
      numbers: [k] the sites that are visited.
      batch: images of an update, where the site has that many left.
      epochs: passes over a site's images in one visit.
      seed: the run's seed.
      is_fixed: whether the sites are visited in the order of their numbers; otherwise in an order shuffled by (seed, cycle).
      is_round: whether visits start from one global model and end in an average; otherwise one model travels.
      start: the run's first update on this tour.
      first: the run's first cycle on this tour.
    """

    sites: Rows
    numbers: Int[np.ndarray, " k"]
    batch: int
    epochs: int
    seed: int
    is_fixed: bool
    is_round: bool
    start: int = 0
    first: int = 0

    @functools.cached_property
    def lengths(self) -> Int[np.ndarray, " k"]:
        """How many updates a visit to each site has."""
        return np.array([self.epochs * -(-len(self.sites[k]) // self.batch) for k in self.numbers])

    @property
    def updates(self) -> int:
        """How many updates a cycle has."""
        return int(self.lengths.sum())

    def cycle(self, step: Any) -> Any:
        """The run's cycle in which update ``step`` (from 0; may be traced) lies."""
        return self.first + (step - self.start) // self.updates

    def itinerary(self, cycle: int) -> Int[np.ndarray, " k"]:
        """Places in ``numbers``, in the order in which a cycle visits them."""
        if self.is_fixed:
            return np.arange(len(self.numbers))
        return np.random.default_rng((self.seed, 0, cycle)).permutation(len(self.numbers))

    def rows(self, step: int) -> Int[np.ndarray, " m"]:
        """The images of an update, a pure function of (seed, step)."""
        cycle, order = self.cycle(step), self.itinerary(self.cycle(step))
        ends, place = np.cumsum(self.lengths[order]), (step - self.start) % self.updates
        visit = int(np.searchsorted(ends, place, side="right"))
        length, site = int(self.lengths[order[visit]]), int(self.numbers[order[visit]])
        epoch, number = divmod(place - int(ends[visit]) + length, length // self.epochs)
        shuffle = np.random.default_rng((self.seed, 1, cycle, epoch, site)).permutation
        return shuffle(self.sites[site])[number * self.batch : (number + 1) * self.batch]


class _Draws:
    """Batches of one size, from updates of any size."""

    def __init__(self, rows: Callable[[int], Int[np.ndarray, " m"]], size: int):
        self._rows, self._size = functools.lru_cache(64)(rows), size

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> int:
        step, place = divmod(index, self._size)
        rows = self._rows(step)
        return int(rows[place % len(rows)])


def draws(rows: Callable[[int], Int[np.ndarray, " m"]], size: int) -> grain.MapDataset:
    """The row that each draw gives; an update with fewer than ``size`` rows repeats them until a batch is full.

    Args:
      rows: update -> its rows.
      size: images of a batch.
    """
    return grain.MapDataset.source(_Draws(rows, size))
