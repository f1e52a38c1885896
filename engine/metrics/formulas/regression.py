"""Metrics of numbers: errors of a regression, and means of values that were computed for each case.

Sums of squares are taken about the mean of all rows, not about 0: ages near 50 would otherwise lose half of their digits. The
mean of a group is then subtracted exactly, so that the formulas are those of the group alone.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Array, Float64

from equipoise.engine.metrics.formulas.metric import Columns, Metric, Sums, array_module, ratio

_ROUNDING = 1e-12  # a spread below this share of the sum of squares is rounding of equal numbers


def components(columns: Columns) -> dict[str, Float64[np.ndarray, " n"]]:
    """What each row adds to the sums that metrics are made of.

    Args:
      columns: columns of a regression or of values.

    Returns:
      ``count`` (1 for every row). For a regression ``error`` (score − truth), ``absolute_error``, ``squared_error``, and
      ``deviation`` and ``squared_deviation`` of the truth from its mean over all rows. For values ``defined`` and ``undefined``
      (0 or 1), ``level`` (the mean of all values) and the two deviations from it, all 0 where the value is no finite number.
    """
    if "value" in columns:
        return _components_of_values(np.asarray(columns["value"], np.float64))
    truth = np.asarray(columns["truth"], np.float64)
    error = np.asarray(columns["score"], np.float64) - truth
    deviation = truth - truth.mean() if len(truth) else truth
    return {
        "count": np.ones(len(truth)),
        "error": error,
        "absolute_error": abs(error),
        "squared_error": error**2,
        "deviation": deviation,
        "squared_deviation": deviation**2,
    }


def _components_of_values(value: Float64[np.ndarray, " n"]) -> dict[str, Float64[np.ndarray, " n"]]:
    defined = np.isfinite(value)
    level = value[defined].mean() if defined.any() else 0.0
    deviation = np.where(defined, value, level) - level
    return {
        "count": np.ones(len(value)),
        "defined": defined.astype(np.float64),
        "undefined": 1.0 - defined,
        "level": np.where(defined, level, 0.0),
        "deviation": deviation,
        "squared_deviation": deviation**2,
    }


def _mean(part: str) -> Callable[[Sums], Array]:
    """The mean of a component over rows."""
    return lambda sums: ratio(sums[part], sums["count"])


def _rmse(sums: Sums) -> Array:
    mean = ratio(sums["squared_error"], sums["count"])
    return array_module(mean).sqrt(mean)


def _spread(sums: Sums, count: str) -> Array:
    """The sum of squared deviations from the mean of the rows that are summed; exactly 0 where all are equal."""
    total, squares = sums["deviation"], sums["squared_deviation"]
    xp = array_module(squares)
    spread = squares - total * total / xp.maximum(sums[count], 1)
    return xp.where(spread > _ROUNDING * squares, spread, 0)


def _r2(sums: Sums) -> Array:
    return 1 - ratio(sums["squared_error"], _spread(sums, "count"))


def _mean_of_values(sums: Sums) -> Array:
    return ratio(sums["level"] + sums["deviation"], sums["defined"])


def _sd_of_values(sums: Sums) -> Array:
    variance = ratio(_spread(sums, "defined"), sums["defined"] - 1)
    return array_module(variance).sqrt(variance)


_REGRESSION, _VALUES = ("regression",), ("values",)
_WILLMOTT = "Willmott and Matsuura, Clim Res 2005;30:79"
_NO_CASE = "no case has a value"
METRICS: Sequence[Metric] = (
    Metric("mae", "mean absolute error", "mean of |score − truth|", False, 0, np.inf, "no image", _WILLMOTT, _REGRESSION,
           components=("absolute_error", "count"), of_sums=_mean("absolute_error"), short="MAE"),
    Metric("rmse", "root mean squared error", "√ mean of (score − truth)²", False, 0, np.inf, "no image", _WILLMOTT, _REGRESSION,
           components=("squared_error", "count"), of_sums=_rmse, short="RMSE"),
    Metric("bias", "mean error (positive: predicted too high)", "mean of (score − truth)", False, -np.inf, np.inf, "no image",
           "Bland and Altman, Lancet 1986;327:307", _REGRESSION, components=("error", "count"), of_sums=_mean("error"), target=0),
    Metric("r2", "coefficient of determination", "1 − Σ(score − truth)² / Σ(truth − mean truth)²", True, -np.inf, 1,
           "the truth is the same for all images", "Kvålseth, Am Stat 1985;39:279", _REGRESSION, True,
           components=("squared_error", "deviation", "squared_deviation", "count"), of_sums=_r2, short="R²"),
    Metric("mean", "mean over cases", "mean of the values of the cases that have one", True, -np.inf, np.inf, _NO_CASE,
           "Maier-Hein et al., Nat Methods 2024;21:195", _VALUES, components=("level", "deviation", "defined"),
           of_sums=_mean_of_values),
    Metric("undefined_rate", "share of cases without a value", "cases without a value / n", False, 0, 1, "no case",
           "Maier-Hein et al., Nat Methods 2024;21:195", _VALUES, kind="proportion", components=("undefined", "count"),
           of_sums=_mean("undefined")),
    Metric("sd", "standard deviation over cases", "√(Σ(value − mean)² / (m − 1)) of the m cases that have a value", False, 0, np.inf,
           "fewer than two cases have a value", "Bland and Altman, BMJ 1996;312:1654", _VALUES,
           components=("deviation", "squared_deviation", "defined"), of_sums=_sd_of_values, listed=False),
)  # fmt: skip
