"""Confidence intervals whose unit is the patient, not the image.

Proportions: Wilson limits with an effective number of images. AUROC: Obuchowski's clustered variance on the logit scale.
Differences: MOVER (Zou and Donner, Stat Med 2008;27:1693), with the covariance of groups that share patients. Extremes
(worst group, max-min): Bonferroni constructions, because a bootstrap of an extreme does not cover. Other smooth scores:
percentile bootstrap over patients. The same subjects seen twice: Newcombe's paired score interval.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, stats

from engine.metrics import classification

_NAN = (float("nan"), float("nan"))
_SMALLEST_P = 1e-12
_MIN_VALID = 0.8  # share of resamples in which a score must exist for its percentiles to be shown


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A score of one set of images, able to give limits at any confidence.

    Attributes:
      value: NaN where undefined.
      n: images that the formula counts.
      n_subjects: patients among them.
      events: images that count as events (the numerator of a proportion, else true positives).
      se: clustered standard error; NaN for a bootstrap.
      method: of the interval.
      limits: confidence (such as 0.95) -> (low, high).
      influence: [num_subjects] what each patient adds to the error of ``value``, aligned over all sets of a table.
      replicates: [resamples] of a bootstrap, aligned over all sets of a table; else None.
      reason: why value or interval is missing, or must be read with care.
    """

    value: float
    n: int
    n_subjects: int
    events: int
    se: float
    method: str
    limits: Callable[[float], tuple[float, float]]
    influence: Float[np.ndarray, " i"] | None = None
    replicates: Float[np.ndarray, " b"] | None = None
    reason: str | None = None

    @property
    def b_valid(self) -> int | None:
        """Resamples in which the score exists; None without a bootstrap."""
        return None if self.replicates is None else int(np.isfinite(self.replicates).sum())


def undefined(reason: str, n: int = 0, n_subjects: int = 0, events: int = 0) -> Estimate:
    """The estimate of what does not exist: NaN, with its n and the reason."""
    return Estimate(float("nan"), n, n_subjects, events, float("nan"), "none", lambda _: _NAN, reason=reason)


def subject_codes(subject: Sequence[str]) -> tuple[Int[np.ndarray, " n"], int]:
    """Patients as numbers, ordered by a hash of their id, so that neither row order nor naming steers a resample.

    Returns:
      (code of each row, number of patients).
    """
    names, place = np.unique(np.asarray(subject, dtype=str), return_inverse=True)
    order = np.argsort([hashlib.sha256(name.encode()).hexdigest() for name in names.tolist()])
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    return rank[place], len(names)


