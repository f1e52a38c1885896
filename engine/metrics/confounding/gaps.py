"""The gap between two groups once their confounders are alike, beside the raw gap.

Two groups may differ in a metric because one is older, or was scanned elsewhere. Here both groups are weighted
(:mod:`equipoise.engine.metrics.confounding.balance`) until they have the confounders of a named target population, and the metric is
computed under these weights. The weights are made within outcome classes: among positives for a sensitivity, among negatives for a
false-positive rate, within both for an AUROC. A confounder that goes with the disease itself is therefore not adjusted away. Each
group keeps its own shares of the classes unless these are made alike too (``same_prevalence``).

Every smooth metric of the registry can be adjusted. Intervals are percentiles of a bootstrap over patients in which the weights are
estimated again in every replicate. An adjusted gap says what remains, not why. Confounders that are not named remain in it, and one
that the group itself brings about (a mediator) must not be named.
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
      n: level -> number of images.
      overlap: share of the target that has a counterpart.
      effective: level -> effective number of patients (Σw)² / Σw² (Kish, Survey Sampling, 1965), w being the sum of a patient's
        weights.
      largest: level -> share of all weight that the heaviest patient has.
      differences: feature -> standardised mean difference (before, after weighting); empty without overlap.
    """

    n: dict[str, int]
    overlap: float
    effective: dict[str, float]
    largest: dict[str, float]
    differences: dict[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Adjusted:
    """The adjusted gaps of one group to the reference group.

    Attributes:
      level: name of the group.
      reference: name of the reference group.
      target: the target population, whose confounders both groups have been given, in words.
      confounders: names of what was made alike.
      raw: metric -> the gap in a frame of the same images.
      gaps: metric -> the adjusted gap.
      explained: metric -> raw − adjusted gap, from the same replicates; it is not tested.
      estimates: metric -> estimates of (group, reference) under the weights.
      support: outcome class -> how well the two can be made alike; the one class ``all`` where a table has no classes.
      left_out: number of images of these two groups that were left out because a confounder is unknown.
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
        """Returns one line per metric: the raw gap, the adjusted gap and the part that the confounders explain."""
        parts = {"raw": self.raw, "adjusted": self.gaps, "explained": self.explained}
        ends = ("value", "low", "high")
        rows = [
            {"metric": name} | {f"{part}_{end}": getattr(gaps[name], end) for part, gaps in parts.items() for end in ends}
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
    """Computes the adjusted gaps of every group of an attribute to the reference group.

    Args:
      table: checked predictions of a binary, multi-class or regression task, or of values.
      group: attribute or intersection (``race*sex``).
      confounders: attributes (numbers or levels) or intersections; there may be none with ``same_prevalence``.
      target: population whose confounders both groups are given: ``reference``, ``group`` (the compared group itself) or ``pooled``
        (both). There is no default, because gaps in different populations are different quantities.
      method: :class:`balance.Standardization`, :class:`balance.Weighting` or :class:`balance.Matching`.
      metrics: names of metrics of the registry; by default all smooth metrics of the task.
      reference: level that the others are compared with; by default the first that has images.
      same_prevalence: whether both groups are also given the target's shares of the outcome classes.
      least_overlap: share of the target that must have a counterpart in each class that a metric counts; below it the metric is NaN.
      resamples: number of bootstrap resamples.
      seed: seed of the bootstrap and of ties in matching.
      model: name of the model; by default the first of the table.

    Returns:
      level -> its comparison with the reference; p values are adjusted over the levels (Holm).

    Raises:
      UserError: for an unknown name, a confounder that is the group, or a table of several labels.
    """
    schema = table.schema
    if schema.kind == "multilabel":
        raise UserError(
            "gaps in a table of several labels cannot be adjusted, because its classes overlap and weights are made within classes: "
            "give a table of one label"
        )
    if target not in balance.TARGETS:
        raise UserError(
            f"no target {target!r}.{did_you_mean(target, balance.TARGETS)} There are: {', '.join(balance.TARGETS)}"
        )
    if not confounders and not same_prevalence:
        raise UserError("there is nothing to make alike: name a confounder, or give same_prevalence=True")
    of_group = set(groupings.attributes_of(group, schema))
    if of_group & {part for name in confounders for part in groupings.attributes_of(name, schema)}:
        raise UserError(f"{group!r} cannot be its own confounder")
    levels = groupings.grouping(table.frame, schema, group, ())
    first = groupings.references(levels, {group: reference} if reference else {}).get("")
    if first is None:
        raise UserError(
            f"{group!r} has fewer than two groups with images, so that there is nothing to compare"
        )
    known = np.ones(len(table.frame), bool)
    for name in confounders:
        known &= _known(table, name)
    adjusted_gaps = {}
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
        values = _confounders(pair.table, confounders)
        weigh = _weighing(pair, values, method, target, same_prevalence, seed)
        adjusted = _compare(pair, values, weigh, least_overlap, resamples, seed)
        raw = frame.evaluate(
            part, metrics=tuple(pair.entries), groups=(group,), reference={group: words[1]}, resamples=resamples, seed=seed, model=model,
        ).disparities[group]  # fmt: skip
        alike = (*confounders, *(["prevalence"] if same_prevalence else []))
        adjusted_gaps[words[0]] = Adjusted(
            *words, _TARGETS[target].format(*words), alike, {m: raw[_gap(m, words)] for m in pair.entries}, *adjusted,
            int((inside & ~known).sum()),
        )  # fmt: skip
    return _adjust_p(adjusted_gaps)


def _metrics(table: Table, wanted: Sequence[str] | None) -> dict[str, Metric]:
    """Returns the entries of the wanted metrics, by default of all smooth ones of the task."""
    schema = table.schema
    names = wanted or [
        m for m in registry.names(schema.kind, schema.classes) if registry.get(m, schema.classes).smooth
    ]
    entries = {name: resample.require_smooth(name, schema.classes) for name in names}
    for name, entry in entries.items():
        if schema.kind not in entry.tasks:
            raise UserError(
                f"metric {name!r} is for {' and '.join(entry.tasks)} tasks, but this table has a {schema.kind} task"
            )
    return entries


def _known(table: Table, name: str) -> Bool[np.ndarray, " n"]:
    """Returns whether each row has a value of a confounder."""
    if table.schema.attributes.get(name, "") is None:
        return np.isfinite(table.frame[name].to_numpy(np.float64))
    levels = groupings.grouping(table.frame, table.schema, name, ())
    return np.isin(levels.code, levels.compared.get("", []))


def _confounders(table: Table, names: Sequence[str]) -> Confounders:
    """Reads the confounders from a table."""
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
    confounders: Confounders,
    method: Balancer,
    target: str,
    same_prevalence: bool,
    seed: int,
) -> Weighing:
    """Returns the function (weights of rows [n, b], numbers of the replicates) -> (balanced weights, outcome -> share with a counterpart).

    Within each outcome class both groups are given the target's confounders. The class then weighs as much as it does in the group
    itself or, with ``same_prevalence``, in the target.
    """
    balancing = {}
    for name, rows in pair.outcomes.items():
        member = pair.member[rows]
        if confounders.numbers or confounders.levels:
            balancing[name] = method.prepare(confounders.take(rows), member, target, seed)
        else:
            balancing[name] = balance.unchanged(member)
    in_target = balance.of_target(pair.member, target)

    def weigh(counts: Float[np.ndarray, "n b"], numbers: Sequence[int]) -> tuple[np.ndarray, dict]:
        weights, overlap = np.zeros(counts.shape), {}
        for name, rows in pair.outcomes.items():
            raw, member = counts[rows], pair.member[rows]
            balanced, overlap[name] = balancing[name](raw, numbers)
            for side in (member, ~member):
                wanted = raw[in_target[rows] if same_prevalence else side].sum(axis=0)
                total = balanced[side].sum(axis=0)
                weights[rows[side]] = balanced[side] * np.divide(
                    wanted, total, out=np.zeros_like(total), where=total > 0
                )
                overlap[name] = np.where(total > 0, overlap[name], 0)
        return weights, overlap

    return weigh


def _support(
    pair: GroupPair,
    rows: Int[np.ndarray, " i"],
    confounders: Confounders,
    weights: Float[np.ndarray, " n"],
    overlap: float,
) -> Support:
    """Describes the support of one outcome class in the sample."""
    n, effective, largest = {}, {}, {}
    for level, side in zip(pair.levels, (pair.member, ~pair.member), strict=True):
        images = rows[side[rows]]
        patient = np.bincount(pair.code[images], weights[images], 1)
        total = patient.sum()
        n[level] = len(images)
        effective[level] = float(total**2 / (patient**2).sum()) if total else 0.0
        largest[level] = float(patient.max() / total) if total else math.nan
    differences = {}
    if overlap > 0:
        differences = balance.standardized_differences(
            confounders.take(rows), pair.member[rows], weights[rows]
        )
    return Support(n, overlap, effective, largest, differences)


def _missing(outcomes: Sequence[str], support: Mapping[str, Support], least: float) -> str | None:
    """Says why a metric of these outcome classes cannot be adjusted, or returns None."""
    for outcome in outcomes:
        share = support[outcome].overlap
        if not share > 0 or share < least:
            among = "" if outcome == "all" else f" among {outcome}"
            return f"too little overlap{among}: {share:.0%} of the target have a counterpart, and {least:.0%} are needed"
    return None


def _thin(levels: Sequence[str], outcomes: Sequence[str], support: Mapping[str, Support]) -> str | None:
    """Says where the weights leave too few patients for a reliable estimate, or returns None."""
    for outcome in outcomes:
        for level in levels:
            effective = support[outcome].effective[level]
            if effective < SMALL:
                return f"{effective:.0f} effective patients in {level} after weighting, fewer than {SMALL}: read with care"
    return None


def _compare(
    pair: GroupPair,
    confounders: Confounders,
    weigh: Weighing,
    least_overlap: float,
    resamples: int,
    seed: int,
) -> tuple[dict, dict, dict, dict[str, Support]]:
    """Returns (gaps, explained, estimates, support), as :class:`Adjusted` describes them."""
    unit = np.ones((len(pair.code), 1))
    weights, overlap = weigh(unit, [-1])
    support = {
        name: _support(pair, rows, confounders, weights[:, 0], float(overlap[name][0]))
        for name, rows in pair.outcomes.items()
    }
    drawn: dict[str, list] = {name: [] for name in pair.entries}
    for start in range(0, resamples, weighing.LANES):
        numbers = range(start, min(start + weighing.LANES, resamples))
        counts = resample.draw(pair.num_subjects, start, len(numbers), seed)[pair.code].astype(np.float64)
        balanced, shared = weigh(counts, numbers)
        before, after = pair.replicates(counts), pair.replicates(balanced)
        for name, chunks in drawn.items():
            valid = np.all([shared[outcome] > 0 for outcome in pair.counted(name)], axis=0)
            chunks.append(np.stack([before[name], np.where(valid, after[name], np.nan)]))
    raw, adjusted = pair.values(unit[:, 0]), pair.values(weights[:, 0])
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
