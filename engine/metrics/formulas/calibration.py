"""Calibration of a binary score: whether 30 of 100 images scored .30 are positive.

The calibration intercept and slope are those of logistic recalibration; a calibrated score has 0 and 1. Both need no bins.
Calibration errors compare the mean score with the share of positives in :data:`BINS` bins. The plain ones (``ece``) are positive by
chance alone and shrink as a group grows, so that a small group always looks worse. Groups are therefore compared by the
intercept, the slope, or the debiased error, whose expectation is 0 for a calibrated score in a group of any size.

Bins are assigned once, on all rows, and are the same in every group and replicate. Equal scores always share a bin.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.formulas.metric import Columns, Metric, array_module, ratio

BINS = 15
LIMIT = 1e-6  # scores are held within this distance of 0 and 1 before their logit is taken
_STEPS = 300  # of Newton's method; a handful are enough unless the classes barely overlap


def _tolerance(weight: Array) -> float:
    """The length of a step at which Newton's method ends; the next step would have the square of that length."""
    return float(np.finfo(weight.dtype).eps) ** 0.5


def equal_mass_bins(score: Float[np.ndarray, " n"], count: int = BINS) -> Int[np.ndarray, " n"]:
    """Assigns bins that hold the same number of rows, ties apart: ⌊count · share of rows with a smaller score⌋.

    Args:
      score: [n].
      count: number of bins.

    Returns:
      [n] the number of each row's bin; equal scores share one.
    """
    smaller = np.searchsorted(np.sort(score), score, side="left")
    return smaller * count // max(len(score), 1)


def equal_width_bins(score: Float[np.ndarray, " n"], count: int = BINS) -> Int[np.ndarray, " n"]:
    """Assigns the bins [0, 1/count), ..., [1 − 1/count, 1] of a probability: [n] the number of each row's bin."""
    return np.minimum((np.asarray(score) * count).astype(np.int64), count - 1)


def _binned(assign: Callable[[np.ndarray], np.ndarray]) -> Callable[[Columns], Columns]:
    """The preparation of a calibration error: gaps between score and truth, and the bin of each row."""

    def prepare(columns: Columns) -> Columns:
        score = np.asarray(columns["score"], np.float64)
        return {
            "gap": score - columns["truth"],
            "truth": np.asarray(columns["truth"], bool),
            "bin": assign(score),
        }

    return prepare


def _sums(columns: Columns, *parts: Array) -> list[Array]:
    """Sums of [n] arrays over each bin: each [BINS]."""
    xp = array_module(parts[0])
    if xp is np:
        return [np.bincount(columns["bin"], part, BINS) for part in parts]
    inside = (xp.arange(BINS)[:, None] == columns["bin"]).astype(parts[0].dtype)
    return [inside @ part for part in parts]


def _expected_error(columns: Columns, weight: Float[Array, " n"]) -> Array:
    (gap,) = _sums(columns, weight * columns["gap"])
    return ratio(abs(gap).sum(), weight.sum())


def _debiased_error(columns: Columns, weight: Float[Array, " n"]) -> Array:
    xp = array_module(weight)
    parts = weight, weight**2, weight * columns["gap"], weight * columns["truth"]
    n, squares, gap, positives = _sums(columns, *parts)
    share, pairs = positives / xp.where(n > 0, n, 1), n**2 - squares
    chance = share * (1 - share) * squares / xp.where(pairs > 0, pairs, 1)
    error = (gap / xp.where(n > 0, n, 1)) ** 2 - chance
    counted = xp.where(pairs > 0, n, 0)
    return ratio((counted * error).sum(), counted.sum())


def _logit_columns(columns: Columns) -> Columns:
    held = np.clip(np.asarray(columns["score"], np.float64), LIMIT, 1 - LIMIT)
    return {"logit": np.log(held) - np.log1p(-held), "truth": np.asarray(columns["truth"], bool)}


def _repeat(step: Callable, going: Callable, state: tuple) -> tuple:
    """Repeats a step while ``going`` holds, in plain Python or compiled."""
    if isinstance(state[0], jax.Array):
        return jax.lax.while_loop(going, step, state)
    while going(state):
        state = step(state)
    return state


def _sigmoid(x: Array) -> Array:
    xp = array_module(x)
    small = xp.exp(-abs(x))
    return xp.where(x >= 0, 1, small) / (1 + small)


