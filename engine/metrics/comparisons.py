"""Comparisons of estimates: differences, ratios, DeLong's tests, extremes of groups, multiplicity.

Differences and ratios of two quantities: MOVER on their intervals, with the covariance through the patients they share, or
the bootstrap of the difference. Extremes (worst group, max-min): Bonferroni constructions, because a bootstrap of an
extreme does not cover.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import optimize, special

from engine.config import UserError
from engine.metrics import intervals
from engine.metrics.intervals import Estimate, correlation, mover

_NAN = (float("nan"), float("nan"))
_SMALLEST_P = 1e-12


def _bootstrapped(a: Estimate, b: Estimate) -> bool:
    return a.replicates is not None and b.replicates is not None


def difference(
    a: Estimate, b: Estimate, confidence: float = 0.95, shared: float | None = None
) -> tuple[float, float, float]:
    """(a − b, low, high): MOVER, or the bootstrap of the difference (percentile or BCa, as theirs) where both have one.

    Args:
      a: minuend.
      b: subtrahend.
      confidence: of the limits.
      shared: correlation of the two where already known.
    """
    value = a.value - b.value
    if not np.isfinite(value):
        return float("nan"), *_NAN
    if _bootstrapped(a, b):
        left_out = None
        if a.left_out and b.left_out:
            (first, count), (second, _) = a.left_out(), b.left_out()
            left_out = first - second, count
        return value, *intervals.replicate_limits(value, a.replicates - b.replicates, confidence, left_out)
    low, high = b.limits(confidence)
    shared = correlation(a, b) if shared is None else shared
    return value, *mover((a.value, *a.limits(confidence)), (-b.value, -high, -low), -shared)


def ratio(a: Estimate, b: Estimate, confidence: float = 0.95) -> tuple[float, float, float]:
    """(a / b, low, high) of positive quantities: MOVER-R, or percentiles of the replicates' ratios where both have some.

    MOVER-R (Donner and Zou, Stat Methods Med Res 2012;21:347): the limits are the R at which MOVER's limits of a − R·b reach
    0. The upper limit is infinite where b's interval reaches 0.

    Returns:
      NaN where the denominator is 0 or a value is undefined.
    """
    value = a.value / b.value if b.value else float("nan")
    if not np.isfinite(value):
        return float("nan"), *_NAN
    if _bootstrapped(a, b):
        below = np.where(b.replicates != 0, b.replicates, np.nan)
        return value, *intervals.replicate_limits(value, a.replicates / below, confidence)
    limits = np.array([a.limits(confidence), b.limits(confidence)])
    if not np.isfinite(limits).all():
        return value, *_NAN
    low, high = _ratio_limits(np.float64(a.value), np.float64(b.value), *limits, correlation(a, b))
    return value, float(low), float(high)


def _ratio_limits(
    a: Float[np.ndarray, "*s"], b: Float[np.ndarray, "*s"], limits_a: Float[np.ndarray, "*s 2"], limits_b: Float[np.ndarray, "*s 2"],
    shared: Float[np.ndarray, "*s"] | float,
) -> tuple[Float[np.ndarray, "*s"], Float[np.ndarray, "*s"]]:  # fmt: skip
    """MOVER-R's limits of a / b, of shapes that broadcast: roots of R²·square − 2R·middle + rest = 0, one limit of each taken."""

    def bend(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
        """(square, rest, middle + root of the discriminant)."""
        square, rest = y * (2 * b - y), x * (2 * a - x)
        middle = a * b - shared * (a - x) * (y - b)
        return square, rest, middle + np.sqrt(np.maximum(middle**2 - square * rest, 0))

    _, rest, bottom = bend(limits_a[..., 0], limits_b[..., 1])
    low = np.divide(rest, bottom, out=np.zeros_like(bottom), where=bottom > 0)
    square, _, top = bend(limits_a[..., 1], limits_b[..., 0])
    return low, np.divide(top, square, out=np.full_like(top, np.inf), where=square > 0)


def log_ratio(a: Estimate, b: Estimate, confidence: float = 0.95) -> tuple[float, float, float]:
    """(a / b, low, high) on the logarithmic scale by the delta method (Katz et al., Biometrics 1978;34:469); NaN at 0."""
    if not (a.value > 0 and b.value > 0):
        return float("nan"), *_NAN
    x, y = a.se / a.value, b.se / b.value
    spread = np.sqrt(max(x * x + y * y - 2 * correlation(a, b) * x * y, 0.0))
    half, centre = special.ndtri(0.5 + confidence / 2) * spread, np.log(a.value / b.value)
    return float(np.exp(centre)), float(np.exp(centre - half)), float(np.exp(centre + half))


def p_value(a: Estimate, b: Estimate) -> tuple[float, str]:
    """(two-sided p of a = b, name of the test): the level at which :func:`difference`'s interval just reaches 0."""
    value, low, high = difference(a, b)
    if _bootstrapped(a, b):
        test = "bootstrap of the difference"
        gaps = a.replicates - b.replicates
        gaps = gaps[np.isfinite(gaps)]
        if np.isnan(low) or not len(gaps):
            return float("nan"), test
        return min(1.0, float(2 * (1 + min((gaps <= 0).sum(), (gaps >= 0).sum())) / (len(gaps) + 1))), test
    test = "inverted MOVER interval"
    if np.isnan(low) or np.isnan(high):
        return float("nan"), test
    if value == 0:
        return 1.0, test

    shared = correlation(a, b)

    def nearest(log_p: float) -> float:
        _, low, high = difference(a, b, -np.expm1(log_p), shared)
        return low if value > 0 else -high

    first, last = np.log(_SMALLEST_P), np.log1p(-1e-9)
    if nearest(first) >= 0:
        return _SMALLEST_P, test
    if nearest(last) <= 0:
        return 1.0, test
    return float(np.exp(optimize.brentq(nearest, first, last, xtol=1e-9))), test


def holm(p: Sequence[float]) -> list[float]:
    """P values adjusted for their number (Holm, Scand J Stat 1979;6:65); NaN stays NaN and is not counted."""
    p = np.asarray(p, np.float64)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return adjusted.tolist()


def detectable(a: Estimate, b: Estimate) -> float:
    """The smallest true difference that would be found with 80 % power at the 5 % level: (z.975 + z.8) · SE."""
    if _bootstrapped(a, b):
        gaps = a.replicates - b.replicates
        gaps = gaps[np.isfinite(gaps)]
        se = gaps.std(ddof=1) if len(gaps) > 1 else np.nan
    else:
        se = np.sqrt(max(a.se**2 + b.se**2 - 2 * correlation(a, b) * a.se * b.se, 0.0))
    return float((special.ndtri(0.975) + special.ndtri(0.8)) * se)


def worst_group(
    estimates: Sequence[Estimate], higher_is_better: bool, target: float | None = None
) -> tuple[float, float, float]:
    """(worst value, low, high) over disjoint groups: [min L at 97.5 %, min U at 1 − 0.025/K], one-sided levels.

    For a score whose small values are good the mirror image is taken. Of a score with an ideal value the worst is the
    farthest from it; the limits are then that group's own at 1 − 0.05/K, which hold for whichever group is farthest.
    """
    narrow = np.array([e.limits(0.95) for e in estimates])
    wide = np.array([e.limits(1 - 0.05 / len(estimates)) for e in estimates])
    values = np.array([e.value for e in estimates])
    if target is not None:
        farthest = int(abs(values - target).argmax())
        return float(values[farthest]), *map(float, wide[farthest])
    if higher_is_better:
        return float(values.min()), float(narrow[:, 0].min()), float(wide[:, 1].min())
    return float(values.max()), float(wide[:, 0].max()), float(narrow[:, 1].max())


def _pairs(
    estimates: Sequence[Estimate], confidence: float
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k 2"], Float[np.ndarray, "k k"]]:
    """(values, limits for all pairs together, correlations) of groups.

    The correlation of a pair comes from the patients it shares, or from its replicates.
    """
    values, number = np.array([e.value for e in estimates]), len(estimates)
    each = 1 - 2 * (1 - confidence) / (number * (number - 1)) if number > 1 else confidence
    limits = np.array([e.limits(each) for e in estimates])
    correlated = intervals.correlations(estimates)
    if all(e.replicates is not None for e in estimates):
        replicates = np.stack([e.replicates for e in estimates])
        replicates = replicates[:, np.isfinite(replicates).all(axis=0)]
        moving = replicates.std(axis=1) > 0 if replicates.shape[1] > 1 else np.zeros(number, bool)
        correlated[np.ix_(moving, moving)] = np.corrcoef(replicates[moving]) if moving.any() else 1
    return values, limits, correlated


def max_min(estimates: Sequence[Estimate], confidence: float = 0.95) -> tuple[float, float, float]:
    """(largest − smallest value, low, high): MOVER of all pairs with Bonferroni's level: [max(0, max L), max |U|]."""
    values, limits, correlated = _pairs(estimates, confidence)
    down, up = values - limits[:, 0], limits[:, 1] - values
    square = down[:, None] ** 2 + up**2 - 2 * correlated * down[:, None] * up
    low = values[:, None] - values - np.sqrt(np.maximum(square, 0))  # of each ordered pair's difference
    np.fill_diagonal(low, 0)
    spread = float(values.max() - values.min())
    return (
        (spread, float(max(0.0, low.max())), float(-low.min())) if np.isfinite(low).all() else (spread, *_NAN)
    )


def min_over_max(estimates: Sequence[Estimate], confidence: float = 0.95) -> tuple[float, float, float]:
    """(smallest ÷ largest value, low, high) of values ≥ 0: MOVER-R of all pairs with Bonferroni's level, [min L, min(1, min U)].

    Returns:
      NaN where the largest is 0; no limits where a group has none.
    """
    values, limits, correlated = _pairs(estimates, confidence)
    if not (values >= 0).all() or not values.max() > 0:
        return float("nan"), *_NAN
    found = float(values.min() / values.max())
    if not np.isfinite(limits).all():
        return found, *_NAN
    low, high = _ratio_limits(values[:, None], values, limits[:, None], limits, correlated)
    apart = ~np.eye(len(values), dtype=bool)
    return found, float(low[apart].min(initial=1)), float(high[apart].min(initial=1))


def sd(estimates: Sequence[Estimate], confidence: float = 0.95) -> tuple[float, float, float]:
    """(standard deviation over groups, low, high), divisor K: of K values whose range is r it lies in [r / √(2K), r / 2]."""
    _, low, high = max_min(estimates, confidence)
    return float(np.std([e.value for e in estimates])), low / np.sqrt(2 * len(estimates)), high / 2


def _scaled_limits(
    low: float, high: float, narrowest: Callable, widest: Callable, bends: Iterable
) -> tuple[float, float]:
    """Least and greatest M / (1 + spread(M)) over M in [low, high].

    Between the points at which a piecewise linear spread bends the quotient is monotone, so that these decide.
    """
    points = np.unique(np.clip([low, high, *bends], low, high))
    least = min(point / (1 + widest(point)) for point in points)
    return float(least), float(max(point / (1 + narrowest(point)) for point in points))


def equity_scaled_sum(
    overall: Estimate, estimates: Sequence[Estimate], confidence: float = 0.95
) -> tuple[float, float, float]:
    """(M / (1 + Σ|M − M_g|), low, high): its least and greatest value while all are within their Bonferroni limits.

    Args:
      overall: M, of everyone.
      estimates: M_g, of the groups.
      confidence: of the limits.
    """
    value = overall.value / (1 + sum(abs(overall.value - e.value) for e in estimates))
    each = 1 - (1 - confidence) / (len(estimates) + 1)
    (low, high), ends = overall.limits(each), np.array([e.limits(each) for e in estimates])
    if not np.isfinite([low, high, *ends.ravel()]).all():
        return value, *_NAN
    widest = lambda m: abs(m - ends).max(axis=1).sum()  # noqa: E731
    narrowest = lambda m: np.maximum(np.maximum(ends[:, 0] - m, m - ends[:, 1]), 0).sum()  # noqa: E731
    return value, *_scaled_limits(low, high, narrowest, widest, [*ends.ravel(), *ends.mean(axis=1)])


def equity_scaled_sd(
    overall: Estimate, estimates: Sequence[Estimate], confidence: float = 0.95
) -> tuple[float, float, float]:
    """(M / (1 + SD of M_g), low, high): limits of M and of the SD (:func:`sd`), at half the error each, put in.

    Args:
      overall: M, of everyone.
      estimates: M_g, of the groups.
      confidence: of the limits.
    """
    spread, narrow, wide = sd(estimates, (1 + confidence) / 2)
    low, high = overall.limits((1 + confidence) / 2)
    return overall.value / (1 + spread), low / (1 + wide), high / (1 + narrow)


def range_null(values: Sequence[float], replicates: Float[np.ndarray, "g b"]) -> tuple[float, float]:
    """(95th percentile of max-min were all groups equal, p): the range of replicates centred on each group's value.

    Args:
      values: of each group.
      replicates: of each group, drawn together; a resample that leaves a group undefined is not counted.
    """
    centred = replicates - np.asarray(values)[:, None]
    centred = centred[:, np.isfinite(centred).all(axis=0)]
    if not centred.shape[1]:
        return _NAN
    ranges = centred.max(axis=0) - centred.min(axis=0)
    observed = max(values) - min(values)
    return float(np.quantile(ranges, 0.95)), float((1 + (ranges >= observed).sum()) / (len(ranges) + 1))


@dataclasses.dataclass(frozen=True)
class AreaTest:
    """Two AUROCs compared.

    Attributes:
      value: first − second.
      low: Wald limit of the difference.
      high: limit.
      first: AUROC.
      second: AUROC.
      covariance: [2, 2] of the two.
      z: value / SE; NaN where the SE is 0.
      p: two-sided, of equal areas.
    """

    value: float
    low: float
    high: float
    first: float
    second: float
    covariance: Float[np.ndarray, "2 2"]
    z: float
    p: float


def _area_test(
    p: intervals.Placements, q: intervals.Placements, shared: float, confidence: float
) -> AreaTest:
    variances = [intervals.area_covariance(x, x) if x.m and x.n else float("nan") for x in (p, q)]
    covariance = np.array([[variances[0], shared], [shared, variances[1]]])
    value = p.value - q.value
    square = variances[0] + variances[1] - 2 * shared
    se = float(np.sqrt(square)) if square > 0 else float("nan")
    half = special.ndtri(0.5 + confidence / 2) * se
    two_sided = float(2 * special.ndtr(-abs(value / se)))
    return AreaTest(value, value - half, value + half, p.value, q.value, covariance, value / se, two_sided)


def delong_paired(
    truth: Bool[np.ndarray, " n"],
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    subject: Shaped[np.ndarray, " n"] | None = None,
    confidence: float = 0.95,
) -> AreaTest:
    """Two scores of the same images (DeLong et al., Biometrics 1988;44:837; clustered: Obuchowski, Biometrics 1997;53:567).

    Args:
      truth: whether each image is positive.
      first: score.
      second: score of the same images.
      subject: patient of each image; without it each image is a patient of its own.
      confidence: of the limits.
    """
    code, number = intervals.subject_codes(np.arange(len(truth)) if subject is None else subject)
    p, q = (intervals.placements(truth, score, code, number) for score in (first, second))
    shared = intervals.area_covariance(p, q) if p.m and p.n else float("nan")
    return _area_test(p, q, shared, confidence)


def delong_unpaired(
    first: tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"], Shaped[np.ndarray, " n"]],
    second: tuple[Bool[np.ndarray, " k"], Float[np.ndarray, " k"], Shaped[np.ndarray, " k"]],
    confidence: float = 0.95,
) -> AreaTest:
    """Two AUROCs of different patients.

    Args:
      first: (truth, score, subject) of the first group.
      second: of the other.
      confidence: of the limits.

    Raises:
      UserError: when a patient is in both groups, because the areas are then correlated.
    """
    common = len(np.intersect1d(np.asarray(first[2], str), np.asarray(second[2], str)))
    if common:
        raise UserError(
            f"{common} patients are in both groups, so that their areas are correlated: use delong_paired for two scores of the "
            "same images, or difference(area(...), area(...)), which takes the covariance from patient-summed influence values"
        )
    found = []
    for truth, score, subject in (first, second):
        found.append(intervals.placements(truth, score, *intervals.subject_codes(subject)))
    return _area_test(*found, 0.0, confidence)
