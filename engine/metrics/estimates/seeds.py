"""One quantity over training runs: its mean, its spread between seeds and between patients, and limits that carry both.

Runs of one method differ by their seed and are scored on the same patients. An observed score is then

    mean + seed + patients + (seed x patients),

a two-way layout with random seeds and random patients. With K runs the mean has the variance

    [s² − i]₊ / K + V,

Here s² is the variance between the runs as scored. V is the clustered variance of the mean over draws of patients, who are the
same for all runs. i is the part of s² that patients cause too: the mean variance of one run minus the mean covariance of two.
In a balanced layout the sum is that of the mean squares of the analysis of variance, (MS_seeds + MS_patients − MS_residual) / (nK)
(Searle, Casella and McCulloch, Variance Components, 1992, chapter 4). The limits take Student's t with Satterthwaite's degrees of
freedom (Biometrics Bulletin 1946;2:110) and keep the two unequal sides of the patients' own limits, as MOVER does (Zou and
Donner, Stat Med 2008;27:1693). The crossed percentile bootstrap, which draws seeds and patients, covers 86 to 91 % of the time with
6 seeds, where it says 95 %.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import special

from equipoise.engine.metrics.estimates import comparisons, intervals, percentiles
from equipoise.engine.metrics.estimates.intervals import NO_LIMITS, Estimate

_NORMAL = 1e6  # from so many degrees of freedom on, t is taken as the normal distribution
ONE_SEED = "one run: nothing is known of the spread between seeds"
FEW = 5  # with fewer runs limits cover less than they say where seeds matter more than patients


def combination(terms: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """Returns Σ wᵢ·θᵢ of estimates on the same patients, such as a mean, a difference or a difference of differences.

    The limits are MOVER's, with the correlations through the patients. If all terms are bootstrapped, the limits come from the
    weighted sums of their replicates, which must be drawn alike. A term that does not move (a share of 0 or 1) has an unknown
    correlation; it is given the one that makes the limits wider.

    Args:
      terms: θᵢ.
      weights: wᵢ.

    Returns:
      The estimate. Its counts are the fewest images, patients and events of any term.
    """
    weights = np.asarray(weights, np.float64)
    n, n_subjects, events = (min(getattr(e, k) for e in terms) for k in ("n", "n_subjects", "events"))
    values = np.array([e.value for e in terms])
    missing = [e for e in terms if np.isnan(e.value)]
    if missing:
        how_many = f"undefined in {len(missing)} of {len(terms)}: " if len(terms) > 1 else ""
        return intervals.undefined(how_many + (missing[0].reason or "undefined"), n, n_subjects, events)
    value = float(weights @ values)
    reason = next((e.reason for e in terms if e.reason), None)
    replicates = [e.replicates for e in terms]
    if all(r is not None for r in replicates):
        total = sum(w * r for w, r in zip(weights, replicates, strict=True))
        estimate = percentiles.bootstrap(value, total, n, n_subjects, events)
        return dataclasses.replace(estimate, reason=reason or estimate.reason)
    signs = np.sign(np.outer(weights, weights))
    shared = signs * _correlations(terms, signs)
    spread = np.abs(weights) * [e.se for e in terms]

    def limits(confidence: float) -> tuple[float, float]:
        ends = np.array([e.limits(confidence) for e in terms])
        sides = np.stack([values - ends[:, 0], ends[:, 1] - values]) * np.abs(weights)
        down, up = np.where(weights < 0, sides[::-1], sides)
        return value - _root(down @ shared @ down), value + _root(up @ shared @ up)

    influences = [e.influence or (np.zeros(0, np.int64), np.zeros(0)) for e in terms]
    patients, place = np.unique(np.concatenate([codes for codes, _ in influences]), return_inverse=True)
    parts = np.concatenate([w * part for w, (_, part) in zip(weights, influences, strict=True)])
    influence = patients, np.bincount(place, parts, len(patients))
    method = f"MOVER on {terms[0].method}" if len(terms) > 1 else terms[0].method
    se = _root(spread @ shared @ spread)
    return Estimate(value, n, n_subjects, events, se, method, limits, influence, reason=reason)


def _root(square: float) -> float:
    """Returns the square root, and 0 of what rounding has made negative."""
    return float(np.sqrt(np.maximum(square, 0)))


def _correlations(terms: Sequence[Estimate], signs: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Returns the correlations of the terms through patients.

    A term that does not move is given 1 with the terms that are added to it and 0 with those that are taken from it.
    """
    correlated = comparisons.correlations(terms)
    still = np.array([not (e.influence and np.any(e.influence[1])) for e in terms])
    unknown = still[:, None] | still
    correlated[unknown] = signs[unknown] > 0
    np.fill_diagonal(correlated, 1)
    return correlated


