"""Methods over their runs: every score of every method with seed and patients apart, and paired differences between methods.

A method is a set of runs that differ by their seed; all runs are scored on the same patients. Sums and differences of scores
go through :mod:`equipoise.engine.metrics.estimates.seeds`. Extremes of groups (worst group, range) are neither bootstrapped nor averaged into an
interval: their intervals are of the extreme of the groups' means over runs, by the constructions of
:mod:`equipoise.engine.metrics.estimates.comparisons`; beside them stand the mean and the SD of each run's own extreme, which is larger by chance.
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
      sample_sd: of one run's value over draws of patients; NaN of an extreme.
      mean_of_runs: mean of the runs' own values; of an extreme not the value, which is of the groups' means.
      num_runs: of the method.
    """

    seed_sd: float = math.nan
    sample_sd: float = math.nan
    mean_of_runs: float = math.nan
    num_runs: int = 0


@dataclasses.dataclass(frozen=True)
class Contrast(DisparityOverSeeds):
    """A score of one method minus that of another, over the seeds that both have.

    Attributes:
      first: method.
      second: method.
      attribute: of the groups; empty overall.
      level: group, or the two groups of a gap; empty overall and of the worst group.
      score: a metric, ``difference:METRIC`` for a gap between groups, or ``worst_group:METRIC``.
      unpaired: seeds that only one of the two has.
    """

    first: str = ""
    second: str = ""
    attribute: str = ""
    level: str = ""
    score: str = ""
    unpaired: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class MethodScores:
    """Scores of one method.

    Attributes:
      runs: seed -> scores of that run.
      overall: metric -> mean over runs.
      groups: attribute -> level -> metric -> mean over runs.
      disparities: attribute -> ``difference:METRIC:LEVEL-REFERENCE``, ``worst_group:METRIC`` or ``max_min:METRIC``.
    """

    runs: Mapping[str, Frame]
    overall: dict[str, OverSeeds]
    groups: dict[str, dict[str, dict[str, OverSeeds]]]
    disparities: dict[str, dict[str, DisparityOverSeeds]]


def entry(metric: str) -> Metric:
    """The registry's entry, of ``f1:macro`` that of ``f1``; of the values ``mean:dice_cup`` what is known of the column."""
    base, _, part = metric.partition(":")
    found = registry.get(base)
    return segmentation.describe(part, base) if part and found.tasks == ("values",) else found


def known_levels(frame: Frame, attribute: str) -> list[str]:
    """Levels that are compared: those of known group in which anyone is."""
    levels = frame.groups[attribute]
    return [
        name
        for name, found in levels.items()
        if groupings.is_known(name) and any(e.n for e in found.values())
    ]


def _over(runs: Sequence[Estimate], metric: str) -> OverSeeds:
    return seeds.over_seeds(runs, (entry(metric).low, entry(metric).high))


def method(runs: Mapping[str, Frame]) -> MethodScores:
    """Scores of one method over its runs.

    Args:
      runs: seed -> frame, of ``frame.evaluate(..., compare=False)`` on the same patients with the same seed of the bootstrap.
    """
    frames = list(runs.values())
    first = frames[0]
    overall = {m: _over([f.overall[m] for f in frames], m) for m in first.overall}
    groups = {
        a: {
            level: {m: _over([f.groups[a][level][m] for f in frames], m) for m in found}
            for level, found in levels.items()
        }
        for a, levels in first.groups.items()
    }
    disparities = {a: _gaps(frames, a) | _extremes(frames, groups, a) for a in first.groups}
    return MethodScores(runs, overall, groups, disparities)


def _apart(
    frames: Sequence[Frame], attribute: str, level: str, reference: str, metric: str
) -> list[Estimate]:
    """Level minus reference, of each run."""
    cells = [f.groups[attribute] for f in frames]
    return [seeds.combination((c[level][metric], c[reference][metric]), (1, -1)) for c in cells]


def _spread(found: OverSeeds, **more: Any) -> dict[str, Any]:
    low, high = found.estimate.limits(export.CONFIDENCE)
    return {
        "value": found.estimate.value, "low": low, "high": high, "reason": found.estimate.reason, "seed_sd": found.seed_sd,
        "sample_sd": found.sample_sd, "mean_of_runs": found.estimate.value, "num_runs": len(found.values), **more,
    }  # fmt: skip


