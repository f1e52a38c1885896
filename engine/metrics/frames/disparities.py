"""Comparisons among the groups of an attribute: gaps, ratios, distances to everyone, extremes, named fairness scores."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from equipoise.engine.metrics.estimates import chance, comparisons, multiplicity
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas import fairness
from equipoise.engine.metrics.formulas.fairness import GroupEstimates, Score
from equipoise.engine.metrics.formulas.metric import Columns, Metric

_NAN = float("nan")
CONFIDENCE = 0.95  # of every interval that a frame shows


@dataclasses.dataclass(frozen=True)
class Disparity:
    """One comparison among the groups of an attribute.

    Attributes:
      value: point estimate, in the unit of the score.
      low: lower limit of the 95 % interval.
      high: upper limit of the 95 % interval.
      p: two-sided p value; NaN where no test is made.
      p_adjusted: p after Holm's correction over the comparisons of one score and attribute.
      test: name of the test, or None.
      null: hypothesis of the test, in words.
      null_mean: what an extreme of groups reads on average by chance alone, while all groups are equal.
      null_low: value below which one table in twenty of equal groups reads.
      null_high: value above which one table in twenty of equal groups reads.
      min_detectable: smallest true difference that is found with 80 % power at this n.
      levels: (group, reference), or the worst group.
      reason: why something is missing, or None.
    """

    value: float
    low: float
    high: float
    p: float = float("nan")
    p_adjusted: float = float("nan")
    test: str | None = None
    null: str | None = None
    null_mean: float = float("nan")
    null_low: float = float("nan")
    null_high: float = float("nan")
    min_detectable: float = float("nan")
    levels: tuple[str, ...] = ()
    reason: str | None = None


def tested(a: Estimate, b: Estimate, null: str, levels: tuple[str, ...]) -> Disparity:
    """The difference a − b with its interval and test; p is not yet adjusted."""
    missing = next((e.reason for e in (a, b) if math.isnan(e.value)), None)
    p, test = comparisons.p_value(a, b)
    return Disparity(
        *comparisons.difference(a, b), p, test=test, null=null, min_detectable=comparisons.detectable(a, b), levels=levels,
        reason=missing,
    )  # fmt: skip


def gaps(entry: Metric, groups: Mapping[str, Estimate], reference: str) -> dict[str, Disparity]:
    """Differences, which are tested, and ratios of each group to the reference."""
    metric, base, differences, ratios = entry.name, groups[reference], {}, {}
    for level, estimate in groups.items():
        if level == reference:
            continue
        levels = (level, reference)
        difference = tested(estimate, base, f"{metric} is equal in {level} and {reference}", levels)
        differences[f"difference:{metric}:{level}-{reference}"] = difference
        if entry.low >= 0:
            ratio = comparisons.ratio(estimate, base)
            reason = difference.reason or ("the reference is 0" if math.isnan(ratio[0]) else None)
            ratios[f"ratio:{metric}:{level}/{reference}"] = Disparity(*ratio, levels=levels, reason=reason)
    return multiplicity.with_adjusted(differences) | ratios


def to_overall(metric: str, groups: Mapping[str, Estimate], overall: Estimate) -> dict[str, Disparity]:
    """Each group minus everyone, which includes the group: a description without a test."""
    return {
        f"to_overall:{metric}:{level}": Disparity(
            *comparisons.difference(e, overall),
            levels=(level,),
            reason=e.reason if math.isnan(e.value) else None,
        )
        for level, e in groups.items()
    }


def to_rest(
    metric: str, groups: Mapping[str, Estimate], rests: Mapping[str, Estimate]
) -> dict[str, Disparity]:
    """Each group minus everyone else whose group is known, tested.

    Args:
      metric: name of the metric.
      groups: level -> estimate.
      rests: level -> estimate of the other levels together.
    """
    null = "{0} is equal in {1} and in everyone else"
    return multiplicity.with_adjusted({
        f"to_rest:{metric}:{level}": tested(groups[level], rest, null.format(metric, level), (level,))
        for level, rest in rests.items()
    })  # fmt: skip


def extremes(
    entry: Metric, groups: Mapping[str, Estimate], replicates: Mapping[str, Float[np.ndarray, " b"]]
) -> dict[str, Disparity]:
    """Worst group, range, ratio of extremes and SD over the groups where the score exists; at least two groups are needed.

    Beside each stands what it reads by chance alone, if every group had the mean of the groups' values, weighted by images.
    """
    known = {k: e for k, e in groups.items() if not math.isnan(e.value)}
    left_out = sorted(groups.keys() - known.keys())
    reason = f"undefined in {', '.join(left_out)}" if left_out else None
    kinds = ("worst_group", "max_min", "max_over_min", "sd")
    if len(known) < 2:
        return {k: Disparity(_NAN, _NAN, _NAN, reason=f"{reason}: nothing to compare") for k in kinds}
    estimates = list(known.values())
    values = np.array([e.value for e in estimates])
    worst = comparisons.worst_group(estimates, entry.higher_is_better, entry.target)
    name = next(k for k, e in known.items() if e.value == worst[0])
    common = float(np.average(values, weights=[e.n for e in estimates]))
    drawn = chance.equal_replicates(estimates, np.stack([replicates[k] for k in known]), common)
    p = chance.range_p(values, drawn)
    test = None if math.isnan(p) else "range of centred bootstrap replicates"
    ratio = Disparity(_NAN, _NAN, _NAN, reason="a ratio needs values above 0")
    if entry.low >= 0 and values.min() > 0:
        _, low, high = comparisons.min_over_max(estimates)
        limits = 1 / high, 1 / low if low != 0 else math.inf
        ratio = Disparity(float(values.max() / values.min()), *limits, reason=reason)
        ratio = _beside(ratio, drawn.max(axis=0) / np.where(drawn.min(axis=0) > 0, drawn.min(axis=0), np.nan))
    value, low, high = comparisons.max_min(estimates)
    largest_gap = Disparity(value, low, high, p, p, test, "all groups are equal", reason=reason)
    return {
        "worst_group": _beside(Disparity(*worst, levels=(name,), reason=reason), _worst(entry, drawn)),
        "max_min": _beside(largest_gap, np.ptp(drawn, axis=0)),
        "max_over_min": ratio,
        "sd": _beside(Disparity(*comparisons.sd(estimates), reason=reason), drawn.std(axis=0)),
    }


def _beside(disparity: Disparity, drawn: Float[np.ndarray, " b"]) -> Disparity:
    """A comparison with what it reads by chance beside it."""
    mean, low, high = chance.band(drawn)
    return dataclasses.replace(disparity, null_mean=mean, null_low=low, null_high=high)


def _worst(entry: Metric, values: Float[np.ndarray, "g b"]) -> Float[np.ndarray, " b"]:
    """The worst value of each replicate over its groups."""
    if entry.target is not None:
        return np.take_along_axis(values, abs(values - entry.target).argmax(axis=0)[None], axis=0)[0]
    return values.min(axis=0) if entry.higher_is_better else values.max(axis=0)


@dataclasses.dataclass(frozen=True)
class Stratum:
    """The numbers that named scores are made of, in one stratum of the control (or in the whole table).

    Attributes:
      groups: level -> metric -> estimate, for known levels that have images.
      overall: metric -> estimate of everyone.
      n: level -> number of images.
      replicates: metric -> ([b] of everyone, level -> [b]), drawn together; of smooth metrics.
    """

    groups: GroupEstimates
    overall: Mapping[str, Estimate]
    n: Mapping[str, int]
    replicates: Mapping[str, tuple[Float[np.ndarray, " b"], Mapping[str, Float[np.ndarray, " b"]]]]

    def by_chance(self, score: Score) -> Float[np.ndarray, " b"]:
        """The score in replicates where every group has the value of everyone."""
        overall, groups = {}, {level: {} for level in self.groups}
        for metric in score.needs:
            overall[metric], by_level = self.replicates[metric]
            estimates = [group[metric] for group in self.groups.values()]
            stacked = np.stack([by_level[level] for level in self.groups])
            drawn = chance.equal_replicates(estimates, stacked, self.overall[metric].value)
            for level, values in zip(self.groups, drawn, strict=True):
                groups[level][metric] = values
        return score.compute(groups, overall, self.n)


def _named(score: Score, stratum: Stratum, confidence: float) -> Disparity:
    """A named score in one stratum, with limits of a given confidence."""
    groups, overall = stratum.groups, stratum.overall
    cells = {**groups, "everyone": overall}
    needs = [m for m in score.needs if m not in score.spared]
    missing = [k for k, metrics in cells.items() if any(math.isnan(metrics[m].value) for m in needs)]
    if missing:
        reason = f"{' or '.join(needs)} is undefined in {', '.join(missing)}"
        return Disparity(_NAN, _NAN, _NAN, reason=reason)
    values = {k: {m: e.value for m, e in metrics.items()} for k, metrics in groups.items()}
    everyone = {m: e.value for m, e in overall.items()}
    value = float(score.compute(values, everyone, stratum.n))
    if math.isnan(value):
        return Disparity(_NAN, _NAN, _NAN, reason=f"{score.formula}: a denominator is 0")
    if score.limits is None:
        reason = f"no interval of its own: see {score.construction}"
        return Disparity(value, _NAN, _NAN, reason=reason)
    caution = fairness.caution(score, values, everyone)
    disparity = Disparity(value, *score.limits(groups, overall, confidence), reason=caution)
    return _beside(disparity, stratum.by_chance(score))


def named(
    scores: Sequence[Score], strata: Mapping[str, Stratum], ranges: Mapping[str, Disparity]
) -> dict[str, Disparity]:
    """Named fairness scores in each stratum; under control also their mean over strata, weighted by images (``conditional_NAME``).

    The mean is the gap that is left between people who are alike in the control (conditional demographic parity and its kin;
    Kamiran et al., Knowl Inf Syst 2013;35:613; Wachter et al., W Va Law Rev 2021;123:735). Its limits are the weighted means of
    limits that hold in all strata together. It is undefined where the score is undefined in any stratum.

    Args:
      scores: scores to compute.
      strata: name of each stratum (empty without control) -> its numbers.
      ranges: ``max_min:METRIC`` and ``max_min:METRIC:STRATUM`` -> comparison, whose test a score takes that is such a range.

    Returns:
      ``NAME`` or ``NAME:STRATUM``, and ``conditional_NAME`` -> comparison.
    """
    results: dict[str, Disparity] = {}
    size = {name: sum(stratum.n.values()) for name, stratum in strata.items()}
    for score in scores:
        for name, stratum in strata.items():
            end = f":{name}" if name else ""
            result = _named(score, stratum, CONFIDENCE)
            tested = ranges.get(f"max_min:{score.range_of}{end}")
            if tested and not math.isnan(result.value):
                result = dataclasses.replace(
                    result, p=tested.p, p_adjusted=tested.p_adjusted, test=tested.test, null=tested.null
                )
            results[score.name + end] = result
        if any(strata):
            level = 1 - (1 - CONFIDENCE) / len(strata)
            parts = {name: _named(score, stratum, level) for name, stratum in strata.items()}
            results[f"conditional_{score.name}"] = _mean(parts, size)
    return results


def _mean(parts: Mapping[str, Disparity], weight: Mapping[str, int]) -> Disparity:
    """The weighted mean over strata of values and of limits; NaN where one of them is NaN."""
    rows = np.array([(d.value, d.low, d.high) for d in parts.values()])
    reason = "; ".join(f"{stratum}: {d.reason}" for stratum, d in parts.items() if d.reason)
    return Disparity(
        *map(float, np.average(rows, axis=0, weights=[weight[k] for k in parts])), reason=reason or None
    )


def xauc(
    metric: str,
    rows: Mapping[str, Int[np.ndarray, " i"]],
    reference: str,
    columns: Columns,
    code: Int[np.ndarray, " n"],
) -> dict[str, Disparity]:
    """How far a group's positives stand above the reference's negatives, beyond the reverse (:func:`fairness.xauc`).

    Args:
      metric: name of the area under the ROC curve, for the keys.
      rows: level -> its rows.
      reference: level that the others are compared with.
      columns: columns of a binary task.
      code: patient of each row.
    """
    results = {}
    for level in rows:
        if level == reference:
            continue
        pair = fairness.xauc(columns["truth"], columns["score"], code, rows[level], rows[reference])
        null = f"positives of {level} stand above negatives of {reference} as often as the reverse"
        results[f"xauc_disparity:{metric}:{level}-{reference}"] = tested(*pair, null, (level, reference))
    return multiplicity.with_adjusted(results)
