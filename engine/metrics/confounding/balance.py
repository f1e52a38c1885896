"""Weights that make two groups alike in their confounders: by standardisation, by the propensity or by matching.

Each method takes the rows of two groups, within one outcome class (see :mod:`equipoise.engine.metrics.confounding.gaps`), and a named
target population: the ``reference`` group, the ``group`` itself, or both ``pooled``. It returns weights under which both groups have the
target's confounders, and the share of the target that has a counterpart; the rest of the target is left out. The rows
come with whole-number weights, the draws of a bootstrap, and whatever a method estimates is estimated again for each of these draws.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import logistic

TARGETS = ("reference", "group", "pooled")
PROPENSITY = "propensity"
_STREAM = 2  # number of this stream of random numbers, beside those of the bootstrap
_CALIPER_ROUNDING = 1e-9  # share by which a distance may exceed the caliper: 55.1 − 50.1 exceeds 5 in float64

# Balanced: (balanced weights [n, b], share of the target with a counterpart [b]).
# Balancing: (weights of the rows [n, b], numbers of the replicates [b]) -> Balanced.
Balanced = tuple[Float[np.ndarray, "n b"], Float[np.ndarray, " b"]]
Balancing = Callable[[Float[np.ndarray, "n b"], Sequence[int]], Balanced]


@dataclasses.dataclass(frozen=True, repr=False)
class Confounders:
    """Attributes in which two groups are made alike.

    Attributes:
      numbers: name -> [n] finite values, in the unit of the table.
      levels: name -> ([n] number of each row's level, names of the levels).
    """

    numbers: Mapping[str, Float[np.ndarray, " n"]]
    levels: Mapping[str, tuple[Int[np.ndarray, " n"], Sequence[str]]]

    def __repr__(self) -> str:
        """Names the confounders."""
        return f"Confounders(numbers: {', '.join(self.numbers) or 'none'}; levels: {', '.join(self.levels) or 'none'})"

    def take(self, rows: Int[np.ndarray, " m"]) -> "Confounders":
        """Returns the confounders of some rows."""
        levels = {name: (code[rows], names) for name, (code, names) in self.levels.items()}
        return Confounders({name: x[rows] for name, x in self.numbers.items()}, levels)

    def features(self) -> dict[str, Float[np.ndarray, " n"]]:
        """Returns each number, and a column ``NAME=LEVEL`` of zeros and ones for each level that a row has."""
        features = {name: np.asarray(x, np.float64) for name, x in self.numbers.items()}
        for name, (code, names) in self.levels.items():
            features |= {f"{name}={names[i]}": (code == i).astype(np.float64) for i in np.unique(code)}
        return features

    def cells(self, edges: Mapping[str, Sequence[float]]) -> Int[np.ndarray, " n"]:
        """Numbers the cells of rows that are alike in all levels and in the bins of all numbers.

        Args:
          edges: name of each number -> inner edges of its bins; an edge belongs to the bin above it.

        Raises:
          UserError: if there is no confounder.
        """
        parts = [code for code, _ in self.levels.values()]
        parts += [np.searchsorted(edges[name], x, side="right") for name, x in self.numbers.items()]
        if not parts:
            raise UserError("nothing to make alike: name a confounder")
        return np.unique(np.stack(parts, axis=1), axis=0, return_inverse=True)[1].ravel()

    def design(self, powers: int) -> Float[np.ndarray, "n p"]:
        """Returns a constant, the powers of the standardised numbers, and every present level but the first, as columns."""
        columns = [np.ones(len(next(iter(self.features().values()))))]
        for x in self.numbers.values():
            centred = (x - x.mean()) / (x.std() or 1)
            columns += [centred**power for power in range(1, powers + 1)]
        for code, _ in self.levels.values():
            columns += [(code == i).astype(np.float64) for i in np.unique(code)[1:]]
        return np.stack(columns, axis=1)


class Balancer(Protocol):
    """A way to make two groups alike."""

    def prepare(
        self, confounders: Confounders, member: Bool[np.ndarray, " n"], target: str, seed: int
    ) -> Balancing:
        """Does once what is the same under all weights, and returns the function that balances weights.

        Args:
          confounders: confounders of the rows of both groups.
          member: whether each row belongs to the group and not to the reference.
          target: the target population, one of :data:`TARGETS`.
          seed: seed of the random numbers.

        Raises:
          UserError: for a target or a confounder that the method cannot take.
        """
        ...


def quantile_edges(x: Float[np.ndarray, " n"], bins: int) -> Float[np.ndarray, " e"]:
    """Returns the inner edges of bins with equal numbers of rows; there are fewer bins where values tie."""
    return np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)[1:-1]))


@dataclasses.dataclass(frozen=True)
class Standardization:
    """Direct standardisation: in both groups each stratum weighs as much as it does in the target.

    A stratum has a counterpart if both groups have a row in it.

    Attributes:
      bins: how many bins each number has, with equal numbers of rows of both groups, or the inner edges of the bins of each name. The
        part of a gap that a number causes within a bin remains.
    """

    bins: int | Mapping[str, Sequence[float]] = 5

    def prepare(
        self, confounders: Confounders, member: Bool[np.ndarray, " n"], target: str, seed: int
    ) -> Balancing:
        """See :class:`Balancer`."""
        bins = self.bins
        if isinstance(bins, int):
            bins = {name: quantile_edges(x, bins) for name, x in confounders.numbers.items()}
        missing = [name for name in confounders.numbers if name not in bins]
        if missing:
            raise UserError(f"no edges for {missing[0]!r}: give the inner edges of its bins")
        cell = confounders.cells(bins)
        places = sparse.csr_array((np.ones(len(cell)), (cell, np.arange(len(cell)))))

        def balance(counts: Float[np.ndarray, "n b"], numbers: Sequence[int]) -> Balanced:
            group, reference = places @ (counts * member[:, None]), places @ (counts * ~member[:, None])
            wanted = {"reference": reference, "group": group, "pooled": group + reference}[target]
            shared = np.where((group > 0) & (reference > 0), wanted, 0)
            of_group = np.divide(shared, group, out=np.zeros_like(group), where=group > 0)
            of_reference = np.divide(shared, reference, out=np.zeros_like(reference), where=reference > 0)
            factor = np.where(member[:, None], of_group[cell], of_reference[cell])
            return counts * factor, _share(shared.sum(axis=0), wanted.sum(axis=0))

        return balance


@dataclasses.dataclass(frozen=True)
class Weighting:
    """Inverse-propensity weighting: e is the chance of belonging to the group, given the confounders, by logistic regression.

    If the target is the reference, a row of the group weighs (1 − e) / e. If it is the group, a row of the reference weighs
    e / (1 − e). If it is both, the rows weigh 1 / e and 1 / (1 − e). A row has a counterpart if its e is within the range of the
    other group.

    Rosenbaum and Rubin, Biometrika 1983;70:41; Hirano, Imbens and Ridder, Econometrica 2003;71:1161.

    Attributes:
      powers: highest power of each number in the regression. Levels enter without products; ``view*site`` as one confounder has
        all of them.
    """

    powers: int = 2

    def prepare(
        self, confounders: Confounders, member: Bool[np.ndarray, " n"], target: str, seed: int
    ) -> Balancing:
        """See :class:`Balancer`."""
        design = confounders.design(self.powers)

        def balance(counts: Float[np.ndarray, "n b"], numbers: Sequence[int]) -> Balanced:
            logit = design @ logistic.fit(design, member.astype(np.float64), counts)
            odds = np.exp(np.clip(logit, -50, 50))
            factor = {
                "reference": np.where(member[:, None], 1 / odds, 1),
                "group": np.where(member[:, None], 1, odds),
                "pooled": np.where(member[:, None], 1 + 1 / odds, 1 + odds),
            }[target]
            within = np.zeros(counts.shape, bool)
            for side in (member, ~member):
                low, high = _range(logit[~side], counts[~side] > 0)
                within[side] = (logit[side] >= low) & (logit[side] <= high)
            aim = counts * of_target(member, target)[:, None]
            return counts * factor * within, _share((aim * within).sum(axis=0), aim.sum(axis=0))

        return balance


@dataclasses.dataclass(frozen=True)
class Matching:
    """One-to-one matching without replacement, closest pairs first; the seed decides between equally close pairs.

    Levels are matched exactly. If ``on`` names a number, that number must also be within the caliper. If ``on`` is
    ``"propensity"``, all confounders are put into one chance of belonging to the group instead, whose logit must be within the
    caliper. A row has a counterpart if it is in a pair.

    Austin, Stat Med 2014;33:1057; calipers: Austin, Pharm Stat 2011;10:150.

    Attributes:
      on: the number that the caliper applies to, ``"propensity"``, or None where all confounders are levels.
      caliper: largest distance within a pair, in the unit of the number; for the propensity in standard deviations of its logit.
      powers: highest power of each number in the regression, as in :class:`Weighting`.
    """

    on: str | None = None
    caliper: float = 0.2
    powers: int = 2

    def prepare(
        self, confounders: Confounders, member: Bool[np.ndarray, " n"], target: str, seed: int
    ) -> Balancing:
        """See :class:`Balancer`."""
        if target == "pooled":
            raise UserError(
                "matching cannot take the pooled target: each pair needs one group to match, so give target='reference' or 'group'"
            )
        free = [name for name in confounders.numbers if name != self.on]
        if free and self.on != PROPENSITY:
            raise UserError(
                f"{free[0]!r} is a number, which needs a caliper: match with on={free[0]!r} or on='propensity'"
            )
        if self.on not in (None, PROPENSITY, *confounders.numbers):
            raise UserError(
                f"on={self.on!r}: it must be one of the confounders that are numbers, or 'propensity'"
            )
        if not self.caliper >= 0:
            raise UserError(f"caliper={self.caliper}: it must be a distance, 0 or more")
        cell, design, line = np.zeros(len(member), np.int64), None, np.zeros(len(member))
        if self.on == PROPENSITY:
            design = confounders.design(self.powers)
        else:
            cell = Confounders({}, confounders.levels).cells({}) if confounders.levels else cell
            line = confounders.numbers[self.on] if self.on else line
        aimed = of_target(member, target)

        def balance(counts: Float[np.ndarray, "n b"], numbers: Sequence[int]) -> Balanced:
            place = np.broadcast_to(line[:, None], counts.shape)
            caliper = np.full(counts.shape[1], self.caliper if self.on else 0.0)
            if design is not None:
                place = design @ logistic.fit(design, member.astype(np.float64), counts)
                caliper = caliper * np.sqrt(
                    (_variance(place[member], counts[member]) + _variance(place[~member], counts[~member]))
                    / 2
                )
            kept = np.zeros(counts.shape)
            for lane, number in enumerate(numbers):
                if np.isfinite(place[:, lane]).all():
                    generator = np.random.default_rng(
                        np.random.SeedSequence(seed, spawn_key=(_STREAM, number + 1))
                    )
                    kept[:, lane] = _matched(
                        place[:, lane], cell, member, counts[:, lane], caliper[lane], generator
                    )
            return kept, _share(kept[aimed].sum(axis=0), counts[aimed].sum(axis=0))

        return balance


def unchanged(member: Bool[np.ndarray, " n"]) -> Balancing:
    """Returns the balancing without confounders: weights stay the same, and all have a counterpart if both groups have rows."""

    def balance(counts: Float[np.ndarray, "n b"], numbers: Sequence[int]) -> Balanced:
        return counts, (counts[member].any(axis=0) & counts[~member].any(axis=0)).astype(np.float64)

    return balance


def of_target(member: Bool[np.ndarray, " n"], target: str) -> Bool[np.ndarray, " n"]:
    """Whether each row is part of the target population."""
    return {"reference": ~member, "group": member, "pooled": np.ones(len(member), bool)}[target]


def _share(part: Float[np.ndarray, " b"], whole: Float[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
    """Returns part / whole, and 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)


