"""One quantity over training runs: its mean, the spread between seeds, the spread between patients, and limits that carry both.

Runs of one method differ by their seed and are scored on the same patients. An observed score is then

    mean + seed + patients + (seed x patients),

a two-way layout with random seeds and random patients. With K runs the mean has the variance

    [s² − i]₊ / K + V,

s² being the variance between the runs as scored, V the clustered variance of the mean under drawing patients (the same for
all runs), and i the part of s² that is patients' as well: the mean variance of one run less the mean covariance of two. In
a balanced layout these are the mean squares of the analysis of variance, (MS_seeds + MS_patients − MS_residual) / (nK)
(Searle, Casella and McCulloch, Variance Components, 1992, chapter 4). Limits take Student's t with Satterthwaite's degrees of
freedom (Biometrics Bulletin 1946;2:110) and keep the two unequal sides of the patients' own limits, as MOVER does (Zou and
Donner, Stat Med 2008;27:1693). A percentile bootstrap that draws seeds and patients, the crossed one, covers 86 to
91 % of the time with 6 seeds where it says 95 %.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import special

from equipoise.engine.metrics.estimates import comparisons, intervals, percentiles
from equipoise.engine.metrics.estimates.intervals import NO_LIMITS, Estimate

_NORMAL = 1e6  # degrees of freedom from which t is the normal distribution
ONE_SEED = "one run: nothing is known of the spread between seeds"
FEW = 5  # runs below this give limits that cover less than they say where seeds matter more than patients


def combination(terms: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """Σ wᵢ·θᵢ of estimates of the same patients: a mean, a difference, a difference of differences.

    Limits by MOVER, with correlations through the patients; of bootstrapped estimates from the replicates' own sums, which needs
    replicates drawn alike. Where a term does not move (a share of 0 or 1) its correlation is unknown, and the wider limits stand.

    Args:
      terms: of one quantity each.
      weights: of each.

    Returns:
      The estimate, counting the fewest images, patients and events of any term.
    """
    weights = np.asarray(weights, np.float64)
    n, n_subjects, events = (min(getattr(e, k) for e in terms) for k in ("n", "n_subjects", "events"))
    values = np.array([e.value for e in terms])
    missing = [e for e in terms if np.isnan(e.value)]
    if missing:
        many = f"undefined in {len(missing)} of {len(terms)}: " if len(terms) > 1 else ""
        return intervals.undefined(many + (missing[0].reason or "undefined"), n, n_subjects, events)
    value = float(weights @ values)
    reason = next((e.reason for e in terms if e.reason), None)
    replicates = [e.replicates for e in terms]
    if all(r is not None for r in replicates):
        total = sum(w * r for w, r in zip(weights, replicates, strict=True))
        found = percentiles.bootstrap(value, total, n, n_subjects, events)
        return dataclasses.replace(found, reason=reason or found.reason)
    signs = np.sign(np.outer(weights, weights))
    shared = signs * _correlations(terms, signs)
    spread = np.abs(weights) * [e.se for e in terms]

    def limits(confidence: float) -> tuple[float, float]:
        ends = np.array([e.limits(confidence) for e in terms])
        sides = np.stack([values - ends[:, 0], ends[:, 1] - values]) * np.abs(weights)
        down, up = np.where(weights < 0, sides[::-1], sides)
        return value - _root(down @ shared @ down), value + _root(up @ shared @ up)

    owners = [e.influence or (np.zeros(0, np.int64), np.zeros(0)) for e in terms]
    who, place = np.unique(np.concatenate([o[0] for o in owners]), return_inverse=True)
    pull = np.concatenate([w * o[1] for w, o in zip(weights, owners, strict=True)])
    influence = who, np.bincount(place, pull, len(who))
    method = f"MOVER on {terms[0].method}" if len(terms) > 1 else terms[0].method
    se = _root(spread @ shared @ spread)
    return Estimate(value, n, n_subjects, events, se, method, limits, influence, reason=reason)


def _root(square: float) -> float:
    return float(np.sqrt(np.maximum(square, 0)))


def _correlations(terms: Sequence[Estimate], signs: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Of the terms through patients; of a term that does not move 1 with what is added to it, 0 with what is taken from it."""
    found = comparisons.correlations(terms)
    still = np.array([not (e.influence and np.any(e.influence[1])) for e in terms])
    unknown = still[:, None] | still
    found[unknown] = signs[unknown] > 0
    np.fill_diagonal(found, 1)
    return found


