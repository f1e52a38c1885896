"""What a frame says of the groups of an attribute: gaps, ratios, distances to everyone, extremes, named fairness scores."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from equipoise.engine.metrics.estimates import chance, comparisons, multiplicity
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas import fairness
from equipoise.engine.metrics.formulas.fairness import Cells, Score
from equipoise.engine.metrics.formulas.metric import Columns, Metric

_NAN = float("nan")
_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Disparity:
    """One comparison among the groups of an attribute.

    Attributes:
      value: the point estimate, in the unit of the score.
      low: limit of the 95 % interval.
      high: limit.
      p: two-sided; NaN where no test is made.
      p_adjusted: Holm over the comparisons of one score and attribute.
      test: its name, or None.
      null: the hypothesis in words.
      null_mean: of an extreme of groups, what it reads on average by chance alone while all groups are equal.
      null_low: one table in twenty of equal groups reads less.
      null_high: one in twenty reads more.
      min_detectable: smallest true difference found with 80 % power at this n.
      levels: group minus reference, or the worst group.
      reason: why something is missing.
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
    """The difference a − b with its interval and test, not yet adjusted."""
    missing = next((e.reason for e in (a, b) if math.isnan(e.value)), None)
    p, test = comparisons.p_value(a, b)
    return Disparity(
        *comparisons.difference(a, b), p, test=test, null=null, min_detectable=comparisons.detectable(a, b), levels=levels,
        reason=missing,
    )  # fmt: skip


def gaps(entry: Metric, groups: Mapping[str, Estimate], reference: str) -> dict[str, Disparity]:
    """Differences, tested, and ratios of each group to the reference."""
    metric, base, differences, ratios = entry.name, groups[reference], {}, {}
    for level, estimate in groups.items():
        if level == reference:
            continue
        levels = (level, reference)
        one = tested(estimate, base, f"{metric} is equal in {level} and {reference}", levels)
        differences[f"difference:{metric}:{level}-{reference}"] = one
        if entry.low >= 0:
            found = comparisons.ratio(estimate, base)
            reason = one.reason or ("the reference is 0" if math.isnan(found[0]) else None)
            ratios[f"ratio:{metric}:{level}/{reference}"] = Disparity(*found, levels=levels, reason=reason)
    return _holm(differences) | ratios


def _holm(found: Mapping[str, Disparity]) -> dict[str, Disparity]:
    adjusted = multiplicity.holm([d.p for d in found.values()])
    return {
        k: dataclasses.replace(d, p_adjusted=p) for (k, d), p in zip(found.items(), adjusted, strict=True)
    }


def to_overall(metric: str, groups: Mapping[str, Estimate], overall: Estimate) -> dict[str, Disparity]:
    """Each group minus everyone, the group among them: a description, with no test."""
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
    """Each group minus everyone else of known group, tested.

    Args:
      metric: its name.
      groups: level -> estimate.
      rests: level -> estimate of the other levels together.
    """
    null = "{0} is equal in {1} and in everyone else"
    return _holm({
        f"to_rest:{metric}:{level}": tested(groups[level], rest, null.format(metric, level), (level,))
        for level, rest in rests.items()
    })  # fmt: skip


def extremes(
    entry: Metric, groups: Mapping[str, Estimate], replicates: Mapping[str, Float[np.ndarray, " b"]]
) -> dict[str, Disparity]:
    """Worst group, range, ratio of extremes and SD over the groups where the score exists; at least two are needed.

    By chance alone, all groups having the mean of their values, weighted by images, stands beside each.
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
    found = Disparity(value, low, high, p, p, test, "all groups are equal", reason=reason)
    return {
        "worst_group": _beside(Disparity(*worst, levels=(name,), reason=reason), _worst(entry, drawn)),
        "max_min": _beside(found, np.ptp(drawn, axis=0)),
        "max_over_min": ratio,
        "sd": _beside(Disparity(*comparisons.sd(estimates), reason=reason), drawn.std(axis=0)),
    }


def _beside(found: Disparity, drawn: Float[np.ndarray, " b"]) -> Disparity:
    """A comparison with what it reads by chance."""
    mean, low, high = chance.band(drawn)
    return dataclasses.replace(found, null_mean=mean, null_low=low, null_high=high)


def _worst(entry: Metric, values: Float[np.ndarray, "g b"]) -> Float[np.ndarray, " b"]:
    if entry.target is not None:
        return np.take_along_axis(values, abs(values - entry.target).argmax(axis=0)[None], axis=0)[0]
    return values.min(axis=0) if entry.higher_is_better else values.max(axis=0)


@dataclasses.dataclass(frozen=True)
class Stratum:
    """What named scores are made of, among everyone in one stratum of the control (or in the table).

    Attributes:
      groups: level -> metric -> estimate, of known levels with images.
      overall: metric -> estimate of everyone.
      n: level -> images.
      replicates: metric -> ([b] of everyone, level -> [b]) of smooth metrics, drawn together.
    """

    groups: Cells
    overall: Mapping[str, Estimate]
    n: Mapping[str, int]
    replicates: Mapping[str, tuple[Float[np.ndarray, " b"], Mapping[str, Float[np.ndarray, " b"]]]]

    def by_chance(self, score: Score) -> Float[np.ndarray, " b"]:
        """A score of replicates in which every group has everyone's value."""
        overall, groups = {}, {level: {} for level in self.groups}
        for metric in score.needs:
            overall[metric], own = self.replicates[metric]
            estimates = [found[metric] for found in self.groups.values()]
            stacked = np.stack([own[level] for level in self.groups])
            drawn = chance.equal_replicates(estimates, stacked, self.overall[metric].value)
            for level, values in zip(self.groups, drawn, strict=True):
                groups[level][metric] = values
        return score.compute(groups, overall, self.n)


