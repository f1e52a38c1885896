"""Scores of methods over their runs, with the effects of seeds and patients apart, and paired differences between methods.

A method is a set of runs that differ by their seed. All runs are scored on the same patients. Sums and differences of scores
go through :mod:`equipoise.engine.metrics.estimates.seeds`. The interval of an extreme over groups (worst group, range) is neither
bootstrapped nor an average over runs: it belongs to the extreme of the groups' means over runs, by the constructions of
:mod:`equipoise.engine.metrics.estimates.comparisons`. Beside it stand the mean and the SD of each run's own extreme, which is larger by chance.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.engine.metrics.estimates import comparisons, multiplicity, seeds
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.estimates.seeds import OverSeeds
from equipoise.engine.metrics.formulas import registry, segmentation
from equipoise.engine.metrics.formulas.metric import Metric
from equipoise.engine.metrics.frames import export
from equipoise.engine.metrics.frames.disparities import Disparity
from equipoise.engine.metrics.frames.frame import Frame
from equipoise.engine.metrics.table import groupings

SCHEMA_VERSION = 1
TEST = "t of the mean over paired seeds, patients' sampling included"


@dataclasses.dataclass(frozen=True)
class DisparityOverSeeds(Disparity):
    """A comparison among groups over the runs of a method.

    Attributes:
      seed_sd: standard deviation between the runs' own values.
      sample_sd: standard deviation of one run's value over draws of patients; NaN for an extreme over groups.
      mean_of_runs: mean of the runs' own values. For an extreme it differs from ``value``, the extreme of the groups' means.
      num_runs: number of runs.
    """

    seed_sd: float = math.nan
    sample_sd: float = math.nan
    mean_of_runs: float = math.nan
    num_runs: int = 0


@dataclasses.dataclass(frozen=True)
class Contrast(DisparityOverSeeds):
    """A score of one method minus the same score of another, over the seeds that both have.

    Attributes:
      first: name of the first method.
      second: name of the second method.
      attribute: attribute of the groups; empty where everyone is scored.
      level: the group, or the two groups of a gap; empty where everyone is scored and for the worst group.
      score: a metric, ``difference:METRIC`` for a gap between groups, or ``worst_group:METRIC``.
      unpaired: seeds that only one of the two methods has.
    """

    first: str = ""
    second: str = ""
    attribute: str = ""
    level: str = ""
    score: str = ""
    unpaired: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class MethodScores:
    """Scores of one method over its runs.

    Attributes:
      runs: seed -> frame of that run.
      overall: metric -> mean over runs.
      groups: attribute -> level -> metric -> mean over runs.
      disparities: attribute -> ``difference:METRIC:LEVEL-REFERENCE``, ``worst_group:METRIC`` or ``max_min:METRIC`` ->
        comparison among the groups.
    """

    runs: Mapping[str, Frame]
    overall: dict[str, OverSeeds]
    groups: dict[str, dict[str, dict[str, OverSeeds]]]
    disparities: dict[str, dict[str, DisparityOverSeeds]]


def entry(metric: str) -> Metric:
    """Returns what the registry knows of a metric.

    ``f1:macro`` has the entry of ``f1``. ``mean:dice_cup``, a mean of values, has the entry of the column ``dice_cup``.
    """
    base, _, part = metric.partition(":")
    base_entry = registry.get(base)
    return segmentation.describe(part, base) if part and base_entry.tasks == ("values",) else base_entry


def known_levels(frame: Frame, attribute: str) -> list[str]:
    """Returns the levels that are compared: the known ones that have images."""
    levels = frame.groups[attribute]
    return [
        level
        for level, cells in levels.items()
        if groupings.is_known(level) and any(e.n for e in cells.values())
    ]


def _over(runs: Sequence[Estimate], metric: str) -> OverSeeds:
    """Returns the mean of a metric over runs, with limits within the metric's range."""
    return seeds.over_seeds(runs, (entry(metric).low, entry(metric).high))