@dataclasses.dataclass(frozen=True)
class OverSeeds:
    """A quantity over the runs of a method.

    Attributes:
      estimate: the mean over runs; its limits carry the choice of seeds and of patients.
      sample: the same mean; its limits carry the choice of patients alone, and speak of these runs only.
      values: of each run.
      seed_sd: standard deviation between the runs, all scored on these patients; NaN of a single run.
      sample_sd: standard deviation of one run's value over draws of the patients, the root mean square of the runs'.
      freedom: Satterthwaite's degrees of freedom of the limits.
      variance_seed: of the seed alone, s² − i, at least 0.
      variance_patients: shared by the runs, the mean covariance of two; as any such estimate it may come out below 0.
      variance_both: i, what a draw of patients does to one run and not to another.
    """

    estimate: Estimate
    sample: Estimate
    values: tuple[float, ...]
    seed_sd: float
    sample_sd: float
    freedom: float = math.nan
    variance_seed: float = math.nan
    variance_patients: float = math.nan
    variance_both: float = math.nan

    @property
    def p(self) -> float:
        """Two-sided p of the mean being 0, by t; below .05 exactly where the 95 % limits exclude 0."""
        value, (low, high) = self.estimate.value, self.estimate.limits(0.95)
        side = value - low if value > 0 else high - value
        if np.isnan(side) or side == 0:
            return math.nan if np.isnan(side) else float(value == 0)
        t = abs(value) / side * _quantile(self.freedom, 0.975)
        return float(2 * (special.stdtr(self.freedom, -t) if self.freedom < _NORMAL else special.ndtr(-t)))


def _quantile(freedom: float, share: float) -> float:
    return float(special.stdtrit(freedom, share) if freedom < _NORMAL else special.ndtri(share))


def over_seeds(runs: Sequence[Estimate], bounds: tuple[float, float] = (-np.inf, np.inf)) -> OverSeeds:
    """The mean of a quantity over runs, and what moves it.

    Args:
      runs: the quantity of each run, on the same patients, with replicates drawn alike.
      bounds: the smallest and largest possible value; limits stay within.
    """
    number = len(runs)
    sample = combination(runs, np.full(number, 1 / number))
    values = np.array([e.value for e in runs])
    variances = np.array([e.se for e in runs]) ** 2
    sample_sd = _root(variances.mean())
    if number < 2:
        estimate = dataclasses.replace(sample, limits=lambda _: NO_LIMITS, reason=ONE_SEED)
        return OverSeeds(estimate, sample, tuple(values), math.nan, sample_sd)
    between = float(values.var(ddof=1))
    # The variance of a mean is the mean of all K² covariances, of which K are variances.
    together = float((number * sample.se**2 - variances.mean()) / (number - 1))
    both = max(float(variances.mean() - together), 0.0)
    seed = max(between - both, 0.0)
    variance = seed / number + sample.se**2
    freedom = (number - 1) * (variance * number / between) ** 2 if between > 0 else np.inf

    def limits(confidence: float) -> tuple[float, float]:
        low, high = sample.limits(confidence)
        z = special.ndtri(0.5 + confidence / 2)
        t = _quantile(freedom, 0.5 + confidence / 2)
        down, up = (
            t * _root((side / z) ** 2 + seed / number) for side in (sample.value - low, high - sample.value)
        )
        return float(np.clip(sample.value - down, *bounds)), float(np.clip(sample.value + up, *bounds))

    method = f"variance components over {number} seeds, t; patients: {sample.method}"
    reason = sample.reason or (
        f"{number} runs are few: the limits may cover less than they say" if number < FEW else None
    )
    se = _root(variance)
    estimate = dataclasses.replace(
        sample, se=se, limits=limits, method=method, influence=None, replicates=None, reason=reason
    )
    return OverSeeds(
        estimate, sample, tuple(values), _root(between), sample_sd, freedom, seed, together, both
    )


def largest_difference(
    levels: Sequence[Sequence[Estimate]], confidence: float = 0.95
) -> tuple[float, float, float]:
    """(largest − smallest of the levels' means over runs, low, high): all pairs of levels with Bonferroni's level.

    :func:`equipoise.engine.metrics.estimates.comparisons.max_min` with limits of each pair that carry the seeds: [max(0, max L), max |U|]. A run's
    levels move together from seed to seed, which the pairs' own differences allow for.

    Args:
      levels: of each level the runs' estimates, runs in one order.
      confidence: of the limits.
    """
    number = len(levels)
    means = [np.mean([e.value for e in runs]) for runs in levels]
    each = 1 - 2 * (1 - confidence) / (number * (number - 1))
    lows, highs = [], []
    for i in range(number):
        for j in range(i):
            apart = [combination(pair, (1, -1)) for pair in zip(levels[i], levels[j], strict=True)]
            low, high = over_seeds(apart).estimate.limits(each)
            lows += [low, -high]
            highs += [high, -low]
    spread = float(max(means) - min(means))
    if not np.isfinite(lows + highs).all():
        return spread, *NO_LIMITS
    return spread, max(0.0, *lows), max(highs)


def shared_limits(apart: Sequence[OverSeeds], confidence: float = 0.95) -> tuple[float, float]:
    """Limits of (worst level of one method − worst level of another): [min L, max U] of the levels' differences, Bonferroni.

    Where each level of the first lies between L and U above the same level of the second, so do the two minima, and the two
    maxima, whichever levels they are of.

    Args:
      apart: differences of the two methods, level by level.
      confidence: of the limits.
    """
    each = 1 - (1 - confidence) / len(apart)
    ends = np.array([o.estimate.limits(each) for o in apart])
    return (float(ends[:, 0].min()), float(ends[:, 1].max())) if np.isfinite(ends).all() else NO_LIMITS
