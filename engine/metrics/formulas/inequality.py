"""Inequality among individuals: how unevenly a model's errors benefit some people and harm others.

The benefit of a person is b = 1 + call − truth: 0 for a missed positive, 1 for a right call, 2 for a false alarm. That suits calls
that people want (a loan); where a call is bad news, exchange the classes first. Indices are 0 where all benefits are equal.

Speicher et al., KDD 2018:2239, arXiv:1807.00787.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array

from equipoise.engine.metrics.formulas.metric import Metric, Sums, array_module, ratio


def _mean_benefit(sums: Sums) -> Array:
    return 1 + ratio(sums["fp"] - sums["fn"], sums["count"])


def _generalized_entropy(sums: Sums) -> Array:
    squares = 1 + ratio(3 * sums["fp"] - sums["fn"], sums["count"])
    return (ratio(squares, _mean_benefit(sums) ** 2) - 1) / 2


def _theil(sums: Sums) -> Array:
    mean = _mean_benefit(sums)
    xp = array_module(mean)
    product = ratio(2 * np.log(2) * sums["fp"], sums["count"])  # mean of b ln b: only b = 2 adds to it
    return ratio(product, mean) - xp.log(xp.where(mean > 0, mean, np.nan))


_SPEICHER = "Speicher et al., KDD 2018:2239, arXiv:1807.00787"
_UNDEFINED, _PARTS = "no image, or every image is a missed positive", ("fp", "fn", "count")
METRICS: Sequence[Metric] = (
    Metric("generalized_entropy", "generalised entropy index of individual benefits (α = 2)",
           "mean of [(b / μ)² − 1] / 2, b = 1 + call − truth, μ its mean", False, 0, np.inf, _UNDEFINED, _SPEICHER, ("binary",), True,
           components=_PARTS, of_sums=_generalized_entropy),
    Metric("theil_index", "Theil index of individual benefits", "mean of (b / μ) ln(b / μ), b = 1 + call − truth, μ its mean", False, 0,
           np.inf, _UNDEFINED, _SPEICHER, ("binary",), True, components=_PARTS, of_sums=_theil),
)  # fmt: skip