def method(runs: Mapping[str, Frame]) -> MethodScores:
    """Scores one method over its runs.

    Args:
      runs: seed -> frame, each from ``evaluate(..., compare=False)`` on the same patients with the same seed of the bootstrap.
    """
    frames = list(runs.values())
    first = frames[0]
    overall = {m: _over([f.overall[m] for f in frames], m) for m in first.overall}
    groups = {
        a: {
            level: {m: _over([f.groups[a][level][m] for f in frames], m) for m in cells}
            for level, cells in levels.items()
        }
        for a, levels in first.groups.items()
    }
    disparities = {a: _gaps(frames, a) | _extremes(frames, groups, a) for a in first.groups}
    return MethodScores(runs, overall, groups, disparities)


def _gap_of_runs(
    frames: Sequence[Frame], attribute: str, level: str, reference: str, metric: str
) -> list[Estimate]:
    """Returns level minus reference in each run."""
    cells = [f.groups[attribute] for f in frames]
    return [seeds.combination((c[level][metric], c[reference][metric]), (1, -1)) for c in cells]


def _fields(mean: OverSeeds, **more: Any) -> dict[str, Any]:
    """Returns the fields of a comparison over seeds."""
    low, high = mean.estimate.limits(export.CONFIDENCE)
    return {
        "value": mean.estimate.value, "low": low, "high": high, "reason": mean.estimate.reason, "seed_sd": mean.seed_sd,
        "sample_sd": mean.sample_sd, "mean_of_runs": mean.estimate.value, "num_runs": len(mean.values), **more,
    }  # fmt: skip


def _gaps(frames: Sequence[Frame], attribute: str) -> dict[str, DisparityOverSeeds]:
    """Returns signed differences from the reference group; p is adjusted by Holm over the levels of one metric."""
    reference = frames[0].references.get(attribute)
    gaps: dict[str, DisparityOverSeeds] = {}
    for metric in frames[0].overall if reference else ():
        of_metric = {}
        for level in known_levels(frames[0], attribute):
            if level != reference:
                mean = seeds.over_seeds(_gap_of_runs(frames, attribute, level, reference, metric))
                null = f"{metric} is equal in {level} and {reference}"
                of_metric[f"difference:{metric}:{level}-{reference}"] = DisparityOverSeeds(
                    **_fields(mean, p=mean.p, test=TEST, null=null, levels=(level, reference))
                )
        gaps |= multiplicity.with_adjusted(of_metric)
    return gaps


def _extremes(
    frames: Sequence[Frame], groups: Mapping[str, Mapping[str, Mapping[str, OverSeeds]]], attribute: str
) -> dict[str, DisparityOverSeeds]:
    """Returns the worst group and the range of the groups' means over runs, with each run's own beside them."""
    extremes = {}
    for metric in frames[0].overall:
        about, levels = entry(metric), groups[attribute]
        known = [
            k for k in known_levels(frames[0], attribute) if not math.isnan(levels[k][metric].estimate.value)
        ]
        left_out = sorted(set(known_levels(frames[0], attribute)) - set(known))
        reason = f"undefined in {', '.join(left_out)}" if left_out else None
        if len(known) < 2:
            nothing = DisparityOverSeeds(
                math.nan,
                math.nan,
                math.nan,
                reason=f"{reason or 'one group'}: nothing to compare",
                num_runs=len(frames),
            )
            extremes |= {f"{kind}:{metric}": nothing for kind in ("worst_group", "max_min")}
            continue
        cells = [[f.groups[attribute][k][metric] for k in known] for f in frames]
        reason = reason or (seeds.ONE_SEED if len(frames) == 1 else None)
        worst = comparisons.worst_group(
            [levels[k][metric].estimate for k in known], about.higher_is_better, about.target
        )
        name = next(k for k in known if levels[k][metric].estimate.value == worst[0])
        of_runs = [comparisons.worst_group(c, about.higher_is_better, about.target)[0] for c in cells]
        extremes[f"worst_group:{metric}"] = _extreme(worst, of_runs, (name,), reason)
        wide = seeds.largest_difference(list(zip(*cells, strict=True)))
        of_runs = [max(e.value for e in c) - min(e.value for e in c) for c in cells]
        extremes[f"max_min:{metric}"] = _extreme(wide, of_runs, (), reason)
    return extremes