def _gaps(frames: Sequence[Frame], attribute: str) -> dict[str, DisparityOverSeeds]:
    """Signed differences from the reference group, Holm over the levels of one metric."""
    reference = frames[0].references.get(attribute)
    gaps: dict[str, DisparityOverSeeds] = {}
    for metric in frames[0].overall if reference else ():
        found = {}
        for level in known_levels(frames[0], attribute):
            if level != reference:
                mean = seeds.over_seeds(_apart(frames, attribute, level, reference, metric))
                null = f"{metric} is equal in {level} and {reference}"
                found[f"difference:{metric}:{level}-{reference}"] = DisparityOverSeeds(
                    **_spread(mean, p=mean.p, test=TEST, null=null, levels=(level, reference))
                )
        gaps |= multiplicity.with_adjusted(found)
    return gaps


def _extremes(
    frames: Sequence[Frame], groups: Mapping[str, Mapping[str, Mapping[str, OverSeeds]]], attribute: str
) -> dict[str, DisparityOverSeeds]:
    """Worst group and range of the groups' means over runs; each run's own beside."""
    found = {}
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
            found |= {f"{kind}:{metric}": nothing for kind in ("worst_group", "max_min")}
            continue
        cells = [[f.groups[attribute][k][metric] for k in known] for f in frames]
        reason = reason or (seeds.ONE_SEED if len(frames) == 1 else None)
        worst = comparisons.worst_group(
            [levels[k][metric].estimate for k in known], about.higher_is_better, about.target
        )
        name = next(k for k in known if levels[k][metric].estimate.value == worst[0])
        own = [comparisons.worst_group(c, about.higher_is_better, about.target)[0] for c in cells]
        found[f"worst_group:{metric}"] = _extreme(worst, own, (name,), reason)
        wide = seeds.largest_difference(list(zip(*cells, strict=True)))
        own = [max(e.value for e in c) - min(e.value for e in c) for c in cells]
        found[f"max_min:{metric}"] = _extreme(wide, own, (), reason)
    return found


def _extreme(
    limits: tuple[float, float, float], own: Sequence[float], levels: tuple[str, ...], reason: str | None
) -> DisparityOverSeeds:
    sd = float(np.std(own, ddof=1)) if len(own) > 1 else math.nan
    return DisparityOverSeeds(
        *limits, levels=levels, reason=reason, seed_sd=sd, mean_of_runs=float(np.mean(own)), num_runs=len(own)
    )


def contrasts(
    methods: Mapping[str, MethodScores], progress: Callable[[int, int], None] | None = None
) -> list[Contrast]:
    """Every pair of methods in every score: overall, by group, gaps between groups, worst group; Holm over the pairs.

    Args:
      methods: name -> scores; the same patients throughout.
      progress: called with (pairs done, pairs in all).

    Returns:
      First minus second, over the seeds that both have. Seeds of one alone are named in ``unpaired``.
    """
    pairs = list(itertools.combinations(methods, 2))
    found: list[Contrast] = []
    for number, (first, second) in enumerate(pairs):
        found += _contrasts(first, methods[first], second, methods[second])
        if progress:
            progress(number + 1, len(pairs))
    families: dict[tuple[str, str, str], dict[int, Contrast]] = {}
    for place, one in enumerate(found):
        families.setdefault((one.attribute, one.level, one.score), {})[place] = one
    adjusted = {
        place: one
        for family in families.values()
        for place, one in multiplicity.with_adjusted(family).items()
    }
    return [adjusted[place] for place in range(len(found))]


