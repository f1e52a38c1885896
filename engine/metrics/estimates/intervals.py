"""Confidence intervals of one quantity, whose unit is the patient and not the image.

- A proportion has Wilson's limits with an effective number of images, or Clopper and Pearson's.
- An AUROC has Obuchowski's clustered variance, on the logit scale.
- Other smooth scores have a percentile or BCa bootstrap over patients (:mod:`equipoise.engine.metrics.estimates.percentiles`).
- A proportion of the same subjects under two conditions has Newcombe's paired score interval.

The README of :mod:`equipoise.engine.metrics` says which interval belongs to which quantity, and why.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import special

NO_LIMITS = (math.nan, math.nan)
SMALLEST_P = 1e-12


@dataclasses.dataclass(frozen=True, repr=False)
class Estimate:
    """A score of one set of images, which gives its limits at any confidence.

    Attributes:
      value: the score; NaN where it is undefined.
      n: number of images that the formula counts.
      n_subjects: number of patients whose images these are.
      events: number of images that count as events: the numerator of a proportion, else the true positives.
      se: standard error, clustered by patient; for a bootstrap the standard deviation of its replicates.
      method: name of the interval's method.
      limits: function of the confidence, such as 0.95, that returns (low, high).
      influence: (codes of patients, ascending; what each of them adds to the error of ``value``). All other patients add 0.
      replicates: [resamples] values of a bootstrap, in the same order for all sets of a table; None without a bootstrap.
      left_out: function that returns the values without each patient in turn and how many patients each value stands for;
        None unless the limits are BCa.
      reason: why the value or the interval is missing, or why it must be read with care.
      freedom: degrees of freedom: the number of counted patients minus 1, in the rarer class where there are two.
    """

    value: float
    n: int
    n_subjects: int
    events: int
    se: float
    method: str
    limits: Callable[[float], tuple[float, float]]
    influence: tuple[Int[np.ndarray, " i"], Float[np.ndarray, " i"]] | None = None
    replicates: Float[np.ndarray, " b"] | None = None
    left_out: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    reason: str | None = None
    freedom: float = float("inf")

    def __repr__(self) -> str:
        """Returns ``0.466 (0.380 to 0.554), n=133`` with 95 % limits, or why there is no value."""
        n = "" if self.n is None else f", n={self.n}"  # None: suppressed
        if math.isnan(self.value):
            return f"undefined ({self.reason}){n}" if self.reason else f"undefined{n}"
        low, high = self.limits(0.95)
        limits = "" if math.isnan(low) or math.isnan(high) else f" ({low:.3f} to {high:.3f})"
        return f"{self.value:.3f}{limits}{n}"

    @property
    def b_valid(self) -> int | None:
        """Number of resamples in which the score exists; None without a bootstrap."""
        return None if self.replicates is None else int(np.isfinite(self.replicates).sum())


def undefined(reason: str, n: int = 0, n_subjects: int = 0, events: int = 0) -> Estimate:
    """Returns the estimate of a score that does not exist: NaN, with its counts and the reason."""
    return Estimate(math.nan, n, n_subjects, events, math.nan, "none", lambda _: NO_LIMITS, reason=reason)


def constant(value: float) -> Estimate:
    """Returns a stated number as an estimate without error, so that estimates can be compared with it."""
    return Estimate(value, 0, 0, 0, 0.0, "stated", lambda _: (value, value))


def subject_codes(subject: Sequence[str]) -> tuple[Int[np.ndarray, " n"], int]:
    """Numbers the patients by a hash of their id, so that neither the order of rows nor the ids steer a resample.

    Args:
      subject: [n] id of the patient of each row.

    Returns:
      ([n] number of the patient of each row, number of patients).
    """
    place, names = pd.factorize(np.asarray(subject, dtype=str), sort=True)
    digests = b"".join(hashlib.sha256(name.encode()).digest()[:8] for name in names)
    rank = np.empty(len(names), np.int64)
    rank[np.argsort(np.frombuffer(digests, ">u8"), kind="stable")] = np.arange(len(names))
    return rank[place], len(names)


def wilson_limits(p: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the score limits of a proportion ``p`` of ``n`` (Wilson, JASA 1927;22:209); ``n`` may be fractional."""
    z = special.ndtri(0.5 + confidence / 2)
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    # At 0 and 1 the limit is the value itself; rounding must not push it past.
    return float(0.0 if p == 0 else max(low, 0.0)), float(1.0 if p == 1 else min(high, 1.0))


