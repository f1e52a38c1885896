"""Studentised permutation tests of differences between groups: whole patients change groups, images never part.

The statistic is difference / SE. The SE is clustered by patient and computed anew in every permutation. A raw difference would
test that the groups are alike in everything: its level is wrong as soon as prevalence or spread differ. The studentised one is
exact where groups are alike and, where unlike groups have equal scores, right in large samples (Janssen, Stat Probab Lett
1997;36:9; Chung and Romano, Ann Stat 2013;41:484).

A patient's images of one level are a unit. Patients of a single level have one unit, and exchange levels among each other. A
patient with images in several levels (views, sites) has a unit for each of them and exchanges levels among these units alone: with
two levels that is the paired test, which swaps both or not. The SE counts the covariance through such patients.

Where one group has few events and its permutations have many, tails differ in shape too. So AUROCs are compared on the logit scale, as
their limits are, and every statistic is brought from Student's t to a normal score by Welch's degrees of freedom, anew in every
permutation (prepivoting: Beran, JASA 1988;83:687).
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse, special

from equipoise.engine.metrics.formulas import multiclass
from equipoise.engine.metrics.formulas.metric import Columns, Metric, per_image
from equipoise.engine.metrics.resampling import bootstrap as resample
from equipoise.engine.metrics.resampling.weighing import LANES, Sets

_DEALS = 2  # stream of random numbers, beside those of the bootstrap
_GROUPS = 20  # groups of patients that a jackknife leaves out in turn
_ELEMENTS = 1 << 22  # elements of an intermediate array
_Z = float(special.ndtri(0.975))


class Units:
    """Units: the images of one patient in one level, those of patients with a single unit first.

    Attributes:
      row: [n] unit of each row.
      level: [units] observed level of each unit.
      alone: number of patients with a single unit.
      patients: number of patients: those of the first ``alone`` units, then those with several units.
    """

    def __init__(self, code: Int[np.ndarray, " n"], level: Int[np.ndarray, " n"]):
        pairs, row = np.unique(np.stack([code, level]), axis=1, return_inverse=True)
        _, owner, count = np.unique(pairs[0], return_inverse=True, return_counts=True)
        order = np.argsort(count[owner] > 1, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        self.row, self.level = place[row.ravel()], pairs[1][order]
        self.alone = int((count == 1).sum())
        _, shared = np.unique(owner[order][self.alone :], return_inverse=True)
        self.patients = len(count)
        self._shared = shared
        entries = np.ones(len(shared)), (shared, np.arange(len(shared)))
        self._merge = sparse.csr_array(entries, shape=(self.patients - self.alone, len(shared)))

    def deal(self, first: int, count: int, seed: int) -> Int[np.ndarray, "units count"]:
        """Deals out levels: those of the units in permutations ``first`` to ``first + count - 1``, each with its own generator."""
        dealt = np.empty((count, len(self.level)), self.level.dtype)
        single, several = self.level[: self.alone], self.level[self.alone :]
        for levels, number in zip(dealt, range(first, first + count), strict=True):
            stream = np.random.SeedSequence(seed, spawn_key=(_DEALS, number))
            generator = np.random.Generator(np.random.PCG64(stream))
            levels[: self.alone] = generator.permutation(single)
            levels[self.alone :] = several[np.argsort(self._shared + generator.random(len(several)))]
        return np.ascontiguousarray(dealt.T)

    def sums(self, value: Float[np.ndarray, " n"], rows: Int[np.ndarray, " k"]) -> sparse.csr_array:
        """[units, k]: what each of k rows adds to its unit."""
        entries = value, (self.row[rows], np.arange(len(rows)))
        return sparse.csr_array(entries, shape=(len(self.level), len(rows)))

    def of_patients(self, value: Float[np.ndarray, "units b"]) -> Float[np.ndarray, "patients b"]:
        """Sums over the units of each patient."""
        if self.alone == self.patients:
            return value
        return np.concatenate([value[: self.alone], self._merge @ value[self.alone :]])

    def count(
        self, has: Bool[np.ndarray, " units"], inside: Bool[np.ndarray, "units b"]
    ) -> Float[np.ndarray, " b"]:
        """The number of patients with a unit inside that has what is asked."""
        number = has[: self.alone].astype(np.float32) @ inside[: self.alone].astype(np.float32)
        if self.alone < self.patients:
            number = number + (
                (self._merge @ (inside & has[:, None])[self.alone :].astype(np.float64)) > 0
            ).sum(axis=0)
        return number.astype(np.float64)


@dataclasses.dataclass(frozen=True)
class Scores:
    """A score of one set of units under each permutation.

    Attributes:
      value: the score; NaN where undefined.
      se: standard error, clustered by patient.
      size: root of the summed squares of what each patient adds to the error.
      shared: what each patient with several units adds to the error.
      freedom: degrees of freedom of the SE.
    """

    value: Float[np.ndarray, " b"]
    se: Float[np.ndarray, " b"]
    size: Float[np.ndarray, " b"]
    shared: Float[np.ndarray, "q b"]
    freedom: Float[np.ndarray, " b"]

    def studentised(self, other: "Scores") -> Float[np.ndarray, " b"]:
        """Normal score of (self − other) / SE; 0 where nothing differs and nothing varies, NaN where undefined."""
        common = (self.shared * other.shared).sum(axis=0)
        product = self.size * other.size
        correlated = np.divide(common, product, out=np.zeros_like(common), where=product > 0)
        square = self.se**2 + other.se**2 - 2 * correlated * self.se * other.se
        gap = self.value - other.value
        # Rounding leaves a trace where two scores vary together.
        se = np.sqrt(np.where(square > 1e-12 * (self.se**2 + other.se**2), square, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where((gap == 0) & (se == 0), 0.0, gap / se)
            parts = [(s.se**2, s.se**4 / np.maximum(s.freedom, 1)) for s in (self, other)]
            freedom = (parts[0][0] + parts[1][0]) ** 2 / (parts[0][1] + parts[1][1])
        freedom = np.where(np.isfinite(freedom), freedom, np.inf)  # nothing varies
        return -np.sign(ratio) * special.ndtri(special.stdtr(freedom, -np.abs(ratio)))


Scored = Callable[[Bool[np.ndarray, "units b"]], Scores]


def _share(metric: Metric, columns: Columns, units: Units) -> Scored:
    """A proportion of images, with the SE of :func:`intervals.proportion`."""
    success = per_image(metric, columns)
    rows = np.flatnonzero(np.isfinite(success))
    x, m = (units.sums(v, rows).sum(axis=1) for v in (success[rows], np.ones(len(rows))))
    has = m > 0

    def of(inside: Bool[np.ndarray, "units b"]) -> Scores:
        weight = inside.astype(np.float64)
        n, patients = m @ weight, units.count(has, inside)
        some = np.where(n > 0, n, np.nan)
        p = (x @ weight) / some
        residual = units.of_patients(weight * (x[:, None] - p * m[:, None]))
        square = np.einsum("ib,ib->b", residual, residual)
        images = units.of_patients(weight * m[:, None])
        ceiling = np.einsum("ib,ib->b", images, images) / some
        varies = (p > 0) & (p < 1)
        spread = np.where(varies, p * (1 - p) / some, 1)
        clustered = patients / np.maximum(patients - 1, 1) * square / some**2 / spread
        deff = np.where(varies & (patients > 1), np.clip(clustered, 1, np.maximum(ceiling, 1)), ceiling)
        effective = some / deff
        # A share of 0 or 1: half the width of Wilson's interval, in units of its quantile.
        edge = 1 / (2 * effective * (1 + _Z**2 / effective)) * _Z
        se = np.where(varies, np.sqrt(p * (1 - p) / effective), edge)
        return Scores(p, se, np.sqrt(square) / some, residual[units.alone :] / some, patients - 1)

    return of


def _sums(metric: Metric, columns: Columns, units: Units) -> Scored:
    """A function of sums, with the SE of its linear part (the delta method), summed by patient."""
    rows = np.arange(len(units.row))
    parts = np.stack([units.sums(columns[name], rows).sum(axis=1) for name in metric.components])
    anyone = np.ones(len(units.level), bool)
    of_sums = lambda sums: metric.of_sums(dict(zip(metric.components, sums, strict=True)))  # noqa: E731
    slopes = jax.jit(jax.grad(lambda sums: jnp.sum(of_sums(sums))))

    def of(inside: Bool[np.ndarray, "units b"]) -> Scores:
        weight = inside.astype(np.float64)
        sums, patients = parts @ weight, units.count(anyone, inside)
        value = np.asarray(of_sums(sums))
        with jax.enable_x64(True):
            slope = np.asarray(slopes(sums))
        influence = units.of_patients(weight * (parts.T @ slope))
        square = np.einsum("ib,ib->b", influence, influence)
        se = np.sqrt(np.where(patients > 1, patients / np.maximum(patients - 1, 1), np.nan) * square)
        return Scores(value, se, np.sqrt(square), influence[units.alone :], patients - 1)

    return of


def _area(columns: Columns, units: Units) -> Scored:
    """The logit of the AUROC with Obuchowski's variance (:func:`intervals.area_covariance`); rows are sorted once for all permutations."""
    truth, score = np.asarray(columns["truth"], bool), np.asarray(columns["score"], np.float64)
    rows = [
        chosen[np.argsort(score[chosen], kind="stable")] for chosen in map(np.flatnonzero, (truth, ~truth))
    ]
    sides = []
    for this, other in (rows, rows[::-1]):
        ends = [np.searchsorted(score[other], score[this], side) for side in ("left", "right")]
        merge = units.sums(np.ones(len(this)), this)
        sides.append((units.row[this], ends, merge, merge.sum(axis=1)))
    anyone = np.ones(len(units.level), bool)
    grow = lambda i: i / np.where(i > 1, i - 1, np.nan)  # noqa: E731

    def of(inside: Bool[np.ndarray, "units b"]) -> Scores:
        weight = inside.astype(np.float64)
        here = [inside[row] for row, *_ in sides]
        total = [np.where(n > 0, n, np.nan) for n in (images @ weight for *_, images in sides)]
        below = [np.zeros((len(w) + 1, w.shape[1]), np.int32) for w in here]
        for running, w in zip(below, here, strict=True):
            np.cumsum(w, axis=0, dtype=np.int32, out=running[1:])
        sums = []
        for number, (_, (low, high), merge, _) in enumerate(sides):
            # Twice the images of the other class that score less, ties counting half; whole numbers.
            twice = below[1 - number][low] + below[1 - number][high]
            sums.append(merge @ (twice * here[number]).astype(np.float64) / (2 * total[1 - number]))
        value = sums[0].sum(axis=0) / total[0]
        images = [number[:, None] * weight for *_, number in sides]
        a = units.of_patients(sums[0] - value * images[0]) / total[0]
        b = units.of_patients((1 - value) * images[1] - sums[1]) / total[1]
        i10, i01 = (units.count(number > 0, inside) for *_, number in sides)
        aa, bb, ab = (np.einsum("ib,ib->b", x, y) for x, y in ((a, a), (b, b), (a, b)))
        variance = grow(i10) * aa + grow(i01) * bb + 2 * grow(units.count(anyone, inside)) * ab
        se, size = (np.sqrt(np.maximum(x, 0)) for x in (variance, aa + bb + 2 * ab))
        held = np.clip(value, 0.5 / (total[0] * total[1]), 1 - 0.5 / (total[0] * total[1]))
        freedom = np.minimum(i10, i01) - 1
        return Scores(special.logit(held), se / (held * (1 - held)), size, (a + b)[units.alone :], freedom)

    return of