def _extreme(
    limits: tuple[float, float, float],
    of_runs: Sequence[float],
    levels: tuple[str, ...],
    reason: str | None,
) -> DisparityOverSeeds:
    sd = float(np.std(of_runs, ddof=1)) if len(of_runs) > 1 else math.nan
    return DisparityOverSeeds(
        *limits,
        levels=levels,
        reason=reason,
        seed_sd=sd,
        mean_of_runs=float(np.mean(of_runs)),
        num_runs=len(of_runs),
    )


def contrasts(
    methods: Mapping[str, MethodScores], progress: Callable[[int, int], None] | None = None
) -> list[Contrast]:
    """Compares every pair of methods in every score: overall, by group, in gaps between groups and in the worst group.

    Args:
      methods: name -> scores, all on the same patients.
      progress: function that is called with (number of pairs done, number of pairs) after each pair.

    Returns:
      First minus second over the seeds that both have; p is adjusted by Holm over the pairs. ``unpaired`` names the other seeds.
    """
    pairs = list(itertools.combinations(methods, 2))
    differences: list[Contrast] = []
    for number, (first, second) in enumerate(pairs):
        differences += _contrasts(first, methods[first], second, methods[second])
        if progress:
            progress(number + 1, len(pairs))
    families: dict[tuple[str, str, str], dict[int, Contrast]] = {}
    for place, contrast in enumerate(differences):
        families.setdefault((contrast.attribute, contrast.level, contrast.score), {})[place] = contrast
    adjusted: dict[int, Contrast] = {}
    for family in families.values():
        adjusted |= multiplicity.with_adjusted(family)
    return [adjusted[place] for place in range(len(differences))]


def _contrasts(first: str, a: MethodScores, second: str, b: MethodScores) -> Iterator[Contrast]:
    """Yields a − b in every score."""
    shared = [s for s in a.runs if s in b.runs]
    unpaired = (
        *(f"{s} ({first})" for s in a.runs if s not in shared),
        *(f"{s} ({second})" for s in b.runs if s not in shared),
    )
    names = {"first": first, "second": second, "unpaired": unpaired}
    left, right = ([m.runs[s] for s in shared] for m in (a, b))
    frame = next(iter(a.runs.values()))
    if not shared:
        why = {"reason": "the two methods have no seed in common: train both with the same seeds"}
        for metric in frame.overall:
            yield Contrast(math.nan, math.nan, math.nan, score=metric, **names, **why)
        return

    def between(pick: Callable[[Frame], Estimate]) -> OverSeeds:
        """Returns the mean difference of what is picked from each frame."""
        return seeds.over_seeds(
            [seeds.combination((pick(x), pick(y)), (1, -1)) for x, y in zip(left, right, strict=True)]
        )

    def contrast(mean: OverSeeds, score: str, attribute: str = "", level: str = "") -> Contrast:
        null = f"the mean of {score} over seeds is equal in both methods" + (
            f", {attribute} {level}" if level else ""
        )
        where = {"score": score, "attribute": attribute, "level": level}
        return Contrast(**_fields(mean, p=mean.p, test=TEST, null=null), **names, **where)

    for metric in frame.overall:
        yield contrast(between(lambda f, m=metric: f.overall[m]), metric)
    for attribute in frame.groups:
        known, reference = known_levels(frame, attribute), frame.references.get(attribute)
        for metric in frame.overall:
            levels = {k: between(lambda f, a=attribute, k=k, m=metric: f.groups[a][k][m]) for k in known}
            for level, difference in levels.items():
                yield contrast(difference, metric, attribute, level)
            for level in known:
                if reference and level != reference:
                    gap = between(
                        lambda f, a=attribute, k=level, r=reference, m=metric: _gap_of_runs([f], a, k, r, m)[
                            0
                        ]
                    )
                    yield contrast(gap, f"difference:{metric}", attribute, f"{level} - {reference}")
            yield _worst(a, b, levels, attribute, metric, shared, names)