def _contrasts(first: str, a: MethodScores, second: str, b: MethodScores) -> Iterator[Contrast]:
    shared = [s for s in a.runs if s in b.runs]
    unpaired = (
        *(f"{s} ({first})" for s in a.runs if s not in shared),
        *(f"{s} ({second})" for s in b.runs if s not in shared),
    )
    names = {"first": first, "second": second, "unpaired": unpaired}
    left, right = ([m.runs[s] for s in shared] for m in (a, b))
    some = next(iter(a.runs.values()))
    if not shared:
        why = {"reason": "the two methods have no seed in common: train both with the same seeds"}
        for metric in some.overall:
            yield Contrast(math.nan, math.nan, math.nan, score=metric, **names, **why)
        return

    def between(pick: Callable[[Frame], Estimate]) -> OverSeeds:
        return seeds.over_seeds(
            [seeds.combination((pick(x), pick(y)), (1, -1)) for x, y in zip(left, right, strict=True)]
        )

    def contrast(found: OverSeeds, score: str, attribute: str = "", level: str = "") -> Contrast:
        null = f"the mean of {score} over seeds is equal in both methods" + (
            f", {attribute} {level}" if level else ""
        )
        where = {"score": score, "attribute": attribute, "level": level}
        return Contrast(**_spread(found, p=found.p, test=TEST, null=null), **names, **where)

    for metric in some.overall:
        yield contrast(between(lambda f, m=metric: f.overall[m]), metric)
    for attribute in some.groups:
        known, reference = known_levels(some, attribute), some.references.get(attribute)
        for metric in some.overall:
            levels = {k: between(lambda f, a=attribute, k=k, m=metric: f.groups[a][k][m]) for k in known}
            for level, apart in levels.items():
                yield contrast(apart, metric, attribute, level)
            for level in known:
                if reference and level != reference:
                    gap = between(
                        lambda f, a=attribute, k=level, r=reference, m=metric: _apart([f], a, k, r, m)[0]
                    )
                    yield contrast(gap, f"difference:{metric}", attribute, f"{level} - {reference}")
            yield _worst(a, b, levels, attribute, metric, shared, names)


def _worst(
    a: MethodScores, b: MethodScores, apart: Mapping[str, OverSeeds], attribute: str, metric: str, shared: Sequence[str], names: Mapping[str, Any]
) -> Contrast:  # fmt: skip
    """Worst group of one method against that of the other, over the shared seeds."""
    about, where = entry(metric), {"attribute": attribute, "score": f"worst_group:{metric}"}
    known = {k: o for k, o in apart.items() if not math.isnan(o.estimate.value)}
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
    own = worst(sides[0], axis=1) - worst(sides[1], axis=1)
    ps, signs = [o.p for o in known.values()], {o.estimate.value > 0 for o in known.values()}
    p = min(1.0, len(ps) * max(ps)) if len(signs) == 1 else 1.0
    return Contrast(
        value, low, high, p if math.isfinite(low) else math.nan, test="Bonferroni over the groups' differences",
        null=f"the worst group's {metric} is equal in both methods", reason=seeds.ONE_SEED if len(own) == 1 else None,
        seed_sd=float(np.std(own, ddof=1)) if len(own) > 1 else math.nan, mean_of_runs=float(own.mean()), num_runs=len(own),
        **where, **names,
    )  # fmt: skip


def _cell(found: OverSeeds) -> dict[str, Any]:
    low, high = found.sample.limits(export.CONFIDENCE)
    return export.cell(found.estimate) | {
        "num_runs": len(found.values), "seed_sd": found.seed_sd, "sample_sd": found.sample_sd, "sample_low": low, "sample_high": high,
        "variance_seed": found.variance_seed, "variance_patients": found.variance_patients, "variance_both": found.variance_both,
    }  # fmt: skip


def to_json(methods: Mapping[str, MethodScores], found: Sequence[Contrast], **more: Any) -> dict[str, Any]:
    """What ``metrics.json`` of many runs holds: each method as in a report of one run, and their contrasts.

    Args:
      methods: name -> scores.
      found: from :func:`contrasts`.
      **more: further entries, such as ``settings`` and ``runs``.
    """
    each = {
        name: {
            "overall": {m: _cell(o) for m, o in one.overall.items()},
            "groups": {
                a: {level: {m: _cell(o) for m, o in cells.items()} for level, cells in levels.items()}
                for a, levels in one.groups.items()
            },
            "disparities": {
                a: {k: export.comparison(d) for k, d in gaps.items()} for a, gaps in one.disparities.items()
            },
        }
        for name, one in methods.items()
    }
    contrasted = [export.comparison(one) for one in found]
    return export.clean({"schema_version": SCHEMA_VERSION, "methods": each, "contrasts": contrasted, **more})