def _by_jackknife(
    metric: Metric, columns: Columns, units: Units, code: np.ndarray, classes: Sequence[str], averaged: Sequence[str] | None
) -> Scored:  # fmt: skip
    """Any other score, with the SE of leaving out each of :data:`_GROUPS` groups of patients (Shao and Tu, The Jackknife, 1995, 2.3)."""
    sets = Sets([np.zeros(len(code), np.int64)], [1])
    weigh = resample.weigher(metric, columns, sets, units.row, len(units.level), classes, averaged)
    part = np.zeros(len(units.level), np.int64)
    part[units.row] = np.unique(code, return_inverse=True)[1] % _GROUPS

    def of(inside: Bool[np.ndarray, "units b"]) -> Scores:
        padded = np.zeros((_GROUPS + 1, len(inside) + 1, inside.shape[1]), np.uint8)
        padded[:, :-1] = inside
        for number, kept in enumerate(padded[1:, :-1]):
            kept[part == number] = 0
        values = weigh(np.concatenate(padded, axis=1))[0].reshape(_GROUPS + 1, -1)
        value, left = values[0], values[1:]
        deviation = (left - left.mean(axis=0)) * np.sqrt((_GROUPS - 1) / _GROUPS)
        se = np.sqrt((deviation**2).sum(axis=0))
        return Scores(value, se, se, deviation, np.full(len(se), _GROUPS - 1.0))

    return of