def _worst(
    a: MethodScores, b: MethodScores, differences: Mapping[str, OverSeeds], attribute: str, metric: str, shared: Sequence[str], names: Mapping[str, Any]
) -> Contrast:  # fmt: skip
    """Compares the worst group of one method with that of the other, over the shared seeds."""
    about, where = entry(metric), {"attribute": attribute, "score": f"worst_group:{metric}"}
    known = {k: o for k, o in differences.items() if not math.isnan(o.estimate.value)}
    if len(known) < 2 or about.target is not None:
        why = (
            "nothing to compare"
            if about.target is None
            else "a score with an ideal value has no ordered worst group"
        )
        return Contrast(math.nan, math.nan, math.nan, reason=why, **where, **names)
    sides = [[[m.runs[s].groups[attribute][k][metric].value for k in known] for s in shared] for m in (a, b)]
    worst = np.min if about.higher_is_better else np.max
    value = float(worst(np.mean(sides[0], axis=0)) - worst(np.mean(sides[1], axis=0)))
    low, high = seeds.shared_limits(list(known.values()))
    of_runs = worst(sides[0], axis=1) - worst(sides[1], axis=1)
    ps, signs = [o.p for o in known.values()], {o.estimate.value > 0 for o in known.values()}
    p = min(1.0, len(ps) * max(ps)) if len(signs) == 1 else 1.0
    return Contrast(
        value, low, high, p if math.isfinite(low) else math.nan, test="Bonferroni over the groups' differences",
        null=f"the worst group's {metric} is equal in both methods", reason=seeds.ONE_SEED if len(of_runs) == 1 else None,
        seed_sd=float(np.std(of_runs, ddof=1)) if len(of_runs) > 1 else math.nan, mean_of_runs=float(of_runs.mean()),
        num_runs=len(of_runs),
        **where, **names,
    )  # fmt: skip


def _cell(mean: OverSeeds) -> dict[str, Any]:
    low, high = mean.sample.limits(export.CONFIDENCE)
    return export.cell(mean.estimate) | {
        "num_runs": len(mean.values), "seed_sd": mean.seed_sd, "sample_sd": mean.sample_sd, "sample_low": low, "sample_high": high,
        "variance_seed": mean.variance_seed, "variance_patients": mean.variance_patients, "variance_both": mean.variance_both,
    }  # fmt: skip


def to_json(
    methods: Mapping[str, MethodScores], differences: Sequence[Contrast], **more: Any
) -> dict[str, Any]:
    """Returns what ``metrics.json`` of many runs holds: each method as in a report of one run, and their contrasts.

    Args:
      methods: name -> scores.
      differences: the contrasts, from :func:`contrasts`.
      **more: further entries, such as ``settings`` and ``runs``.
    """
    scores = {
        name: {
            "overall": {m: _cell(o) for m, o in method_scores.overall.items()},
            "groups": {
                a: {level: {m: _cell(o) for m, o in cells.items()} for level, cells in levels.items()}
                for a, levels in method_scores.groups.items()
            },
            "disparities": {
                a: {k: export.comparison(d) for k, d in gaps.items()}
                for a, gaps in method_scores.disparities.items()
            },
        }
        for name, method_scores in methods.items()
    }
    contrasted = [export.comparison(contrast) for contrast in differences]
    return export.clean(
        {"schema_version": SCHEMA_VERSION, "methods": scores, "contrasts": contrasted, **more}
    )
