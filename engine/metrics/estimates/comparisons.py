"""Comparisons of estimates: differences, ratios, extremes of groups.

A difference or ratio of two quantities takes MOVER on their intervals, with the covariance through the patients they share, or
the bootstrap of the difference. An extreme over groups (worst group, largest − smallest) takes a Bonferroni construction,
because a bootstrap of an extreme covers less than it says.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import optimize, sparse, special

from equipoise.engine.metrics.estimates import intervals, percentiles
from equipoise.engine.metrics.estimates.intervals import NO_LIMITS, SMALLEST_P, Estimate, correlation, mover


def _bootstrapped(a: Estimate, b: Estimate) -> bool:
    """Whether both estimates have replicates."""
    return a.replicates is not None and b.replicates is not None


def difference(
    a: Estimate, b: Estimate, confidence: float = 0.95, shared: float | None = None
) -> tuple[float, float, float]:
    """Returns (a − b, low, high).

    Where both estimates are bootstrapped the limits are those of the replicates' differences, BCa where both are BCa, else
    percentiles. Otherwise they are MOVER's.

    Args:
      a: the estimate that is subtracted from.
      b: the estimate that is subtracted.
      confidence: confidence of the limits.
      shared: correlation of the two, where it is known already.
    """
    value = a.value - b.value
    if not np.isfinite(value):
        return math.nan, *NO_LIMITS
    if _bootstrapped(a, b):
        left_out = None
        if a.left_out and b.left_out:
            (first, count), (second, _) = a.left_out(), b.left_out()
            left_out = first - second, count
        freedom = min(a.freedom, b.freedom)
        drawn = a.replicates - b.replicates
        return value, *percentiles.limits_of(value, drawn, confidence, left_out, freedom)
    low, high = b.limits(confidence)
    shared = correlation(a, b) if shared is None else shared
    return value, *mover((a.value, *a.limits(confidence)), (-b.value, -high, -low), -shared)


def ratio(a: Estimate, b: Estimate, confidence: float = 0.95) -> tuple[float, float, float]:
    """Returns (a / b, low, high) of positive quantities.

    Where both are bootstrapped the limits are percentiles of the replicates' ratios, otherwise MOVER-R's (Donner and Zou, Stat
    Methods Med Res 2012;21:347): those R at which MOVER's limits of a − R·b reach 0. The upper limit is infinite where the
    interval of b reaches 0.

    Returns:
      The ratio and its limits; NaN where the denominator is 0 or a value is undefined.
    """
    value = a.value / b.value if b.value else math.nan
    if not np.isfinite(value):
        return math.nan, *NO_LIMITS
    if _bootstrapped(a, b):
        below = np.where(b.replicates != 0, b.replicates, np.nan)
        freedom = min(a.freedom, b.freedom)
        return value, *percentiles.limits_of(value, a.replicates / below, confidence, freedom=freedom)
    limits = np.array([a.limits(confidence), b.limits(confidence)])
    if not np.isfinite(limits).all():
        return value, *NO_LIMITS
    low, high = _ratio_limits(np.float64(a.value), np.float64(b.value), *limits, correlation(a, b))
    return value, float(low), float(high)


def _ratio_limits(
    a: Float[np.ndarray, "*s"], b: Float[np.ndarray, "*s"], limits_a: Float[np.ndarray, "*s 2"], limits_b: Float[np.ndarray, "*s 2"],
    shared: Float[np.ndarray, "*s"] | float,
) -> tuple[Float[np.ndarray, "*s"], Float[np.ndarray, "*s"]]:  # fmt: skip
    """Returns MOVER-R's limits of a / b; all shapes broadcast.

    Each limit is a root of R²·square − 2R·middle + rest = 0, which takes one limit of a and the opposite limit of b.
    """

    def bend(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns (square, rest, middle + root of the discriminant)."""
        square, rest = y * (2 * b - y), x * (2 * a - x)
        middle = a * b - shared * (a - x) * (y - b)
        return square, rest, middle + np.sqrt(np.maximum(middle**2 - square * rest, 0))

    _, rest, bottom = bend(limits_a[..., 0], limits_b[..., 1])
    low = np.divide(rest, bottom, out=np.zeros_like(bottom), where=bottom > 0)
    square, _, top = bend(limits_a[..., 1], limits_b[..., 0])
    return low, np.divide(top, square, out=np.full_like(top, np.inf), where=square > 0)


