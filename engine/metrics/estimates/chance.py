"""Extremes by chance alone: what the worst group or the range of groups reads if the true value is the same in all of them."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import special

from equipoise.engine.metrics.estimates.intervals import NO_LIMITS, Estimate


def equal_replicates(
    estimates: Sequence[Estimate], replicates: Float[np.ndarray, "g b"], common: float
) -> Float[np.ndarray, "g b"]:
    """Returns replicates as they would be if the true value were the same in every group.

    The deviations of each group from its own value are multiplied by √(I / (I − 1)), because replicates of I patients spread
    too little by that factor, and are put around the common value. The replicates of a share of 0 or 1 do not vary at all,
    although another sample would: such a group is given normal deviations with its standard error.

    Args:
      estimates: one for each group.
      replicates: replicates of each group, which were drawn together.
      common: the value that all groups are given.
    """
    values, freedom = (np.array([getattr(e, k) for e in estimates])[:, None] for k in ("value", "freedom"))
    deviations = (replicates - values) * np.sqrt(1 + 1 / np.maximum(freedom, 1))
    scores = special.ndtri((np.arange(replicates.shape[1]) + 0.5) / replicates.shape[1])
    for number, estimate in enumerate(estimates):
        known = np.isfinite(deviations[number])
        if np.isfinite(estimate.se) and not deviations[number, known].any():
            drawn = np.random.default_rng(number).permutation(scores) * estimate.se
            deviations[number, known] = drawn[known]
    return common + deviations


def band(draws: Float[np.ndarray, " b"]) -> tuple[float, float, float]:
    """Returns (mean, 5th, 95th percentile) of a score in replicates of equal groups: what it reads by chance alone.

    Replicates in which the score is undefined do not count.
    """
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return math.nan, *NO_LIMITS
    return float(draws.mean()), *map(float, np.quantile(draws, [0.05, 0.95]))


def range_p(values: Sequence[float], draws: Float[np.ndarray, "g b"]) -> float:
    """Returns the p value of all groups being equal: how often :func:`equal_replicates` have a range as large as the values."""
    ranges = np.ptp(draws, axis=0)
    ranges = ranges[np.isfinite(ranges)]
    observed = max(values) - min(values)
    return float((1 + (ranges >= observed).sum()) / (len(ranges) + 1)) if len(ranges) else math.nan