@dataclasses.dataclass(frozen=True)
class OverSeeds:
    """A quantity over the runs of a method.

    Attributes:
      estimate: the mean over runs. Its limits allow for the choice of seeds and of patients.
      sample: the same mean. Its limits allow for the choice of patients alone and hold for these runs only.
      values: the value of each run.
      seed_sd: standard deviation between the runs, all scored on these patients; NaN for a single run.
      sample_sd: standard deviation of one run's value over draws of the patients: the root mean square over the runs.
      freedom: Satterthwaite's degrees of freedom of the limits.
      variance_seed: variance that the seed alone causes: s² − i, at least 0.
      variance_patients: variance that the runs share: the mean covariance of two. The estimate may be below 0.
      variance_both: i, the variance that a draw of patients causes in one run and not in another.
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
        """Two-sided p value of a mean of 0, by t; it is below .05 exactly where the 95 % limits exclude 0."""
        value, (low, high) = self.estimate.value, self.estimate.limits(0.95)
        side = value - low if value > 0 else high - value
        if np.isnan(side) or side == 0:
            return math.nan if np.isnan(side) else float(value == 0)
        t = abs(value) / side * _quantile(self.freedom, 0.975)
        return float(2 * (special.stdtr(self.freedom, -t) if self.freedom < _NORMAL else special.ndtr(-t)))


def _quantile(freedom: float, share: float) -> float:
    """Returns a quantile of Student's t, or of the normal distribution for very many degrees of freedom."""
    return float(special.stdtrit(freedom, share) if freedom < _NORMAL else special.ndtri(share))


def over_seeds(runs: Sequence[Estimate], bounds: tuple[float, float] = (-np.inf, np.inf)) -> OverSeeds:
    """Returns the mean of a quantity over runs, with the variance that seeds and patients cause.

    Args:
      runs: the quantity in each run, on the same patients, with replicates drawn alike.
      bounds: the smallest and the largest possible value, within which the limits stay.
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
    """Returns (largest − smallest of the levels' means over runs, low, high).

    The limits are [max(0, max L), max |U|] of all pairs of levels at Bonferroni's level, as in
    :func:`equipoise.engine.metrics.estimates.comparisons.max_min`. L and U allow for the seeds, and for the fact that the levels of a run move
    together from seed to seed, because they are limits of each pair's own difference.

    Args:
      levels: for each level the estimates of the runs, always in the same order of runs.
      confidence: confidence of the limits.
    """
    number = len(levels)
    means = [np.mean([e.value for e in runs]) for runs in levels]
    confidence_of_each = 1 - 2 * (1 - confidence) / (number * (number - 1))
    lows, highs = [], []
    for i in range(number):
        for j in range(i):
            differences = [combination(pair, (1, -1)) for pair in zip(levels[i], levels[j], strict=True)]
            low, high = over_seeds(differences).estimate.limits(confidence_of_each)
            lows += [low, -high]
            highs += [high, -low]
    spread = float(max(means) - min(means))
    if not np.isfinite(lows + highs).all():
        return spread, *NO_LIMITS
    return spread, max(0.0, *lows), max(highs)


def shared_limits(differences: Sequence[OverSeeds], confidence: float = 0.95) -> tuple[float, float]:
    """Returns limits of (worst level of one method − worst level of another).

    They are [min L, max U] of the differences level by level, at Bonferroni's level. If each level of the first method lies
    between L and U above the same level of the second, so does the minimum of the first above that of the second, and so does the
    maximum, whichever levels these are.

    Args:
      differences: first method − second method, level by level.
      confidence: confidence of the limits.
    """
    confidence_of_each = 1 - (1 - confidence) / len(differences)
    ends = np.array([d.estimate.limits(confidence_of_each) for d in differences])
    return (float(ends[:, 0].min()), float(ends[:, 1].max())) if np.isfinite(ends).all() else NO_LIMITS
