"""The gap between two groups once their confounders are alike, beside the raw gap.

Two groups may differ in a metric because one is older, or was scanned elsewhere. Here each is weighted
(:mod:`equipoise.engine.metrics.confounding.balance`) until both have the confounders of a named target population, and the metric is taken under
these weights. Weights are made within outcome classes: among positives for a sensitivity, among negatives for a false-positive
rate, both for an AUROC. So a confounder that goes with the disease itself is not adjusted away, and shares of the classes stay each
group's own unless they are to be alike too (``same_prevalence``).

Every metric of the registry that is smooth can be adjusted. Intervals are percentiles of a bootstrap over patients in which weights are
estimated again in every replicate. An adjusted gap says what remains, not why: confounders that are not named remain in it, and one
that the group itself brings about (a mediator) is not to be named.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.confounding import balance
from equipoise.engine.metrics.confounding.balance import Balancer, Confounders
from equipoise.engine.metrics.confounding.pair import GroupPair
from equipoise.engine.metrics.estimates import multiplicity, percentiles
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.formulas.metric import Metric
from equipoise.engine.metrics.frames import disparities, frame
from equipoise.engine.metrics.frames.cells import SMALL
from equipoise.engine.metrics.frames.disparities import Disparity
from equipoise.engine.metrics.resampling import bootstrap as resample
from equipoise.engine.metrics.resampling import weighing
from equipoise.engine.metrics.table import groupings
from equipoise.engine.metrics.table.table import Table

DEFAULT = balance.Weighting()
_TARGETS = {"reference": "{1}", "group": "{0}", "pooled": "{0} and {1} together"}


@dataclasses.dataclass(frozen=True)
class Support:
    """How well two groups can be made alike in one outcome class.

    Attributes:
      n: level -> images.
      overlap: share of the target that has a counterpart.
      effective: level -> effective number of patients (Σw)² / Σw² (Kish, Survey Sampling, 1965), w a patient's sum of weights.
      largest: level -> share of all weight that the heaviest patient has.
      differences: feature -> standardised mean difference (before, after); empty without overlap.
    """

    n: dict[str, int]
    overlap: float
    effective: dict[str, float]
    largest: dict[str, float]
    differences: dict[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Adjusted:
    """One group against the reference.

    Attributes:
      level: the group.
      reference: the other.
      target: whose confounders both have been given, in words.
      confounders: made alike.
      raw: metric -> the gap as a frame gives it, of the same images.
      gaps: metric -> the adjusted gap.
      explained: metric -> raw − adjusted gap, from the same replicates; no test.
      estimates: metric -> (group, reference) under the weights.
      support: outcome class -> how far the two can be made alike; ``all`` where a table has no classes.
      left_out: images of these two groups left out because a confounder is unknown.
    """

    level: str
    reference: str
    target: str
    confounders: tuple[str, ...]
    raw: dict[str, Disparity]
    gaps: dict[str, Disparity]
    explained: dict[str, Disparity]
    estimates: dict[str, tuple[Estimate, Estimate]]
    support: dict[str, Support]
    left_out: int

    def to_pandas(self) -> pd.DataFrame:
        """One line per metric: the raw gap beside the adjusted one and what the confounders explain."""
        parts = {"raw": self.raw, "adjusted": self.gaps, "explained": self.explained}
        ends = ("value", "low", "high")
        rows = [
            {"metric": name} | {f"{part}_{end}": getattr(found[name], end) for part, found in parts.items() for end in ends}
            | {"p": gap.p, "p_adjusted": gap.p_adjusted, "reason": gap.reason}
            for name, gap in self.gaps.items()
        ]  # fmt: skip
        return pd.DataFrame(rows).set_index("metric")


def evaluate(
    table: Table,
    *,
    group: str,
    confounders: Sequence[str],
    target: str,
    method: Balancer = DEFAULT,
    metrics: Sequence[str] | None = None,
    reference: str | None = None,
    same_prevalence: bool = False,
    least_overlap: float = 0.8,
    resamples: int = 500,
    seed: int = 0,
    model: str | None = None,
) -> dict[str, Adjusted]:
    """Adjusted gaps of every group of an attribute against the reference group.

    Args:
      table: checked predictions, of one binary, multi-class, regression or value task.
      group: attribute or intersection (``race*sex``).
      confounders: attributes, numbers or levels, or intersections; may be empty with ``same_prevalence``.
      target: population whose confounders both groups are given: ``reference``, ``group`` (each compared group's own) or ``pooled``
        (both). There is no default: gaps towards different populations are different quantities.
      method: :class:`balance.Standardization`, :class:`balance.Weighting` or :class:`balance.Matching`.
      metrics: names of the registry; by default all smooth ones of the task.
      reference: level that the others are compared with; by default the first that has images.
      same_prevalence: also give both groups the target's shares of the outcome classes.
      least_overlap: share of the target that must have a counterpart, in each class that a metric counts; else NaN.
      resamples: of the bootstrap.
      seed: of the bootstrap and of ties in matching.
      model: whose scores; by default the table's first.

    Returns:
      level -> its comparison with the reference, p values adjusted over levels (Holm).

    Raises:
      UserError: for an unknown name, a confounder that is the group, or a table of several labels.
    """
    schema = table.schema
    if schema.kind == "multilabel":
        raise UserError(
            "classes of several labels overlap, and weights are made within classes: give a table of one label"
        )
    if target not in balance.TARGETS:
        raise UserError(
            f"no target {target!r}.{did_you_mean(target, balance.TARGETS)} There are: {', '.join(balance.TARGETS)}"
        )
    if not confounders and not same_prevalence:
        raise UserError("nothing to make alike: name a confounder, or same_prevalence")
    own = set(groupings.attributes_of(group, schema))
    if own & {part for name in confounders for part in groupings.attributes_of(name, schema)}:
        raise UserError(f"{group!r} cannot be its own confounder")
    levels = groupings.grouping(table.frame, schema, group, ())
    first = groupings.references(levels, {group: reference} if reference else {}).get("")
    if first is None:
        raise UserError(f"{group!r} has fewer than two groups with images: nothing to compare")
    known = np.ones(len(table.frame), bool)
    for name in confounders:
        known &= _known(table, name)
    found = {}
    for number in levels.compared[""]:
        if number == first or not levels.filled[number]:
            continue
        inside = np.isin(levels.code, (number, first))
        words = levels.levels[number], levels.levels[first]
        for level, place in zip(words, (number, first), strict=True):
            if not (known & (levels.code == place)).any():
                raise UserError(f"{group!r}: no image of {level!r} has a known {' and '.join(confounders)}")
        part = dataclasses.replace(table, frame=table.frame[inside & known].reset_index(drop=True))
        pair = GroupPair(part, group, words, model, _metrics(table, metrics))
        made = _confounders(pair.table, confounders)
        weigh = _weighing(pair, made, method, target, same_prevalence, seed)
        adjusted = _compare(pair, made, weigh, least_overlap, resamples, seed)
        raw = frame.evaluate(
            part, metrics=tuple(pair.entries), groups=(group,), reference={group: words[1]}, resamples=resamples, seed=seed, model=model,
        ).disparities[group]  # fmt: skip
        alike = (*confounders, *(["prevalence"] if same_prevalence else []))
        found[words[0]] = Adjusted(
            *words, _TARGETS[target].format(*words), alike, {m: raw[_gap(m, words)] for m in pair.entries}, *adjusted,
            int((inside & ~known).sum()),
        )  # fmt: skip
    return _adjust_p(found)


def _metrics(table: Table, wanted: Sequence[str] | None) -> dict[str, Metric]:
    schema = table.schema
    names = wanted or [
        m for m in registry.names(schema.kind, schema.classes) if registry.get(m, schema.classes).smooth
    ]
    entries = {name: resample.require_smooth(name, schema.classes) for name in names}
    for name, entry in entries.items():
        if schema.kind not in entry.tasks:
            raise UserError(
                f"metric {name!r} is of {' and '.join(entry.tasks)} tasks; the table's is {schema.kind}"
            )
    return entries


def _known(table: Table, name: str) -> Bool[np.ndarray, " n"]:
    """Where a confounder has a value."""
    if table.schema.attributes.get(name, "") is None:
        return np.isfinite(table.frame[name].to_numpy(np.float64))
    levels = groupings.grouping(table.frame, table.schema, name, ())
    return np.isin(levels.code, levels.compared.get("", []))


def _confounders(table: Table, names: Sequence[str]) -> Confounders:
    numbers, levels = {}, {}
    for name in names:
        if table.schema.attributes.get(name, "") is None:
            numbers[name] = table.frame[name].to_numpy(np.float64)
        else:
            grouping = groupings.grouping(table.frame, table.schema, name, ())
            levels[name] = grouping.code, grouping.levels
    return Confounders(numbers, levels)


def _gap(metric: str, levels: tuple[str, str]) -> str:
    return f"difference:{metric}:{levels[0]}-{levels[1]}"


def _adjust_p(gaps_of: dict[str, Adjusted]) -> dict[str, Adjusted]:
    """Sets the adjusted p values over the levels of each metric."""
    for metric in next(iter(gaps_of.values())).gaps:
        family = {level: adjusted.gaps[metric] for level, adjusted in gaps_of.items()}
        for level, gap in multiplicity.with_adjusted(family).items():
            gaps_of[level].gaps[metric] = gap
    return gaps_of


Weighing = Callable[
    [Float[np.ndarray, "n b"], Sequence[int]],
    tuple[Float[np.ndarray, "n b"], dict[str, Float[np.ndarray, " b"]]],
]


def _weighing(
    pair: GroupPair,
    made: Confounders,
    method: Balancer,
    target: str,
    same_prevalence: bool,
    seed: int,
) -> Weighing:
    """(weights of rows [n, b], numbers of the replicates) -> (balanced weights, outcome -> share with a counterpart).

    Within each outcome class both groups are given the target's confounders; the class then weighs as much as it does in the group
    itself, or in the target.
    """
    balancing = {}
    for name, rows in pair.outcomes.items():
        own, member = made.take(rows), pair.member[rows]
        named = bool(made.numbers or made.levels)
        balancing[name] = method.prepare(own, member, target, seed) if named else balance.unchanged(member)
    aimed = balance.of_target(pair.member, target)

    def weigh(counts: Float[np.ndarray, "n b"], numbers: Sequence[int]) -> tuple[np.ndarray, dict]:
        found, overlap = np.zeros(counts.shape), {}
        for name, rows in pair.outcomes.items():
            raw, member = counts[rows], pair.member[rows]
            balanced, overlap[name] = balancing[name](raw, numbers)
            for side in (member, ~member):
                wanted = raw[aimed[rows] if same_prevalence else side].sum(axis=0)
                total = balanced[side].sum(axis=0)
                found[rows[side]] = balanced[side] * np.divide(
                    wanted, total, out=np.zeros_like(total), where=total > 0
                )
                overlap[name] = np.where(total > 0, overlap[name], 0)
        return found, overlap

    return weigh


def _support(
    pair: GroupPair,
    rows: Int[np.ndarray, " i"],
    made: Confounders,
    weights: Float[np.ndarray, " n"],
    overlap: float,
) -> Support:
    """Of one outcome class in the sample."""
    n, effective, largest = {}, {}, {}
    for level, side in zip(pair.levels, (pair.member, ~pair.member), strict=True):
        own = rows[side[rows]]
        patient = np.bincount(pair.code[own], weights[own], 1)
        total = patient.sum()
        n[level] = len(own)
        effective[level] = float(total**2 / (patient**2).sum()) if total else 0.0
        largest[level] = float(patient.max() / total) if total else math.nan
    differences = {}
    if overlap > 0:
        own = made.take(rows)
        differences = balance.standardized_differences(own, pair.member[rows], weights[rows])
    return Support(n, overlap, effective, largest, differences)


def _missing(outcomes: Sequence[str], support: Mapping[str, Support], least: float) -> str | None:
    """Why a metric of these outcome classes cannot be adjusted."""
    for outcome in outcomes:
        share = support[outcome].overlap
        if not share > 0 or share < least:
            among = "" if outcome == "all" else f" among {outcome}"
            return f"no overlap{among}: {share:.0%} of the target have a counterpart; {least:.0%} are needed"
    return None


def _thin(levels: Sequence[str], outcomes: Sequence[str], support: Mapping[str, Support]) -> str | None:
    """Says where weights leave too few patients to lean on."""
    for outcome in outcomes:
        for level in levels:
            left = support[outcome].effective[level]
            if left < SMALL:
                return f"{left:.0f} effective patients in {level} after weighting, fewer than {SMALL}: read with care"
    return None


def _compare(
    pair: GroupPair, made: Confounders, weigh: Weighing, least_overlap: float, resamples: int, seed: int
) -> tuple[dict, dict, dict, dict[str, Support]]:
    """(gaps, explained, estimates, support): as of :class:`Adjusted`."""
    one = np.ones((len(pair.code), 1))
    weights, overlap = weigh(one, [-1])
    support = {
        name: _support(pair, rows, made, weights[:, 0], float(overlap[name][0]))
        for name, rows in pair.outcomes.items()
    }
    drawn: dict[str, list] = {name: [] for name in pair.entries}
    for start in range(0, resamples, weighing.LANES):
        numbers = range(start, min(start + weighing.LANES, resamples))
        counts = resample.draw(pair.num_subjects, start, len(numbers), seed)[pair.code].astype(np.float64)
        balanced, shared = weigh(counts, numbers)
        before, after = pair.replicates(counts), pair.replicates(balanced)
        for name, both in drawn.items():
            valid = np.all([shared[outcome] > 0 for outcome in pair.counted(name)], axis=0)
            both.append(np.stack([before[name], np.where(valid, after[name], np.nan)]))
    raw, adjusted = pair.values(one[:, 0]), pair.values(weights[:, 0])
    gaps, explained, estimates = {}, {}, {}
    for name, entry in pair.entries.items():
        before, after = np.concatenate(drawn[name], axis=2)
        counted = pair.counted(name)
        missing = _missing(counted, support, least_overlap)
        estimates[name] = tuple(
            pair.estimate(name, side, adjusted[name][side], after[side], missing) for side in (0, 1)
        )
        gap = disparities.gaps(entry, dict(zip(pair.levels, estimates[name], strict=True)), pair.levels[1])[
            _gap(name, pair.levels)
        ]
        reason = gap.reason or _thin(pair.levels, counted, support)
        null = f"{gap.null} where confounders are alike"
        gaps[name] = dataclasses.replace(gap, null=null, reason=reason)
        change = (raw[name][0] - raw[name][1]) - gap.value
        moved = (before[0] - before[1]) - (after[0] - after[1])
        limits = percentiles.limits_of(change, moved) if math.isfinite(change) else (math.nan, math.nan)
        explained[name] = Disparity(change, *limits, levels=pair.levels, reason=gap.reason)
    return gaps, explained, estimates, support