def clopper_pearson_limits(p: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the exact limits of a proportion (Clopper and Pearson, Biometrika 1934;26:404), which never cover less than they say.

    ``n`` may be fractional: with an effective number of images the limits are those of Korn and Graubard
    (Survey Methodology 1998;24:193).
    """
    tail, events = (1 - confidence) / 2, p * n
    low = special.betaincinv(events, n - events + 1, tail) if events > 0 else 0.0
    high = special.betaincinv(events + 1, n - events, 1 - tail) if events < n else 1.0
    return float(low), float(high)


def proportion(
    success: Bool[np.ndarray, " n"], code: Int[np.ndarray, " n"], *, exact: bool = False
) -> Estimate:
    """Estimates a proportion of images, clustered by patient, with Wilson limits at an effective number of images n / deff.

    The design effect deff is the clustered variance ÷ [p(1−p)/n]. It is held within [1, Σm²/Σm], m being the images of each
    patient. Where p is 0 or 1 the data say nothing about clustering, and the upper bound is taken. Because I patients tell
    little about deff, n / deff is multiplied by (z / t_{I−1})², as Korn and Graubard do (Survey Methodology 1998;24:193), but
    it never falls below its value at the upper bound.

    Args:
      success: whether each image counts.
      code: patient of each image, from :func:`subject_codes`.
      exact: whether to give Clopper and Pearson's limits instead of Wilson's.
    """
    n = len(success)
    if not n:
        return undefined("no image")
    success = np.asarray(success, np.float64)
    p = float(success.mean())
    who, local, images = np.unique(code, return_inverse=True, return_counts=True)
    patients = len(who)
    residual = np.bincount(local, success) - p * images
    ceiling = float((images**2).sum() / n)
    deff = ceiling
    if 0 < p < 1 and patients > 1:
        clustered = patients / (patients - 1) * (residual**2).sum() / n**2
        deff = float(np.clip(clustered / (p * (1 - p) / n), 1, ceiling))
    effective = n / deff
    se = float(np.sqrt(p * (1 - p) / effective))
    if se == 0:  # the share is 0 or 1: the width of its score interval says how uncertain it is
        low, high = wilson_limits(p, effective)
        se = (high - low) / (2 * float(special.ndtri(0.975)))
    bounds, name = (clopper_pearson_limits, "Clopper-Pearson") if exact else (wilson_limits, "Wilson")

    def limits(confidence: float) -> tuple[float, float]:
        tail = 0.5 + confidence / 2
        wide = special.stdtrit(max(patients - 1, 1), tail)
        share = (special.ndtri(tail) / wide) ** 2 if wide > 0 else 1
        return bounds(p, max(effective * share, n / ceiling), confidence)

    method = f"{name}, clustered by patient"
    influence = who, residual / n
    return Estimate(p, n, patients, int(success.sum()), se, method, limits, influence, freedom=patients - 1)


@dataclasses.dataclass(frozen=True)
class Placements:
    """How the images of each patient rank among the images of the other class: all that the variance of an AUROC needs.

    Attributes:
      value: the AUROC; NaN unless both classes have images.
      a: [num_subjects] sum of V10 − AUROC over the patient's positive images; V10 is the share of negatives below an image.
      b: [num_subjects] sum of V01 − AUROC over the patient's negative images; V01 is the share of positives above an image.
      m: number of positive images.
      n: number of negative images.
      positive: [num_subjects] whether the patient has a positive image.
      negative: [num_subjects] whether the patient has a negative image.
    """

    value: float
    a: Float[np.ndarray, " i"] = dataclasses.field(repr=False)
    b: Float[np.ndarray, " i"] = dataclasses.field(repr=False)
    m: int
    n: int
    positive: Bool[np.ndarray, " i"] = dataclasses.field(repr=False)
    negative: Bool[np.ndarray, " i"] = dataclasses.field(repr=False)


def placements(
    truth: Bool[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    code: Int[np.ndarray, " n"],
    num_subjects: int,
) -> Placements:
    """Sums placement values by patient, in O(n log n) (Sun and Xu, IEEE Signal Process Lett 2014;21:1389)."""
    truth, score = np.asarray(truth, bool), np.asarray(score, np.float64)
    has = [np.bincount(code[rows], minlength=num_subjects) > 0 for rows in (truth, ~truth)]
    m, n = int(truth.sum()), int((~truth).sum())
    if not m or not n:
        nothing = np.zeros(num_subjects)
        return Placements(math.nan, nothing, nothing, m, n, *has)
    positive, negative = np.sort(score[truth]), np.sort(score[~truth])
    below = lambda x, y: (np.searchsorted(x, y, "left") + np.searchsorted(x, y, "right")) / (2 * len(x))  # noqa: E731
    v10, v01 = below(negative, score[truth]), 1 - below(positive, score[~truth])
    value = float(v10.mean())
    a = np.bincount(code[truth], v10 - value, num_subjects)
    b = np.bincount(code[~truth], v01 - value, num_subjects)
    return Placements(value, a, b, m, n, *has)


def area_covariance(p: Placements, q: Placements) -> float:
    """Returns the covariance of two AUROCs over the same patients; of an AUROC with itself it is the variance.

    The formula is I10/(I10−1)·Σaa'/(mm') + I01/(I01−1)·Σbb'/(nn') + I/(I−1)·Σ(ab'/(mn') + ba'/(nm')). I10, I01 and I count the
    patients who have a positive, a negative, and any image (Obuchowski, Biometrics 1997;53:567). With one image per patient it is
    DeLong's covariance (Biometrics 1988;44:837).

    Returns:
      The covariance; NaN where a class has a single patient.
    """
    i10, i01 = int((p.positive | q.positive).sum()), int((p.negative | q.negative).sum())
    patients = int((p.positive | q.positive | p.negative | q.negative).sum())
    if min(i10, i01) < 2:
        return math.nan
    same = i10 / (i10 - 1) * (p.a * q.a).sum() / (p.m * q.m) + i01 / (i01 - 1) * (p.b * q.b).sum() / (
        p.n * q.n
    )
    mixed = (p.a * q.b).sum() / (p.m * q.n) + (p.b * q.a).sum() / (p.n * q.m)
    return float(same + patients / (patients - 1) * mixed)


def area(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], code: Int[np.ndarray, " n"]
) -> Estimate:
    """Estimates an AUROC, clustered by patient (:func:`area_covariance`).

    The limits are taken on the logit scale, with t quantiles of min(I10, I01) − 1 degrees of freedom. I10 and I01 count the
    patients who have a positive and a negative image.

    Args:
      truth: whether each image is positive.
      score: score of each image; larger scores speak for the positive class.
      code: patient of each image, from :func:`subject_codes`.
    """
    who, local = np.unique(code, return_inverse=True)
    placed, patients = placements(truth, score, local, len(who)), len(who)
    m, n = placed.m, placed.n
    if not m or not n:
        return undefined("one of the classes has no image", m + n, patients, m)
    value, influence = placed.value, (who, placed.a / m + placed.b / n)
    variance = area_covariance(placed, placed)
    reason = None
    if np.isnan(variance):
        reason = "a class has a single patient: no interval"
    elif not 0 < value < 1 or variance <= 0:
        reason = "the classes' scores do not overlap: the variance is 0 and gives no interval"
    if reason:
        return dataclasses.replace(undefined(reason, m + n, patients, m), value=value, influence=influence)
    se, freedom = float(np.sqrt(variance)), min(int(placed.positive.sum()), int(placed.negative.sum())) - 1
    centre, spread = np.log(value / (1 - value)), se / (value * (1 - value))

    def limits(confidence: float) -> tuple[float, float]:
        half = special.stdtrit(freedom, 0.5 + confidence / 2) * spread
        return float(special.expit(centre - half)), float(special.expit(centre + half))

    method = "Obuchowski, logit, t"
    return Estimate(value, m + n, patients, m, se, method, limits, influence, freedom=freedom)


def correlation(a: Estimate, b: Estimate) -> float:
    """Returns the correlation of two estimates through the patients they share; 0 where they share none."""
    if a.influence is None or b.influence is None:
        return 0.0
    (first, x), (second, y) = a.influence, b.influence
    _, i, j = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    size = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x[i] * y[j]).sum()) / size if len(i) and size else 0.0


def mover(
    a: tuple[float, float, float], b: tuple[float, float, float], correlated: float = 0.0
) -> tuple[float, float]:
    """Returns the limits of a + b by MOVER (Zou and Donner, Stat Med 2008;27:1693, section 2).

    Args:
      a: (value, low, high) of the first term.
      b: the same of the second.
      correlated: correlation of the two.
    """

    def distance(x: float, y: float) -> float:
        return float(np.sqrt(max(x * x + y * y + 2 * correlated * x * y, 0.0)))

    total = a[0] + b[0]
    return total - distance(a[0] - a[1], b[0] - b[1]), total + distance(a[2] - a[0], b[2] - b[0])


def average(a: Estimate, b: Estimate) -> Estimate:
    """Returns the mean of two estimates, with limits by MOVER; balanced accuracy is one."""
    if not np.isfinite(a.value + b.value):
        missing = a if np.isnan(a.value) else b
        return undefined(missing.reason or "undefined", a.n + b.n, max(a.n_subjects, b.n_subjects), a.n)
    correlated = correlation(a, b)

    def limits(confidence: float) -> tuple[float, float]:
        low, high = mover((a.value, *a.limits(confidence)), (b.value, *b.limits(confidence)), correlated)
        return low / 2, high / 2

    se = float(np.sqrt(max(a.se**2 + b.se**2 + 2 * correlated * a.se * b.se, 0.0)) / 2)
    who, place = np.unique(np.concatenate([a.influence[0], b.influence[0]]), return_inverse=True)
    influence = who, np.bincount(place, np.concatenate([a.influence[1], b.influence[1]]) / 2)
    value, method = (a.value + b.value) / 2, f"MOVER on {a.method}"
    freedom = min(a.freedom, b.freedom)
    return Estimate(value, a.n + b.n, len(who), a.n, se, method, limits, influence, freedom=freedom)


@dataclasses.dataclass(frozen=True)
class PairedChange:
    """A proportion of the same subjects under two conditions.

    Attributes:
      value: second proportion − first proportion.
      low: lower limit of the change.
      high: upper limit of the change.
      n: number of subjects.
      first: proportion under the first condition.
      second: proportion under the second condition.
      gained: number of subjects who are positive under the second condition alone.
      lost: number of subjects who are positive under the first condition alone.
    """

    value: float
    low: float
    high: float
    n: int
    first: float
    second: float
    gained: int
    lost: int


def paired_change(
    first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"], confidence: float = 0.95
) -> PairedChange:
    """Compares a proportion of the same subjects under two conditions by the paired score interval.

    Newcombe, Stat Med 1998;17:2635, method 10.

    Args:
      first: whether each subject is positive under the first condition; one entry per subject.
      second: the same under the second condition, with the subjects in the same order.
      confidence: confidence of the interval.

    Returns:
      The change; NaN with n = 0 where there is no subject.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    n = len(first)
    if not n:
        return PairedChange(math.nan, *NO_LIMITS, 0, math.nan, math.nan, 0, 0)
    both, gained = int((first & second).sum()), int((~first & second).sum())
    lost, neither = int((first & ~second).sum()), int((~first & ~second).sum())
    p, q = second.mean(), first.mean()
    product = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    covariance = both * neither - gained * lost
    if covariance > 0:
        covariance = max(covariance - n / 2, 0)  # method 10's continuity correction
    correlated = covariance / np.sqrt(product) if product else 0.0
    low, high = wilson_limits(q, n, confidence)
    limits = mover((p, *wilson_limits(p, n, confidence)), (-q, -high, -low), -correlated)
    return PairedChange((gained - lost) / n, *map(float, limits), n, float(q), float(p), gained, lost)
