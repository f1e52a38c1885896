"""What a frame says of the groups of an attribute: gaps, ratios, distances to everyone, extremes, named fairness scores."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from engine.metrics import comparisons, fairness
from engine.metrics.fairness import Cells, Score
from engine.metrics.intervals import Estimate
from engine.metrics.registry import Columns, Metric

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
      null: the hypothesis in words, with the null band of a range.
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
    min_detectable: float = float("nan")
    levels: tuple[str, ...] = ()
    reason: str | None = None


def gaps(entry: Metric, groups: Mapping[str, Estimate], reference: str) -> dict[str, Disparity]:
    """Differences, tested, and ratios of each group to the reference."""
    metric, base, differences, ratios = entry.name, groups[reference], {}, {}
    for level, estimate in groups.items():
        if level == reference:
            continue
        levels = (level, reference)
        missing = next((e.reason for e in (estimate, base) if math.isnan(e.value)), None)
        p, test = comparisons.p_value(estimate, base)
        differences[f"difference:{metric}:{level}-{reference}"] = Disparity(
            *comparisons.difference(estimate, base), p, test=test, null=f"{metric} is equal in {level} and {reference}",
            min_detectable=comparisons.detectable(estimate, base), levels=levels, reason=missing,
        )  # fmt: skip
        if entry.low >= 0:
            found = comparisons.ratio(estimate, base)
            reason = missing or ("the reference is 0" if math.isnan(found[0]) else None)
            ratios[f"ratio:{metric}:{level}/{reference}"] = Disparity(*found, levels=levels, reason=reason)
    return _holm(differences) | ratios


def _holm(found: Mapping[str, Disparity]) -> dict[str, Disparity]:
    adjusted = comparisons.holm([d.p for d in found.values()])
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


def extremes(
    entry: Metric, groups: Mapping[str, Estimate], replicates: Mapping[str, Float[np.ndarray, " b"]]
) -> dict[str, Disparity]:
    """Worst group, range, ratio of extremes and SD over the groups where the score exists; at least two are needed."""
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
    band, p = comparisons.range_null(values, np.stack([replicates[k] for k in known]))
    null = "all groups are equal"
    if math.isfinite(band):
        null += f"; the range would then read up to {band:.3f} (95th percentile) by chance"
    test = "range of centred bootstrap replicates" if math.isfinite(band) else None
    ratio = Disparity(_NAN, _NAN, _NAN, reason="a ratio needs values above 0")
    if entry.low >= 0 and values.min() > 0:
        _, low, high = comparisons.min_over_max(estimates)
        limits = 1 / high, 1 / low if low != 0 else math.inf
        ratio = Disparity(float(values.max() / values.min()), *limits, reason=reason)
    return {
        "worst_group": Disparity(*worst, levels=(name,), reason=reason),
        "max_min": Disparity(*comparisons.max_min(estimates), p, p, test, null, reason=reason),
        "max_over_min": ratio,
        "sd": Disparity(*comparisons.sd(estimates), reason=reason),
    }


def _named(
    score: Score, groups: Cells, overall: Mapping[str, Estimate], n: Mapping[str, int], confidence: float
) -> Disparity:
    cells = {**groups, "everyone": overall}
    needs = [m for m in score.needs if m not in score.spared]
    missing = [k for k, found in cells.items() if any(math.isnan(found[m].value) for m in needs)]
    if missing:
        reason = f"{' or '.join(needs)} is undefined in {', '.join(missing)}"
        return Disparity(_NAN, _NAN, _NAN, reason=reason)
    values = {k: {m: e.value for m, e in found.items()} for k, found in groups.items()}
    everyone = {m: e.value for m, e in overall.items()}
    value = score.compute(values, everyone, n)
    if math.isnan(value):
        return Disparity(_NAN, _NAN, _NAN, reason=f"{score.formula}: a denominator is 0")
    if score.limits is None:
        reason = f"no interval of its own: see {score.construction}"
        return Disparity(value, _NAN, _NAN, reason=reason)
    caution = fairness.caution(score, values, everyone)
    return Disparity(value, *score.limits(groups, overall, confidence), reason=caution)


def named(
    scores: Sequence[Score],
    strata: Mapping[str, tuple[Cells, Mapping[str, Estimate], Mapping[str, int]]],
    ranges: Mapping[str, Disparity],
) -> dict[str, Disparity]:
    """Named fairness scores, in each stratum; of several strata also their mean, weighted by images (``conditional_NAME``).

    The mean is the gap that is left between people alike in the control (conditional demographic parity and its kin; Kamiran et
    al., Knowl Inf Syst 2013;35:613; Wachter et al., W Va Law Rev 2021;123:735). Its limits are the weighted means of limits that
    hold in all strata together. A stratum where the score is undefined makes it so.

    Args:
      scores: to compute.
      strata: name (empty without control) -> (level -> metric -> estimate, metric -> estimate of everyone, level -> images),
        of known levels with images.
      ranges: found ``max_min:METRIC`` and ``max_min:METRIC:STRATUM``, whose tests are those of a score that is a range.

    Returns:
      ``NAME`` or ``NAME:STRATUM``, and ``conditional_NAME`` -> comparison.
    """
    found: dict[str, Disparity] = {}
    size = {stratum: sum(n.values()) for stratum, (_, _, n) in strata.items()}
    for score in scores:
        for stratum, cells in strata.items():
            end = f":{stratum}" if stratum else ""
            one = _named(score, *cells, _CONFIDENCE)
            tested = ranges.get(f"max_min:{score.range_of}{end}")
            if tested and not math.isnan(one.value):
                one = dataclasses.replace(
                    one, p=tested.p, p_adjusted=tested.p_adjusted, test=tested.test, null=tested.null
                )
            found[score.name + end] = one
        if any(strata):
            level = 1 - (1 - _CONFIDENCE) / len(strata)
            parts = {stratum: _named(score, *cells, level) for stratum, cells in strata.items()}
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
    rows: Mapping[str, Int[np.ndarray, " i"]], reference: str, columns: Columns, code: Int[np.ndarray, " n"]
) -> dict[str, Disparity]:
    """How far a group's positives stand above the reference's negatives, beyond the reverse (:func:`fairness.xauc`).

    Args:
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
        missing = next((e.reason for e in pair if math.isnan(e.value)), None)
        p, test = comparisons.p_value(*pair)
        null = f"positives of {level} stand above negatives of {reference} as often as the reverse"
        found[f"xauc_disparity:auroc:{level}-{reference}"] = Disparity(
            *comparisons.difference(*pair), p, test=test, null=null, min_detectable=comparisons.detectable(*pair),
            levels=(level, reference), reason=missing,
        )  # fmt: skip
    return _holm(found)
