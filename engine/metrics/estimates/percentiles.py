"""Limits and p values from the replicates of a bootstrap: percentiles, which are expanded for few patients, or BCa."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Num
from scipy import special

from equipoise.engine.metrics.estimates.intervals import NO_LIMITS, SMALLEST_P, Estimate, undefined

_MIN_VALID = 0.8  # limits are given where the score exists in at least this share of the resamples
_MIN_TAIL = 5  # a quantile is taken where at least this many resamples lie beyond it


def limits_of(
    value: float,
    replicates: Float[np.ndarray, " b"],
    confidence: float = 0.95,
    left_out: tuple[Float[np.ndarray, " c"], Num[np.ndarray, " c"]] | None = None,
    freedom: float = float("inf"),
) -> tuple[float, float]:
    """Returns the percentile limits of a bootstrap or, with leave-one-patient-out values, its BCa limits (Efron, JASA 1987;82:171).

    Replicates of I patients spread too little, by a factor of √((I − 1) / I), and have normal tails where those of a t
    distribution are due. The limits are therefore expanded percentiles (Hesterberg, Am Stat 2015;69:371, section 4.1): quantiles
    of the replicates at Φ(±t · √(I / (I − 1))). Where fewer than five replicates would lie beyond a limit (at high confidence, with
    few replicates or few patients), the limit is t · √(I / (I − 1)) standard deviations of the replicates away instead.

    BCa takes the quantiles at α(z) = Φ(z0 + (z0 + z) / (1 − a(z0 + z))), with z0 = Φ⁻¹(share of replicates below the value, a
    tie counting half) and a = Σd³ / (6 (Σd²)^1.5), d being the mean of the leave-one-out values minus each of them.

    Args:
      value: the score of the sample.
      replicates: the score of each resample; NaN where it is undefined.
      confidence: confidence of the limits.
      left_out: (score without some patient, number of patients that each such score stands for).
      freedom: I − 1.

    Returns:
      (low, high); NaN where fewer than four in five replicates exist, or where a leave-one-out value does not exist.
    """
    finite = replicates[np.isfinite(replicates)]
    if not len(finite) or len(finite) < _MIN_VALID * len(replicates) or freedom < 1:
        return NO_LIMITS
    bound = special.ndtri(0.5 + confidence / 2)
    if np.isfinite(freedom):
        bound = special.stdtrit(freedom, 0.5 + confidence / 2) * np.sqrt((freedom + 1) / freedom)
    bounds = np.array([-bound, bound])
    tails = special.ndtr(bounds)
    if tails[0] * len(finite) < _MIN_TAIL:
        low, high = value + bounds * finite.std()
        return float(low), float(high)
    if left_out is not None:
        values, count = left_out
        deviations = np.average(values, weights=count) - values
        spread = (count * deviations**2).sum()
        skew = (count * deviations**3).sum() / (6 * spread**1.5) if spread else 0.0
        shift = special.ndtri(((finite < value).mean() + (finite <= value).mean()) / 2)
        if not np.isfinite(shift):  # every replicate on one side of the value
            return NO_LIMITS
        z = shift + bounds
        tails = special.ndtr(shift + z / (1 - skew * z))
    if not np.isfinite(tails).all():
        return NO_LIMITS
    low, high = np.quantile(finite, tails)
    return float(low), float(high)


def p_value(value: float, replicates: Float[np.ndarray, " b"], freedom: float = float("inf")) -> float:
    """Returns the two-sided p value of 0: the level at which the percentile limits of :func:`limits_of` just reach 0.

    Args:
      value: the score of the sample.
      replicates: the score of each resample; NaN where it is undefined.
      freedom: number of patients minus 1.
    """
    finite = replicates[np.isfinite(replicates)]
    if not len(finite) or len(finite) < _MIN_VALID * len(replicates) or freedom < 1:
        return math.nan
    beyond = int(min((finite <= 0).sum(), (finite >= 0).sum()))
    bound = -special.ndtri(min((1 + max(beyond, _MIN_TAIL - 1)) / (len(finite) + 1), 0.5))
    if beyond < _MIN_TAIL:
        spread = finite.std()
        bound = max(bound, abs(value) / spread if spread else np.inf)
    tail = special.ndtr(-bound)
    if np.isfinite(freedom):
        tail = special.stdtr(freedom, -bound * np.sqrt(freedom / (freedom + 1)))
    return float(max(2 * tail, SMALLEST_P))


def bootstrap(
    value: float,
    replicates: Float[np.ndarray, " b"],
    n: int,
    n_subjects: int,
    events: int,
    undefined_when: str = "undefined",
    left_out: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    freedom: float | None = None,
) -> Estimate:
    """Makes the estimate of a smooth score from its replicates (:class:`equipoise.engine.metrics.resampling.bootstrap.Bootstrap`).

    Args:
      value: the score of the sample.
      replicates: the score of each resample; NaN where it does not exist.
      n: number of images.
      n_subjects: number of patients.
      events: number of truly positive images.
      undefined_when: words that say when the score has no value.
      left_out: function that returns (scores without each patient, number of patients that each stands for); with it the limits
        are BCa.
      bounds: the smallest and the largest possible value, within which the limits stay.
      freedom: number of patients of the rarer class minus 1; by default number of all patients minus 1.
    """
    if np.isnan(value):
        return undefined(undefined_when, n, n_subjects, events)
    missing = int((~np.isfinite(replicates)).sum())
    reason = f"{missing} of {len(replicates)} resamples are undefined ({undefined_when})" if missing else None
    freedom = n_subjects - 1 if freedom is None else freedom
    if n_subjects < 2:
        return dataclasses.replace(
            undefined("a single patient: no interval", n, n_subjects, events), value=value
        )
    if freedom < 1:
        single = "a class has a single patient: no interval"
        reason = f"{single}; {reason}" if reason else single

    def limits(confidence: float) -> tuple[float, float]:
        low, high = limits_of(value, replicates, confidence, left_out and left_out(), freedom)
        return float(np.clip(low, *bounds)), float(np.clip(high, *bounds))

    valid = replicates[np.isfinite(replicates)]
    se = float(valid.std(ddof=1)) if len(valid) > 1 else math.nan
    method = f"{'BCa' if left_out else 'percentile'} bootstrap by patient"
    return Estimate(
        value,
        n,
        n_subjects,
        events,
        se,
        method,
        limits,
        replicates=replicates,
        left_out=left_out,
        reason=reason,
        freedom=freedom,
    )