def _named(score: Score, stratum: Stratum, confidence: float) -> Disparity:
    groups, overall = stratum.groups, stratum.overall
    cells = {**groups, "everyone": overall}
    needs = [m for m in score.needs if m not in score.spared]
    missing = [k for k, found in cells.items() if any(math.isnan(found[m].value) for m in needs)]
    if missing:
        reason = f"{' or '.join(needs)} is undefined in {', '.join(missing)}"
        return Disparity(_NAN, _NAN, _NAN, reason=reason)
    values = {k: {m: e.value for m, e in found.items()} for k, found in groups.items()}
    everyone = {m: e.value for m, e in overall.items()}
    value = float(score.compute(values, everyone, stratum.n))
    if math.isnan(value):
        return Disparity(_NAN, _NAN, _NAN, reason=f"{score.formula}: a denominator is 0")
    if score.limits is None:
        reason = f"no interval of its own: see {score.construction}"
        return Disparity(value, _NAN, _NAN, reason=reason)
    caution = fairness.caution(score, values, everyone)
    found = Disparity(value, *score.limits(groups, overall, confidence), reason=caution)
    return _beside(found, stratum.by_chance(score))


def named(
    scores: Sequence[Score], strata: Mapping[str, Stratum], ranges: Mapping[str, Disparity]
) -> dict[str, Disparity]:
    """Named fairness scores, in each stratum; of several strata also their mean, weighted by images (``conditional_NAME``).

    The mean is the gap that is left between people alike in the control (conditional demographic parity and its kin; Kamiran et
    al., Knowl Inf Syst 2013;35:613; Wachter et al., W Va Law Rev 2021;123:735). Its limits are the weighted means of limits that
    hold in all strata together. A stratum where the score is undefined makes it so.

    Args:
      scores: to compute.
      strata: name (empty without control) -> its people.
      ranges: found ``max_min:METRIC`` and ``max_min:METRIC:STRATUM``, whose tests are those of a score that is a range.

    Returns:
      ``NAME`` or ``NAME:STRATUM``, and ``conditional_NAME`` -> comparison.
    """
    found: dict[str, Disparity] = {}
    size = {name: sum(stratum.n.values()) for name, stratum in strata.items()}
    for score in scores:
        for name, stratum in strata.items():
            end = f":{name}" if name else ""
            one = _named(score, stratum, _CONFIDENCE)
            tested = ranges.get(f"max_min:{score.range_of}{end}")
            if tested and not math.isnan(one.value):
                one = dataclasses.replace(
                    one, p=tested.p, p_adjusted=tested.p_adjusted, test=tested.test, null=tested.null
                )
            found[score.name + end] = one
        if any(strata):
            level = 1 - (1 - _CONFIDENCE) / len(strata)
            parts = {name: _named(score, stratum, level) for name, stratum in strata.items()}
            found[f"conditional_{score.name}"] = _mean(parts, size)
    return found


def _mean(parts: Mapping[str, Disparity], weight: Mapping[str, int]) -> Disparity:
    """Weighted mean over strata, of values and of limits; NaN where one is."""
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
      metric: name of the area under the ROC curve.
      rows: level -> its rows.
      reference: level that the others are compared with.
      columns: binary.
      code: patient of each row.
    """
    found = {}
    for level in rows:
        if level == reference:
            continue
        pair = fairness.xauc(columns["truth"], columns["score"], code, rows[level], rows[reference])
        null = f"positives of {level} stand above negatives of {reference} as often as the reverse"
        found[f"xauc_disparity:{metric}:{level}-{reference}"] = tested(*pair, null, (level, reference))
    return _holm(found)