def _intercept(columns: Columns, weight: Float[Array, " n"]) -> Array:
    """The root of Σ w (y − σ(a + logit)), by Newton's method between limits that enclose it."""
    xp, logit, truth = array_module(weight), columns["logit"], columns["truth"]
    total, positives = weight.sum(), xp.where(truth, weight, 0).sum()
    tolerance = _tolerance(weight)
    both = (positives > 0) & (positives < total)
    share = xp.where(both, positives / xp.where(total > 0, total, 1), 0.5)
    centre = xp.log(share) - xp.log1p(-share)
    low = centre - xp.where(weight > 0, logit, -np.inf).max(initial=-np.inf)
    high = centre - xp.where(weight > 0, logit, np.inf).min(initial=np.inf)

    def step(state: tuple) -> tuple:
        a, low, high, _, count = state
        p = _sigmoid(a + logit)
        excess, slope = positives - weight @ p, weight @ (p * (1 - p))
        low, high = xp.where(excess >= 0, a, low), xp.where(excess <= 0, a, high)
        following = a + excess / xp.where(slope > 0, slope, 1)
        following = xp.where((following < low) | (following > high), (low + high) / 2, following)
        return following, low, high, abs(following - a), count + 1

    def going(state: tuple) -> Array:
        return (state[3] > tolerance) & (state[4] < _STEPS)

    start = xp.where(both, xp.clip(0.0, low, high), 0.0)
    far = xp.where(both, xp.ones_like(start), 0.0)
    a, _, _, moved, _ = _repeat(
        step, going, (start, xp.where(both, low, 0.0), xp.where(both, high, 0.0), far, 0)
    )
    return xp.where(both & (moved <= tolerance), a, np.nan)