def _scored(
    name: str, columns: Columns, units: Units, code: np.ndarray, classes: Sequence[str], averaged: Sequence[str] | None
) -> Scored:  # fmt: skip
    """A metric as a function of which units are inside, with the SE that suits it."""
    metric = resample.require_smooth(name, classes, averaged)
    part = name.partition(":")[2]
    if metric.kind == "proportion":
        return _share(metric, columns, units)
    if metric.of_sums:
        return _sums(metric, columns, units)
    if metric.kind == "area":
        return _area(multiclass.one_against_rest(columns, classes.index(part)) if part else columns, units)
    return _by_jackknife(metric, columns, units, code, classes, averaged)


@dataclasses.dataclass(frozen=True)
class Permuted:
    """Statistics of several differences, as observed and in the same permutations.

    Attributes:
      observed: normal score of difference / SE of each difference.
      permuted: the same in every permutation, side by side; NaN where a permutation leaves a score undefined.
    """

    observed: Float[np.ndarray, " m"]
    permuted: Float[np.ndarray, "m b"]


def permute(
    columns: Columns,
    metrics: Sequence[str],
    code: Int[np.ndarray, " n"],
    level: Int[np.ndarray, " n"],
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    permutations: int = 2000,
    seed: int = 0,
    classes: Sequence[str] = (),
    averaged: Sequence[str] | None = None,
) -> Permuted:
    """Computes studentised differences of every metric between every pair of sets of levels, observed and permuted.

    Args:
      columns: columns of any task, with what each image adds to sums (:func:`equipoise.engine.metrics.formulas.registry.components`).
      metrics: names of smooth metrics.
      code: patient of each row, from :func:`equipoise.engine.metrics.estimates.intervals.subject_codes`.
      level: level of each row, from 0; rows below 0 take no part.
      pairs: (levels of one side, levels of the other), without a level in common.
      permutations: number of permutations.
      seed: equal seeds give equal permutations.
      classes: as for :func:`equipoise.engine.metrics.formulas.registry.get`.
      averaged: as for the same function.

    Returns:
      The differences, metric by metric and within each pair by pair.

    Raises:
      UserError: for a metric that is an extreme, is moved by chance alone, or is unknown.
    """
    kept = np.flatnonzero(level >= 0)
    columns, code, level = {k: v[kept] for k, v in columns.items()}, code[kept], level[kept]
    units = Units(code, level)
    scored = [_scored(name, columns, units, code, classes, averaged) for name in metrics]
    sides = list(dict.fromkeys(tuple(side) for pair in pairs for side in pair))

    def statistics(levels: Int[np.ndarray, "units b"]) -> Float[np.ndarray, "m b"]:
        inside = [np.isin(levels, side) for side in sides]
        differences = []
        for of in scored:
            scores = dict(zip(sides, map(of, inside), strict=True))
            differences += [scores[tuple(a)].studentised(scores[tuple(b)]) for a, b in pairs]
        return np.stack(differences)

    width = int(np.clip(_ELEMENTS // len(code), 1, LANES))
    drawn = [
        statistics(units.deal(start, min(width, permutations - start), seed))
        for start in range(0, permutations, width)
    ]
    return Permuted(statistics(units.level[:, None])[:, 0], np.concatenate(drawn, axis=1))