def p_value(a: Estimate, b: Estimate) -> tuple[float, str]:
    """Tests a = b at the level at which the interval of :func:`difference` just reaches 0.

    Returns:
      (two-sided p, name of the test).
    """
    if _bootstrapped(a, b):
        freedom = min(a.freedom, b.freedom)
        p = percentiles.p_value(a.value - b.value, a.replicates - b.replicates, freedom)
        return p, "bootstrap of the difference"
    test = "inverted MOVER interval"
    value = difference(a, b)[0]
    if not np.isfinite(value):
        return math.nan, test
    return 2 * tail(a, b, 0.0, value > 0), test


def standard_error(a: Estimate, b: Estimate) -> float:
    """Returns the standard error of a − b.

    It is that of the replicates' differences, or follows from both errors and their correlation through shared patients.
    """
    if _bootstrapped(a, b):
        gaps = a.replicates - b.replicates
        gaps = gaps[np.isfinite(gaps)]
        return float(gaps.std(ddof=1)) if len(gaps) > 1 else math.nan
    return float(np.sqrt(max(a.se**2 + b.se**2 - 2 * correlation(a, b) * a.se * b.se, 0.0)))


def detectable(a: Estimate, b: Estimate, power: float = 0.8, alpha: float = 0.05) -> float:
    """Returns the smallest true difference that would be found with this power at this level: (z.975 + z.8) · SE for 80 % at 5 %."""
    return num_standard_errors(power, alpha) * standard_error(a, b)


def num_standard_errors(power: float, alpha: float) -> float:
    """Returns how many standard errors a true difference must measure to be found: z of 1 − alpha/2 plus z of the power."""
    return float(special.ndtri(1 - alpha / 2) + special.ndtri(power))


def gap(a: Estimate, b: Estimate) -> Estimate:
    """Returns the difference a − b as an estimate, so that two gaps can be compared in the same way as two scores.

    Its limits are those of :func:`difference`. The influence of each patient is the difference of the patient's influences.
    """
    missing = next((e for e in (a, b) if np.isnan(e.value)), None)
    counts = ((getattr(a, k), getattr(b, k)) for k in ("n", "n_subjects", "events"))
    n, patients, events = (
        None if None in pair else sum(pair) for pair in counts
    )  # a suppressed count is None
    if missing:
        return intervals.undefined(missing.reason or "undefined", n, patients, events)
    influence, left_out, replicates = None, None, None
    if a.influence and b.influence:
        who, place = np.unique(np.concatenate([a.influence[0], b.influence[0]]), return_inverse=True)
        patients = len(who)
        influence = who, np.bincount(place, np.concatenate([a.influence[1], -b.influence[1]]))
    if _bootstrapped(a, b):
        replicates = a.replicates - b.replicates
    if a.left_out and b.left_out:

        def left_out() -> tuple[np.ndarray, np.ndarray]:
            (first, count), (second, _) = a.left_out(), b.left_out()
            return first - second, count

    return Estimate(
        a.value - b.value, n, patients, events, standard_error(a, b), f"difference of two: {a.method}",
        lambda confidence: difference(a, b, confidence)[1:], influence, replicates, left_out,
        freedom=min(a.freedom, b.freedom),
    )  # fmt: skip


def tail(a: Estimate, b: Estimate, bound: float, above: bool) -> float:
    """Returns the one-sided p value of the claim that a − b is above a bound, or below it.

    It is the level α at which the limit of the interval of confidence 1 − 2α just reaches the bound, so that test and interval
    always agree. Where the value contradicts the claim it is 1 − α of the other limit.

    Args:
      a: the estimate that is subtracted from.
      b: the estimate that is subtracted.
      bound: the bound of a − b.
      above: whether the claim is a − b > bound; else it is a − b < bound.
    """
    value = difference(a, b)[0]
    if not np.isfinite([value, *difference(a, b)[1:]]).all():
        return math.nan
    if value == bound:
        return 0.5
    is_claimed, shared = (value > bound) == above, correlation(a, b)

    def nearest(log_p: float) -> float:
        _, low, high = difference(a, b, -np.expm1(log_p), shared)
        return low - bound if value > bound else bound - high

    first, last = np.log(SMALLEST_P), np.log1p(-1e-9)
    if nearest(first) >= 0:
        two_sided = SMALLEST_P
    elif nearest(last) <= 0:
        two_sided = 1.0
    else:
        two_sided = float(np.exp(optimize.brentq(nearest, first, last, xtol=1e-9)))
    return two_sided / 2 if is_claimed else 1 - two_sided / 2