def _slope(columns: Columns, weight: Float[Array, " n"]) -> Array:
    """The b that makes Σ w ln P(y | σ(a + b · logit)) largest, by Newton's method, which halves steps that go down.

    It exists where the scores of the two classes overlap: neither all positives score at least as high as all negatives, nor
    all at most as high.
    """
    xp, logit, truth = array_module(weight), columns["logit"], columns["truth"]

    def extremes(rows: Array) -> tuple[Array, Array]:
        there = rows & (weight > 0)
        return (
            xp.where(there, logit, np.inf).min(initial=np.inf),
            xp.where(there, logit, -np.inf).max(initial=-np.inf),
        )

    (low_p, high_p), (low_n, high_n) = extremes(truth), extremes(~truth)
    overlap = (high_n > low_p) & (high_p > low_n)
    tolerance = _tolerance(weight)
    y, total = truth.astype(weight.dtype), xp.where(overlap, weight.sum(), 1)
    # Where logits hardly differ, their sums of squares keep few digits: they are centred and scaled first.
    mean = weight @ logit / total
    spread = xp.sqrt(weight @ (logit - mean) ** 2 / total)
    spread = xp.where(overlap & (spread > 0), spread, 1)
    logit = (logit - mean) / spread

    def likelihood(a: Array, b: Array) -> Array:
        x = a + b * logit
        return weight @ (y * x - xp.maximum(x, 0) - xp.log1p(xp.exp(-abs(x)))) / total

    def step(state: tuple) -> tuple:
        a, b, best, move_a, move_b, _, count = state
        value = likelihood(a + move_a, b + move_b)
        rises = value >= best - tolerance * abs(best)
        a, b = xp.where(rises, a + move_a, a), xp.where(rises, b + move_b, b)
        p = _sigmoid(a + b * logit)
        miss, curve = weight * (y - p), weight * p * (1 - p)
        g0, g1 = miss.sum(), miss @ logit
        h0, h1, h2 = curve.sum(), curve @ logit, curve @ logit**2
        area = h0 * h2 - h1 * h1
        area = xp.where(area > 0, area, 1)
        newton_a, newton_b = (h2 * g0 - h1 * g1) / area, (h0 * g1 - h1 * g0) / area
        move_a, move_b = xp.where(rises, newton_a, move_a / 2), xp.where(rises, newton_b, move_b / 2)
        gain = xp.where(
            rises, (g0 * newton_a + g1 * newton_b) / total, np.inf
        )  # twice what the step will add
        return a, b, xp.where(rises, value, best), move_a, move_b, gain, count + 1

    def going(state: tuple) -> Array:
        a, b, best, move_a, move_b, gain, count = state
        far = abs(move_a) + abs(move_b) > tolerance * (1 + abs(a) + abs(b))
        far = far & (gain > np.finfo(weight.dtype).eps * abs(best))  # a flat likelihood can tell no more
        return overlap & ((count == 0) | far) & (count < _STEPS)

    zero = 0 * total
    state = _repeat(step, going, (mean, spread, likelihood(mean, spread), zero, zero, zero, 0))
    return xp.where(overlap & (state[6] < _STEPS), (state[1] + state[4]) / spread, np.nan)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A calibration curve: observed against predicted, bin by bin, from low scores to high; empty bins are left out.

    Attributes:
      predicted: mean score.
      observed: share of positives.
      low: lower Wilson limit of the share, clustered by patient.
      high: upper Wilson limit of the share.
      n: number of images.
    """

    predicted: Float[np.ndarray, " bins"]
    observed: Float[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    n: Int[np.ndarray, " bins"]


def curve(
    truth: Bool[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    code: Int[np.ndarray, " n"] | None = None,
    bins: int | Int[np.ndarray, " n"] = 10,
    confidence: float = 0.95,
) -> Curve:
    """Computes a calibration curve.

    Args:
      truth: [n].
      score: [n] probabilities.
      code: patient of each image; by default each is a patient of its own.
      bins: number of bins of equal mass, or the bin of each row, so that groups that are compared share the bins of all rows.
      confidence: confidence of the limits.

    Returns:
      The curve, with one point for each bin that holds images.
    """
    truth, score = np.asarray(truth, bool), np.asarray(score, np.float64)
    code = np.arange(len(truth)) if code is None else code
    number = equal_mass_bins(score, bins) if np.ndim(bins) == 0 else np.asarray(bins)
    points = []
    for chosen in np.unique(number):
        rows = number == chosen
        share = intervals.proportion(truth[rows], code[rows])
        points.append((score[rows].mean(), share.value, *share.limits(confidence), share.n))
    predicted, observed, low, high, n = np.array(points, np.float64).reshape(-1, 5).T
    return Curve(predicted, observed, low, high, n.astype(np.int64))


_BINARY, _COX = ("binary",), "Cox, Biometrika 1958;45:562; Van Calster et al., BMC Med 2019;17:230"
METRICS: Sequence[Metric] = (
    Metric("calibration_intercept", "calibration intercept (0: as many positives as predicted)",
           f"a of logit P(positive) = a + logit(score); scores held within {LIMIT:g} of 0 and 1", False, -np.inf, np.inf,
           "one of the classes has no image", _COX, _BINARY, kind="weighted", weighted=_intercept, prepare=_logit_columns, target=0,
           may_bin=True),
    Metric("calibration_slope", "calibration slope (1: neither over- nor underconfident)",
           f"b of logit P(positive) = a + b · logit(score); scores held within {LIMIT:g} of 0 and 1", True, -np.inf, np.inf,
           "the scores of the classes do not overlap", _COX, _BINARY, kind="weighted", weighted=_slope, prepare=_logit_columns,
           target=1, may_bin=True),
    Metric("squared_calibration_error_debiased", "squared calibration error, debiased (0 on average when calibrated; may be negative)",
           f"Σ (n_b / N) [(mean score − share positive)² − share (1 − share) / (n_b − 1)] over {BINS} bins of equal mass", False,
           -np.inf, 1, "no bin has two images; bins with one are left out", "Kumar et al., NeurIPS 2019, arXiv:1909.10155", _BINARY,
           kind="weighted", weighted=_debiased_error, prepare=_binned(equal_mass_bins)),
    Metric("ece", "expected calibration error, bins of equal mass (larger in small groups by chance)",
           f"Σ (n_b / N) |mean score − share positive| over {BINS} bins of equal mass", False, 0, 1, "no image",
           "Naeini et al., AAAI 2015:2901; bins: Nixon et al., CVPR Workshops 2019", _BINARY, kind="weighted",
           weighted=_expected_error, prepare=_binned(equal_mass_bins), smooth=False),
    Metric("ece_equal_width", "expected calibration error, bins of equal width (larger in small groups by chance)",
           f"Σ (n_b / N) |mean score − share positive| over {BINS} bins of width 1/{BINS}", False, 0, 1, "no image",
           "Guo et al., ICML 2017, PMLR 70:1321", _BINARY, kind="weighted", weighted=_expected_error,
           prepare=_binned(equal_width_bins), smooth=False, listed=False),
)  # fmt: skip
