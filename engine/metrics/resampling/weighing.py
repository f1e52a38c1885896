"""Sums, AUROCs and other metrics of many sets of rows at once, for any weights of the patients.

A bootstrap (:mod:`equipoise.engine.metrics.resampling.bootstrap`) does this for each replicate. Whatever no weight changes is done
once before.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Float64, Int, UInt8
from scipy import sparse

from equipoise.engine.metrics.formulas.metric import Columns, Metric

LANES = 128  # replicates drawn together
_DEPTH, _TILES = 128, 64  # rows of a tile and tiles of a call: shapes that never change compile once
_PROFILE_GAIN = 8  # profiles are drawn where they are this many times fewer than patients
_ELEMENTS, _CACHED = 1 << 22, 1 << 20  # elements of an intermediate array; of one that is read many times
_BINS = 512  # bins of neighbouring scores that the rows of large sets are put into
_LARGE = 4 * _BINS

Part = tuple[str, str]  # (model, column)


class Sets:
    """Sets of rows (the levels of several groupings), and the atoms whose unions they are.

    Attributes:
      rows: rows of each set, ascending.
      atom: atom of each row; rows that are in the same sets share one.
      member: [sets, atoms] 1 where the atom is part of the set.
    """

    def __init__(self, groupings: Sequence[Int[np.ndarray, " n"]], sizes: Sequence[int]):
        self.rows: list[np.ndarray] = []
        self.atom = np.zeros(len(groupings[0]), np.int64)
        for level, size in zip(groupings, sizes, strict=True):
            order = np.argsort(level, kind="stable")
            self.rows += np.split(order, np.searchsorted(level[order], np.arange(size + 1)))[1:-1]
            _, self.atom = np.unique(self.atom * (size + 1) + level + 1, return_inverse=True)
        _, first = np.unique(self.atom, return_index=True)
        starts = np.cumsum([0, *sizes[:-1]])
        inside = [
            (start + level[first], np.flatnonzero(level[first] >= 0))
            for start, level in zip(starts, groupings, strict=True)
        ]
        at = np.concatenate([place[atoms] for place, atoms in inside])
        atoms = np.concatenate([atoms for _, atoms in inside])
        self.member = sparse.csr_array((np.ones(len(at)), (at, atoms)), shape=(sum(sizes), len(first)))

    def repeat(self, times: int) -> "Sets":
        """The same sets where each row is repeated ``times``, one after the other."""
        repeated = copy.copy(self)
        repeated.rows = [(rows[:, None] * times + np.arange(times)).ravel() for rows in self.rows]
        repeated.atom = self.atom.repeat(times)
        return repeated


class SetSums:
    """Sums of per-image columns over sets of rows, for any weights of the patients.

    Attributes:
      matrix: [columns · atoms, profiles] what one patient of a profile adds; each patient has a profile of his or her own where
        joining them would save little.
      profiles: number of patients of each profile, or None where each patient has one.
    """

    def __init__(
        self,
        parts: Mapping[Part, np.ndarray],
        sets: Sets,
        code: np.ndarray,
        patients: int,
        may_join: bool = True,
    ):
        self._names, self._member = list(parts), sets.member
        entries = []
        for number, part in enumerate(parts.values()):
            rows = np.flatnonzero(part)
            entries.append((part[rows], number * sets.member.shape[1] + sets.atom[rows], code[rows]))
        values, place, who = (np.concatenate(x) for x in zip(*entries, strict=True))
        shape = (len(parts) * sets.member.shape[1], patients)
        self.matrix = sparse.csr_array((values.astype(np.float64), (place, who)), shape=shape)
        self.profiles = None
        if may_join and (values == np.rint(values)).all():
            # Patients with equal columns have equal hashes; unequal ones collide with probability patients² / 2⁶⁵.
            multipliers = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, shape[0])
            hashes = self.matrix.T.astype(np.int64) @ multipliers
            _, chosen, count = np.unique(hashes, return_index=True, return_counts=True)
            if len(chosen) * _PROFILE_GAIN <= patients:
                order = np.argsort(
                    chosen
                )  # sorted by their first patient, so that no rescaling of the columns changes a draw
                self.matrix, self.profiles = self.matrix[:, chosen[order]], count[order]

    def at(self, weights: Int[np.ndarray, "profiles b"]) -> dict[Part, Float64[np.ndarray, "s b"]]:
        """Computes column -> its sum over each set under each weighting."""
        width = max(32, _ELEMENTS // len(weights))
        slices = (
            weights[:, start : start + width].astype(np.float64)
            for start in range(0, weights.shape[1], width)
        )
        totals = np.concatenate([self.matrix @ w for w in slices], axis=1)
        totals = totals.reshape(len(self._names), -1, weights.shape[1])
        return {name: self._member @ total for name, total in zip(self._names, totals, strict=True)}

    def of_patients(self, name: Part, chosen: int) -> Float64[np.ndarray, " profiles"]:
        """What one patient of each profile adds to the sum of a column over one set."""
        atoms = self._member.shape[1]
        start = self._names.index(name) * atoms
        return (self._member[[chosen]] @ self.matrix[start : start + atoms]).toarray()[0]


def _all_lanes(weights: np.ndarray) -> np.ndarray:
    """Fills weightings up to whole chunks, so that every chunk has the same shape."""
    return np.pad(weights, ((0, 0), (0, -weights.shape[1] % LANES)))


@jax.jit
def _tile_areas(
    weights: UInt8[Array, "depth tiles b"], truth: Bool[Array, "depth tiles"]
) -> tuple[Float32[Array, "tiles b"], ...]:
    """(positives, negatives, pairs won) of tiles of rows in ascending order of score; whole numbers, exact below 2²⁴."""

    def step(carry, row):
        positives, negatives, won = carry
        weight, is_positive = row
        positive = jnp.where(is_positive[:, None], weight.astype(jnp.float32), 0)
        negative = weight.astype(jnp.float32) - positive
        return (positives + positive, negatives + negative, won + positive * negatives), None

    zero = jnp.zeros(weights.shape[1:], jnp.float32)
    return jax.lax.scan(step, (zero, zero, zero), (weights, truth))[0]


class Areas:
    """The AUROC of sets of rows for any whole weights of the patients; rows are sorted once (Hanley and McNeil 1982).

    Sorted rows are cut into tiles: pairs within a tile are counted by a running sum, pairs across tiles from the sums of the tiles.
    Where scores of both classes tie, the mean of the two orders counts a tie as half a win.
    """

    def __init__(self, truth: np.ndarray, score: np.ndarray, sets: Sets, code: np.ndarray, patients: int):
        who, labels, starts, self._orders, count = [], [], [], [], 0
        for rows in sets.rows:
            positive, value = truth[rows], score[rows]
            lost, won = np.lexsort((~positive, value)), np.lexsort((positive, value))
            orders = [won] if (positive[won] == positive[lost]).all() else [won, lost]
            self._orders.append(len(orders))
            for order in orders:
                padding = (0, -len(order) % _DEPTH if len(order) else _DEPTH)
                who.append(np.pad(code[rows][order], padding, constant_values=patients).reshape(-1, _DEPTH).T)
                labels.append(np.pad(positive[order], padding).reshape(-1, _DEPTH).T)
                starts.append(count)
                count += who[-1].shape[1]
        filler = ((0, 0), (0, -count % _TILES))
        self._who = np.pad(np.concatenate(who, axis=1), filler, constant_values=patients)
        self._truth = np.pad(np.concatenate(labels, axis=1), filler)
        self._starts, self._count = np.array(starts), count

    def at(self, weights: UInt8[np.ndarray, "i+1 b"]) -> Float64[np.ndarray, "s b"]:
        """Computes the AUROC of each set under each weighting; NaN without both classes."""
        count, weights, tiles = weights.shape[1], _all_lanes(weights), []
        for start in range(0, self._who.shape[1], _TILES):
            block = slice(start, start + _TILES)
            tiles.append(_tile_areas(weights[self._who[:, block]], self._truth[:, block]))
        positives, negatives, won = (
            np.concatenate([np.asarray(t[k], np.float64) for t in tiles])[: self._count] for k in range(3)
        )
        before = negatives.cumsum(axis=0) - negatives
        lengths = np.diff(np.append(self._starts, self._count))
        before -= np.repeat(before[self._starts], lengths, axis=0)
        won += positives * before
        won, positives, negatives = (np.add.reduceat(x, self._starts) for x in (won, positives, negatives))
        pairs = positives * negatives
        area = won / np.where(pairs > 0, pairs, np.nan)
        first = np.cumsum([0, *self._orders[:-1]])
        return (np.add.reduceat(area, first) / np.array(self._orders)[:, None])[:, :count]


@functools.lru_cache(maxsize=64)
def _over_lanes(weighted: Callable) -> Callable:
    """A weighted metric for many weightings at once, compiled once for each shape."""
    return jax.jit(jax.vmap(weighted, in_axes=(None, 1)))


def _padded(n: int) -> int:
    """The next 2ᵏ or 3·2ᵏ at or above ``n``: few shapes are compiled, and at most half of one is wasted."""
    power = 1 << max(n - 1, 63).bit_length()
    return power * 3 // 4 if n <= power * 3 // 4 else power


class Weighted:
    """A metric that needs its rows, in sets of rows, for any weights of the patients; prepared once for all sets.

    In a large set, rows of neighbouring scores are put into bins where the entry of the metric allows it (``may_bin``); a
    replicate then weighs bins. What binning changes in the sample itself is added back, so that it touches deviations alone.
    """

    def __init__(self, metric: Metric, columns: Columns, sets: Sets, code: np.ndarray, patients: int):
        n = len(code)
        prepare = metric.prepare or dict
        prepared = dict(prepare(columns))
        order = prepared.pop("row", np.arange(n))
        rank = np.empty(n, np.int64)
        rank[order] = np.arange(n)
        self._compute, self._sets = _over_lanes(metric.weighted), []
        for rows in sets.rows:
            if metric.may_bin and len(rows) > _LARGE:
                place = np.sort(rank[rows])
                cut = {k: v[place] if v.shape[:1] == (n,) else v for k, v in prepared.items()}
                exact = float(metric.weighted(cut, np.ones(len(rows))))
                self._sets.append(_in_bins(metric, columns, rows, code, patients, exact))
                continue
            place = np.sort(rank[rows])
            extra = _padded(len(place)) - len(place)
            who = np.pad(code[order][place], (0, extra), constant_values=patients)
            taken = np.pad(place, (0, extra), constant_values=place[-1] if len(place) else 0)
            cut = {k: v[taken] if v.shape[:1] == (n,) else v for k, v in prepared.items()}
            self._sets.append((who, cut, 0.0))

    def at(self, weights: UInt8[np.ndarray, "i+1 b"]) -> Float64[np.ndarray, "s b"]:
        """Computes the metric of each set under each weighting; NaN where it is undefined."""
        count, weights = weights.shape[1], _all_lanes(weights)
        result = np.empty((len(self._sets), weights.shape[1]))
        binned = any(not isinstance(who, np.ndarray) for who, _, _ in self._sets)
        floats = weights.astype(np.float64) if binned else None
        with jax.enable_x64(True):
            for values, (who, columns, offset) in zip(result, self._sets, strict=True):
                width = min(LANES, 1 << max(_CACHED // who.shape[0], 1).bit_length() - 1)
                for start in range(0, weights.shape[1], width):
                    lanes = slice(start, start + width)
                    if isinstance(who, np.ndarray):
                        weight = weights[who, lanes].astype(np.float64)
                    else:
                        weight = who @ floats[:, lanes]
                    values[lanes] = self._compute(columns, weight)
                values += offset
        return result[:, :count]


def _in_bins(
    metric: Metric, columns: Columns, rows: np.ndarray, code: np.ndarray, patients: int, exact: float
) -> tuple[sparse.csr_array, dict[str, np.ndarray], float]:
    """The rows of one set as bins of neighbouring scores, each class apart, prepared for the metric.

    Returns:
      ([2 · bins, patients + 1] rows that a patient adds to each bin, prepared columns of the bins, exact − binned value of the sample).
    """
    truth, score = np.asarray(columns["truth"], bool)[rows], np.asarray(columns["score"], np.float64)[rows]
    number, middle = _neighbours(score, _focus(metric, truth, score, code[rows]))
    binned = {"truth": np.arange(2 * _BINS) % 2 == 1, "score": middle.repeat(2)}
    prepared = dict((metric.prepare or dict)(binned))
    order = prepared.pop("row", np.arange(2 * _BINS))
    place = np.empty(2 * _BINS, np.int64)
    place[order] = np.arange(2 * _BINS)
    entries = np.ones(len(rows)), (place[2 * number + truth], code[rows])
    matrix = sparse.csr_array(entries, shape=(2 * _BINS, patients + 1))
    return (
        matrix,
        prepared,
        exact - float(metric.weighted(prepared, np.asarray(matrix.sum(axis=1), np.float64))),
    )


def _neighbours(
    score: Float64[np.ndarray, " n"], focus: tuple[float, float] | None
) -> tuple[Int[np.ndarray, " n"], Float64[np.ndarray, " bins"]]:
    """(bin of each row, a score of each bin): equal scores share a bin, and where they are few each has a bin of its own.

    Args:
      score: score of each row.
      focus: (score, number of rows on either side of it) where half of the bins are placed; None: bins of equal numbers of rows.
    """
    values, number, count = np.unique(score, return_inverse=True, return_counts=True)
    if len(values) > _BINS:
        below = np.cumsum(count) - count
        edges = np.linspace(0, len(score), _BINS + 1)[1:-1]
        if focus:
            centre = np.searchsorted(np.sort(score), focus[0])
            near = np.linspace(centre - focus[1], centre + focus[1], _BINS // 2)
            edges = np.sort(np.concatenate([edges[1::2], near]))[: _BINS - 1]
        of_value = np.searchsorted(edges, below, side="right")
        number = of_value[number]
        last = np.searchsorted(of_value, np.arange(_BINS), side="right") - 1
        first = np.searchsorted(of_value, np.arange(_BINS))
        return number, values[np.clip((first + last) // 2, 0, len(values) - 1)]
    return number, np.pad(values, (0, _BINS - len(values)), mode="edge")


def _focus(
    metric: Metric,
    truth: Bool[np.ndarray, " n"],
    score: Float64[np.ndarray, " n"],
    code: Int[np.ndarray, " n"],
) -> tuple[float, float] | None:
    """(threshold of a metric at a fixed rate, number of rows that a replicate may move it by: six standard errors), or None."""
    if metric.focus is None:
        return None
    counted, share = metric.focus(truth)
    if not counted.any():
        return None
    images = np.unique(code, return_counts=True)[1]
    spread = 3 * len(score) * np.sqrt((images**2).sum() / images.sum() / counted.sum())
    return float(np.quantile(score[counted], share)), float(spread)