def wilson_limits(p: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score limits of a proportion (Wilson, JASA 1927;22:209). ``n`` may be fractional."""
    z = stats.norm.ppf(0.5 + confidence / 2)
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    # At 0 and 1 the limit is the value itself; rounding must not push it past.
    return float(0.0 if p == 0 else max(low, 0.0)), float(1.0 if p == 1 else min(high, 1.0))


def proportion(success: Bool[np.ndarray, " n"], code: Int[np.ndarray, " n"], num_subjects: int) -> Estimate:
    """A proportion of images, clustered by patient: Wilson limits at n / deff.

    deff = clustered variance ÷ [p(1−p)/n], held within [1, Σm²/Σm] for m images per patient; the upper bound where p is 0
    or 1 (the data then say nothing about clustering).

    Args:
      success: of each image.
      code: patient of each image, from :func:`subject_codes`.
      num_subjects: patients in the whole table.
    """
    n = len(success)
    if not n:
        return undefined("no image")
    success = np.asarray(success, np.float64)
    p = float(success.mean())
    images = np.bincount(code, minlength=num_subjects).astype(np.float64)
    patients = int((images > 0).sum())
    residual = np.bincount(code, success, num_subjects) - p * images
    ceiling = float((images**2).sum() / n)
    deff = ceiling
    if 0 < p < 1 and patients > 1:
        clustered = patients / (patients - 1) * (residual**2).sum() / n**2
        deff = float(np.clip(clustered / (p * (1 - p) / n), 1, ceiling))
    effective = n / deff
    se = float(np.sqrt(p * (1 - p) / effective))
    if se == 0:  # a share of 0 or 1: the width of its score interval says how uncertain it is
        low, high = wilson_limits(p, effective)
        se = (high - low) / (2 * float(stats.norm.ppf(0.975)))
    limits = lambda confidence: wilson_limits(p, effective, confidence)  # noqa: E731
    return Estimate(
        p, n, patients, int(success.sum()), se, "Wilson, clustered by patient", limits, residual / n
    )


def area(
    truth: Bool[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    code: Int[np.ndarray, " n"],
    num_subjects: int,
) -> Estimate:
    """AUROC clustered by patient (Obuchowski, Biometrics 1997;53:567); DeLong's where each patient has one image.

    Limits stand on the logit scale with t quantiles of min(I10, I01) − 1 degrees of freedom, I10 and I01 being the
    patients with a positive and with a negative image.
    """
    truth, score = np.asarray(truth, bool), np.asarray(score, np.float64)
    m, n = int(truth.sum()), int((~truth).sum())
    patients = len(np.unique(code))
    if not m or not n:
        return undefined(classification.get("auroc").undefined, m + n, patients, m)
    positive, negative = np.sort(score[truth]), np.sort(score[~truth])
    below = lambda x, y: (np.searchsorted(x, y, "left") + np.searchsorted(x, y, "right")) / (2 * len(x))  # noqa: E731
    v10, v01 = below(negative, score[truth]), 1 - below(positive, score[~truth])
    value = float(v10.mean())
    a = np.bincount(code[truth], v10 - value, num_subjects)
    b = np.bincount(code[~truth], v01 - value, num_subjects)
    i10, i01 = len(np.unique(code[truth])), len(np.unique(code[~truth]))
    if min(i10, i01) < 2:
        reason = "a class has a single patient: no interval"
        return dataclasses.replace(
            undefined(reason, m + n, patients, m), value=value, influence=a / m + b / n
        )
    variance = i10 / (i10 - 1) * (a**2).sum() / m**2 + i01 / (i01 - 1) * (b**2).sum() / n**2
    variance += 2 * patients / (patients - 1) * (a * b).sum() / (m * n)
    se = float(np.sqrt(max(variance, 0.0)))
    if not 0 < value < 1 or se == 0:
        reason = "the classes' scores do not overlap: the variance is 0 and gives no interval"
        return dataclasses.replace(
            undefined(reason, m + n, patients, m), value=value, influence=a / m + b / n
        )
    centre, spread, freedom = np.log(value / (1 - value)), se / (value * (1 - value)), min(i10, i01) - 1

    def limits(confidence: float) -> tuple[float, float]:
        half = stats.t.ppf(0.5 + confidence / 2, freedom) * spread
        return float(1 / (1 + np.exp(half - centre))), float(1 / (1 + np.exp(-half - centre)))

    return Estimate(value, m + n, patients, m, se, "Obuchowski, logit, t", limits, a / m + b / n)


def _correlation(a: Estimate, b: Estimate) -> float:
    """Of two estimates through the patients they share; exactly 0 when they share none."""
    if a.influence is None or b.influence is None:
        return 0.0
    both = float((a.influence * b.influence).sum())
    size = float(np.sqrt((a.influence**2).sum() * (b.influence**2).sum()))
    return both / size if size else 0.0


def _mover(
    a: tuple[float, float, float], b: tuple[float, float, float], correlation: float
) -> tuple[float, float]:
    """Limits of a + b from (value, low, high) of each (Zou and Donner 2008, section 2)."""

    def distance(x: float, y: float) -> float:
        return float(np.sqrt(max(x * x + y * y + 2 * correlation * x * y, 0.0)))

    total = a[0] + b[0]
    return total - distance(a[0] - a[1], b[0] - b[1]), total + distance(a[2] - a[0], b[2] - b[0])


def average(a: Estimate, b: Estimate) -> Estimate:
    """The mean of two estimates, such as balanced accuracy, by MOVER."""
    if not np.isfinite(a.value + b.value):
        missing = a if np.isnan(a.value) else b
        return undefined(missing.reason or "undefined", a.n + b.n, max(a.n_subjects, b.n_subjects), a.n)
    correlation = _correlation(a, b)

    def limits(confidence: float) -> tuple[float, float]:
        low, high = _mover((a.value, *a.limits(confidence)), (b.value, *b.limits(confidence)), correlation)
        return low / 2, high / 2

    se = float(np.sqrt(a.se**2 + b.se**2 + 2 * correlation * a.se * b.se) / 2)
    influence = (a.influence + b.influence) / 2
    patients = int(np.count_nonzero((a.influence != 0) | (b.influence != 0)))
    patients = max(patients, a.n_subjects, b.n_subjects)
    return Estimate(
        (a.value + b.value) / 2,
        a.n + b.n,
        patients,
        a.n,
        se,
        "MOVER on Wilson, clustered by patient",
        limits,
        influence,
    )


def resample(sums: Float[np.ndarray, "i k"], resamples: int, seed: int) -> Float[np.ndarray, "b k"]:
    """Totals over patients drawn with replacement, whole patients at a time.

    Args:
      sums: of each patient, in the order of :func:`subject_codes`.
      resamples: how many.
      seed: equal seeds and numbers of patients give equal draws.
    """
    patients = len(sums)
    generator = np.random.Generator(np.random.PCG64(seed))
    chunk = max(1, 8_000_000 // max(patients, 1))  # bounds the memory of the counts to 64 MB
    totals = []
    for start in range(0, resamples, chunk):
        counts = generator.multinomial(
            patients, np.full(patients, 1 / patients), size=min(chunk, resamples - start)
        )
        totals.append(counts @ sums)
    return np.concatenate(totals)


def bootstrap(
    name: str,
    sums: Float[np.ndarray, " 6"],
    totals: Float[np.ndarray, "b 6"],
    n: int,
    n_subjects: int,
    events: int,
) -> Estimate:
    """Percentile bootstrap over patients of a smooth score.

    Args:
      name: in the registry; made of sums.
      sums: of all images, as :func:`engine.metrics.classification.components`.
      totals: the same of each resample, from :func:`resample`.
      n: images.
      n_subjects: patients.
      events: truly positive images.

    Raises:
      ValueError: for extremes, of which a bootstrap interval does not cover, and for ranks.
    """
    if (
        any(word in name for word in ("worst", "max_min", "range", "ratio", "equity", "sd"))
        and name not in classification.METRICS
    ):
        raise ValueError(
            f"no bootstrap interval for {name!r}: of a minimum, range or other extreme over groups it covers 0 to 30 % where it "
            "says 95 %; use intervals.worst_group or intervals.max_min (Bonferroni constructions)"
        )
    metric = classification.get(name)
    value = float(classification.from_sums(name, sums))
    if np.isnan(value):
        return undefined(metric.undefined, n, n_subjects, events)
    replicates = classification.from_sums(name, totals)
    finite = replicates[np.isfinite(replicates)]
    missing = len(replicates) - len(finite)
    reason = (
        f"{missing} of {len(replicates)} resamples are undefined ({metric.undefined})" if missing else None
    )

    def limits(confidence: float) -> tuple[float, float]:
        if n_subjects < 2 or len(finite) < _MIN_VALID * len(replicates):
            return _NAN
        low, high = np.quantile(finite, [0.5 - confidence / 2, 0.5 + confidence / 2])
        return float(low), float(high)

    if n_subjects < 2:
        reason = "a single patient: no interval"
    return Estimate(
        value,
        n,
        n_subjects,
        events,
        float("nan"),
        "percentile bootstrap by patient",
        limits,
        None,
        replicates,
        reason,
    )


def difference(a: Estimate, b: Estimate, confidence: float = 0.95) -> tuple[float, float, float]:
    """(a − b, low, high): MOVER, or percentiles of the replicates' differences where both are bootstrapped."""
    value = a.value - b.value
    if not np.isfinite(value):
        return float("nan"), *_NAN
    if a.replicates is not None and b.replicates is not None:
        if np.isnan(a.limits(confidence)[0] + b.limits(confidence)[0]):
            return value, *_NAN
        low, high = np.nanquantile(a.replicates - b.replicates, [0.5 - confidence / 2, 0.5 + confidence / 2])
        return value, float(low), float(high)
    low, high = b.limits(confidence)
    return value, *_mover((a.value, *a.limits(confidence)), (-b.value, -high, -low), -_correlation(a, b))


def p_value(a: Estimate, b: Estimate) -> tuple[float, str]:
    """(two-sided p of a = b, name of the test): the level at which :func:`difference`'s interval just reaches 0."""
    value, low, high = difference(a, b)
    if a.replicates is not None and b.replicates is not None:
        test = "percentile bootstrap of the difference"
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

    def nearest(log_p: float) -> float:
        _, low, high = difference(a, b, -np.expm1(log_p))
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
    variance = a.se**2 + b.se**2 - 2 * _correlation(a, b) * a.se * b.se
    return float((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * np.sqrt(variance))


def worst_group(estimates: Sequence[Estimate], higher_is_better: bool) -> tuple[float, float, float]:
    """(worst value, low, high) over disjoint groups: [min L at 97.5 %, min U at 1 − 0.025/K], one-sided levels.

    For a score whose small values are good the mirror image is taken.
    """
    narrow = np.array([e.limits(0.95) for e in estimates])
    wide = np.array([e.limits(1 - 0.05 / len(estimates)) for e in estimates])
    values = np.array([e.value for e in estimates])
    if higher_is_better:
        return float(values.min()), float(narrow[:, 0].min()), float(wide[:, 1].min())
    return float(values.max()), float(wide[:, 0].max()), float(narrow[:, 1].max())


def max_min(estimates: Sequence[Estimate]) -> tuple[float, float, float]:
    """(largest − smallest value, low, high): all pairs by :func:`difference`, Bonferroni: [max(0, max L), max |U|]."""
    pairs = [(a, b) for i, a in enumerate(estimates) for b in estimates[i + 1 :]]
    gaps = np.array([difference(a, b, 1 - 0.05 / len(pairs)) for a, b in pairs])
    values = [e.value for e in estimates]
    low = max(0.0, gaps[:, 1].max(), (-gaps[:, 2]).max()) if np.isfinite(gaps).all() else float("nan")
    return max(values) - min(values), float(low), float(np.abs(gaps[:, 1:]).max())


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
class PairedChange:
    """A proportion of the same subjects under two conditions.

    Attributes:
      value: second − first.
      low: limit.
      high: limit.
      n: subjects.
      first: proportion under the first condition.
      second: proportion under the second.
      gained: subjects positive under the second only.
      lost: subjects positive under the first only.
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
    """Change of a proportion, subject by subject, with the paired score interval (Newcombe, Stat Med 1998;17:2635, method 10).

    Args:
      first: whether each subject is positive under the first condition; one entry per subject.
      second: the same subjects, in the same order, under the second.
      confidence: of the interval.

    Returns:
      second − first; NaN with n = 0 for no subject.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    n = len(first)
    if not n:
        return PairedChange(float("nan"), *_NAN, 0, float("nan"), float("nan"), 0, 0)
    both, gained = int((first & second).sum()), int((~first & second).sum())
    lost, neither = int((first & ~second).sum()), int((~first & ~second).sum())
    p, q = second.mean(), first.mean()
    product = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    covariance = both * neither - gained * lost
    if covariance > 0:
        covariance = max(covariance - n / 2, 0)  # method 10's continuity correction
    correlation = covariance / np.sqrt(product) if product else 0.0
    low, high = wilson_limits(q, n, confidence)
    limits = _mover((p, *wilson_limits(p, n, confidence)), (-q, -high, -low), -correlation)
    return PairedChange((gained - lost) / n, *map(float, limits), n, float(q), float(p), gained, lost)