def worst_group(
    estimates: Sequence[Estimate], higher_is_better: bool, target: float | None = None
) -> tuple[float, float, float]:
    """Returns (worst value, low, high) over disjoint groups.

    The limits are [min L at 97.5 %, min U at 1 − 0.025/K], at one-sided levels; where small values are good they are mirrored.
    If the score has an ideal value, the worst group is the farthest from it. Its own limits at 1 − 0.05/K are then taken, which
    hold for whichever group is the farthest.

    Args:
      estimates: the K groups.
      higher_is_better: whether large values are good.
      target: the ideal value of the score, if it has one.
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


def correlations(estimates: Sequence[Estimate]) -> Float[np.ndarray, "k k"]:
    """Returns the correlations of estimates: of their replicates where all have them, else through the patients they share.

    Estimates that share no patient, or have no influence values, have a correlation of exactly 0. Replicates must be drawn together.
    """
    owners = [e.influence[0] if e.influence else np.zeros(0, np.int64) for e in estimates]
    values = [e.influence[1] if e.influence else np.zeros(0) for e in estimates]
    starts = np.cumsum([0, *map(len, owners)])
    who = np.concatenate(owners)
    shape = (len(estimates), int(who.max(initial=0)) + 1)
    matrix = sparse.csr_array((np.concatenate(values), who, starts), shape=shape)
    products = (matrix @ matrix.T).toarray()
    size = np.sqrt(np.outer(products.diagonal(), products.diagonal()))
    correlated = np.divide(products, size, out=np.zeros_like(products), where=size > 0)
    np.fill_diagonal(correlated, 1)
    if all(e.replicates is not None for e in estimates):
        replicates = np.stack([e.replicates for e in estimates])
        replicates = replicates[:, np.isfinite(replicates).all(axis=0)]
        moving = replicates.std(axis=1) > 0 if replicates.shape[1] > 1 else np.zeros(len(estimates), bool)
        correlated[np.ix_(moving, moving)] = np.corrcoef(replicates[moving]) if moving.any() else 1
    return correlated


def _for_all_pairs(
    estimates: Sequence[Estimate], confidence: float
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k 2"], Float[np.ndarray, "k k"]]:
    """Returns (values, limits, correlations) of groups; the limits hold for the differences of all pairs together."""
    values, number = np.array([e.value for e in estimates]), len(estimates)
    confidence_of_each = 1 - 2 * (1 - confidence) / (number * (number - 1)) if number > 1 else confidence
    limits = np.array([e.limits(confidence_of_each) for e in estimates])
    return values, limits, correlations(estimates)


def max_min(estimates: Sequence[Estimate], confidence: float = 0.95) -> tuple[float, float, float]:
    """Returns (largest − smallest value, low, high).

    The limits are [max(0, max L), max |U|] of MOVER's limits L and U of all pairs, at Bonferroni's level.
    """
    values, limits, correlated = _for_all_pairs(estimates, confidence)
    down, up = values - limits[:, 0], limits[:, 1] - values
    square = down[:, None] ** 2 + up**2 - 2 * correlated * down[:, None] * up
    low = values[:, None] - values - np.sqrt(np.maximum(square, 0))  # of each ordered pair's difference
    np.fill_diagonal(low, 0)
    spread = float(values.max() - values.min())
    return (
        (spread, float(max(0.0, low.max())), float(-low.min()))
        if np.isfinite(low).all()
        else (spread, *NO_LIMITS)
    )


def min_over_max(estimates: Sequence[Estimate], confidence: float = 0.95) -> tuple[float, float, float]:
    """Returns (smallest ÷ largest value, low, high) of values that are 0 or more.

    The limits are [min L, min(1, min U)] of MOVER-R's limits L and U of all pairs, at Bonferroni's level.

    Returns:
      The ratio, NaN where the largest value is 0, and its limits, NaN where a group has none.
    """
    values, limits, correlated = _for_all_pairs(estimates, confidence)
    if not (values >= 0).all() or not values.max() > 0:
        return math.nan, *NO_LIMITS
    value = float(values.min() / values.max())
    if not np.isfinite(limits).all():
        return value, *NO_LIMITS
    low, high = _ratio_limits(values[:, None], values, limits[:, None], limits, correlated)
    apart = ~np.eye(len(values), dtype=bool)
    return value, float(low[apart].min(initial=1)), float(high[apart].min(initial=1))


def sd(estimates: Sequence[Estimate], confidence: float = 0.95, ddof: int = 0) -> tuple[float, float, float]:
    """Returns (standard deviation over K groups, low, high).

    K values with a range of r have a standard deviation (with divisor K) between r / √(2K) and r / 2, so that the limits of the
    range give those of the standard deviation.

    Args:
      estimates: the K groups.
      confidence: confidence of the limits.
      ddof: 1 divides by K − 1, 0 by K.
    """
    _, low, high = max_min(estimates, confidence)
    count = len(estimates)
    factor = np.sqrt(count / (count - ddof))
    value = float(np.std([e.value for e in estimates], ddof=ddof))
    return value, factor * low / np.sqrt(2 * count), factor * high / 2


def _scaled_limits(
    low: float,
    high: float,
    narrowest: Callable[[float], float],
    widest: Callable[[float], float],
    bends: Iterable[float],
) -> tuple[float, float]:
    """Returns the least and the greatest M / (1 + spread(M)) over M in [low, high].

    The spread is piecewise linear in M. Between the points where it bends the quotient is monotone, so that only these points and
    the two ends need a look.

    Args:
      low: smallest M.
      high: largest M.
      narrowest: function of M that returns the smallest possible spread.
      widest: function of M that returns the largest possible spread.
      bends: values of M where a spread bends.
    """
    points = np.unique(np.clip([low, high, *bends], low, high))
    least = min(point / (1 + widest(point)) for point in points)
    return float(least), float(max(point / (1 + narrowest(point)) for point in points))


def equity_scaled_sum(
    overall: Estimate, estimates: Sequence[Estimate], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Returns (M / (1 + Σ|M − M_g|), low, high).

    The limits are the least and the greatest value while M and all M_g are within their Bonferroni limits.

    Args:
      overall: M, the score of everyone.
      estimates: M_g, the scores of the groups.
      confidence: confidence of the limits.
    """
    value = overall.value / (1 + sum(abs(overall.value - e.value) for e in estimates))
    confidence_of_each = 1 - (1 - confidence) / (len(estimates) + 1)
    low, high = overall.limits(confidence_of_each)
    ends = np.array([e.limits(confidence_of_each) for e in estimates])
    if not np.isfinite([low, high, *ends.ravel()]).all():
        return value, *NO_LIMITS
    widest = lambda m: abs(m - ends).max(axis=1).sum()  # noqa: E731
    narrowest = lambda m: np.maximum(np.maximum(ends[:, 0] - m, m - ends[:, 1]), 0).sum()  # noqa: E731
    return value, *_scaled_limits(low, high, narrowest, widest, [*ends.ravel(), *ends.mean(axis=1)])


def equity_scaled_sd(
    overall: Estimate, estimates: Sequence[Estimate], confidence: float = 0.95, ddof: int = 0
) -> tuple[float, float, float]:
    """Returns (M / (1 + SD of M_g), low, high).

    The limits follow from those of M and of the SD (:func:`sd`), each at half the error.

    Args:
      overall: M, the score of everyone.
      estimates: M_g, the scores of the K groups.
      confidence: confidence of the limits.
      ddof: 1 divides by K − 1 in the SD, 0 by K.
    """
    spread, narrow, wide = sd(estimates, (1 + confidence) / 2, ddof)
    low, high = overall.limits((1 + confidence) / 2)
    return overall.value / (1 + spread), low / (1 + wide), high / (1 + narrow)


equity_scaled_sample_sd = functools.partial(equity_scaled_sd, ddof=1)