def _range(x: Float[np.ndarray, "n b"], there: Bool[np.ndarray, "n b"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (smallest, largest) x of the rows that are there, each [b]."""
    return np.where(there, x, np.inf).min(axis=0, initial=np.inf), np.where(there, x, -np.inf).max(
        axis=0, initial=-np.inf
    )


def _variance(x: Float[np.ndarray, "n b"], weight: Float[np.ndarray, "n b"]) -> Float[np.ndarray, " b"]:
    """Returns the weighted variance over rows."""
    total = np.maximum(weight.sum(axis=0), 1)
    return (weight * (x - (weight * x).sum(axis=0) / total) ** 2).sum(axis=0) / total


def _matched(
    place: Float[np.ndarray, " n"], cell: Int[np.ndarray, " n"], member: Bool[np.ndarray, " n"], counts: Float[np.ndarray, " n"],
    caliper: float, generator: np.random.Generator,
) -> Float[np.ndarray, " n"]:  # fmt: skip
    """Counts in how many pairs each row is. The cells are laid end to end on one line, too far apart to pair."""
    reach = caliper + _CALIPER_ROUNDING * max(caliper, 1)
    line = place + cell * (np.ptp(place) + 2 * reach + 1)
    row = np.repeat(np.arange(len(line)), counts.astype(np.int64))
    order = np.lexsort((generator.random(len(row)), line[row]))
    row = row[order]
    pairs = closest_pairs(line[row], member[row], reach, generator.permutation(len(row)))
    return np.bincount(row[pairs.ravel()], minlength=len(line)).astype(np.float64)


def closest_pairs(
    line: Float[np.ndarray, " m"], member: Bool[np.ndarray, " m"], reach: float, tie: Int[np.ndarray, " m"]
) -> Int[np.ndarray, "k 2"]:
    """Pairs members with others, closest first, until no pair is left within reach.

    On a line the closest pair lies where a run of one side meets a run of the other. Such a pair may be taken at once if both are
    nearer to each other than to the nearest of the other side beyond: no pair that is taken before can bring one nearer.

    Args:
      line: places on the line, ascending.
      member: whether each place belongs to the members.
      reach: largest distance within a pair.
      tie: distinct numbers, the smallest of which decides between equally close pairs.

    Returns:
      [k, 2] indices of each pair, in the order of the line.
    """
    left, pairs = np.arange(len(line)), [np.zeros((0, 2), np.int64)]
    while True:
        x, rank = line[left], tie[left]
        at = np.flatnonzero(np.diff(member[left].astype(np.int8)))  # the last of each run but the final one
        gap = x[at + 1] - x[at]
        if not (gap <= reach).any():
            return np.concatenate(pairs)
        before, after = x[at[1:]] - x[at[:-1]], x[at[1:] + 1] - x[at[:-1] + 1]
        nearer = (gap[1:] < before) | ((gap[1:] == before) & (rank[at[1:]] < rank[at[:-1]]))
        nearer_still = (gap[:-1] < after) | ((gap[:-1] == after) & (rank[at[:-1]] < rank[at[1:]]))
        at = at[(gap <= reach) & np.insert(nearer, 0, True) & np.append(nearer_still, True)]
        pairs.append(np.stack([left[at], left[at + 1]], axis=1))
        left = np.delete(left, np.concatenate([at, at + 1]))


def standardized_differences(
    confounders: Confounders, member: Bool[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> dict[str, tuple[float, float]]:
    """Returns feature -> standardised mean difference (before, after weighting), group − reference.

    The unit is √((variance of the group + variance of the reference) / 2) before weighting (Austin, Stat Med 2009;28:3083). A
    difference above 0.1 is commonly called unbalanced.

    Args:
      confounders: confounders of the rows of both groups.
      member: whether each row belongs to the group and not to the reference.
      weights: weight of each row.
    """
    differences = {}
    for name, x in confounders.features().items():
        unit = np.sqrt((x[member].var() + x[~member].var()) / 2)
        gaps = [
            np.average(x[member], weights=w[member]) - np.average(x[~member], weights=w[~member])
            for w in (np.ones(len(x)), weights)
        ]
        differences[name] = tuple(
            float(gap / unit) if unit else 0.0 if gap == 0 else float(np.copysign(np.inf, gap))
            for gap in gaps
        )
    return differences
