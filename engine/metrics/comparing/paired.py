"""Two models of one table compared: differences of their scores, and of their gaps between groups, from the same patients."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.estimates import comparisons, delong, multiplicity
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.frames.export import CONFIDENCE, clean
from equipoise.engine.metrics.frames.frame import Frame
from equipoise.engine.metrics.table import groupings
from equipoise.engine.metrics.table.suppression import row_levels
from equipoise.engine.metrics.table.table import Table

OVERALL, GROUP, GAP = "overall", "group", "gap"


@dataclasses.dataclass(frozen=True)
class Change:
    """One score of two models.

    Attributes:
      kind: ``overall``, ``group``, or ``gap``: the difference between two groups.
      metric: name.
      attribute: of the groups; empty overall.
      levels: the group; of a gap also the one it is compared with.
      first: value of the first model.
      second: value of the second.
      value: second − first, in the unit of the metric.
      low: limit of its 95 % interval.
      high: limit.
      p: two-sided.
      p_adjusted: Holm over all metrics and groups of one kind and attribute.
      test: its name.
      null: the hypothesis in words.
      reason: why something is missing, or None.
    """

    kind: str
    metric: str
    attribute: str
    levels: tuple[str, ...]
    first: float
    second: float
    value: float
    low: float
    high: float
    p: float
    p_adjusted: float
    test: str
    null: str
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class ModelComparison:
    """Two models compared.

    Attributes:
      first: model.
      second: model.
      changes: second − first, of every metric overall, in groups and in gaps.
    """

    first: str
    second: str
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """The part ``comparison`` of ``metrics.json``."""
        return clean(dataclasses.asdict(self))


def names(table: Table, wanted: Sequence[str]) -> tuple[str, str]:
    """The two models that are compared.

    Raises:
      UserError: unless they are two different models of the table.
    """
    if table.schema.kind == "values":
        raise UserError("--compare is of two models; columns of values are no models")
    for name in wanted:
        if name not in table.models:
            raise UserError(
                f"--compare={','.join(wanted)}: no model {name!r}.{did_you_mean(name, table.models)} "
                f"There are: {', '.join(table.models)}"
            )
    if len(wanted) != 2 or wanted[0] == wanted[1]:
        raise UserError(f"--compare={','.join(wanted)}: name two models, such as --compare=old,new")
    return wanted[0], wanted[1]


def _area_difference(
    table: Table, rows: np.ndarray, models: Sequence[str], second: Estimate, first: Estimate
) -> tuple[Estimate, float, str]:
    """(difference of two AUROCs, p, test) by DeLong's paired test, summed by patient."""
    columns = [table.columns(model) for model in models]
    found = delong.paired(
        columns[0]["truth"][rows], columns[1]["score"][rows], columns[0]["score"][rows],
        table.frame["subject_id"].to_numpy()[rows],
    )  # fmt: skip
    (a, shared), (_, b) = found.covariance
    square = a + b - 2 * shared
    se = math.sqrt(square) if square > 0 else math.nan
    reason = None if square > 0 else "both models rank these images alike: no variance, no interval"

    def limits(confidence: float) -> tuple[float, float]:
        half = float(special.ndtri(0.5 + confidence / 2)) * se
        return found.value - half, found.value + half

    estimate = dataclasses.replace(
        comparisons.gap(second, first),
        value=found.value,
        se=se,
        limits=limits,
        method="DeLong, paired",
        reason=reason,
    )
    return estimate, found.p, "DeLong, paired, clustered by patient"


def compare(
    table: Table, frames: Mapping[str, Frame], models: Sequence[str], metrics: Sequence[str]
) -> ModelComparison:
    """The second model minus the first: overall, in every known group, and in the gaps to the reference group.

    Args:
      table: that both frames are of.
      frames: model -> its scores, of one call of :func:`equipoise.engine.metrics.frames.frame.evaluate_models`, so that resamples are the same.
        What a shared report hides stays hidden.
      models: (first, second).
      metrics: to compare.
    """
    found = list(_overall(table, frames, models, metrics))
    for attribute in frames[models[0]].groups:
        found += _by_group(table, frames, models, metrics, attribute)
    return ModelComparison(*models, tuple(found))


def _one(
    table: Table, rows: np.ndarray, models: Sequence[str], cells: Sequence[Estimate], metric: str
) -> tuple[Estimate, float, str]:
    """(second − first, p, test) in one set of rows."""
    first, second = cells
    is_area = table.schema.kind == "binary" and registry.get(metric).kind == "area"
    if is_area and math.isfinite(first.value + second.value):
        return _area_difference(table, rows, models, second, first)
    return comparisons.gap(second, first), *comparisons.p_value(second, first)


def _change(
    kind: str, metric: str, place: tuple[str, tuple[str, ...]], values: Sequence[float],
    found: tuple[Estimate, float, str], null: str,
) -> Change:  # fmt: skip
    estimate, p, test = found
    low, high = estimate.limits(CONFIDENCE)
    reason = estimate.reason or "no interval" if math.isnan(low) else None
    return Change(kind, metric, *place, *values, estimate.value, low, high, p, math.nan, test, null, reason)


def _adjusted(changes: Sequence[Change]) -> Iterable[Change]:
    """The changes as one family of tests."""
    return multiplicity.with_adjusted(dict(enumerate(changes))).values()


def _overall(
    table: Table, frames: Mapping[str, Frame], models: Sequence[str], metrics: Sequence[str]
) -> Iterator[Change]:
    rows, found = np.ones(len(table.frame), bool), []
    for metric in metrics:
        cells = [frames[m].overall[metric] for m in models]
        null = f"{metric} of {models[0]} and {models[1]} is equal"
        one = _one(table, rows, models, cells, metric)
        found.append(_change(OVERALL, metric, ("", ()), [e.value for e in cells], one, null))
    yield from _adjusted(found)


def _by_group(
    table: Table, frames: Mapping[str, Frame], models: Sequence[str], metrics: Sequence[str], attribute: str
) -> Iterator[Change]:
    """Of the groups of an attribute, then of its gaps."""
    of_row, inside = row_levels(table.frame, attribute), [frames[m].groups[attribute] for m in models]
    levels = list(filter(groupings.is_known, inside[0]))
    changed, groups, gaps = {}, [], []
    for metric in metrics:
        for level in levels:
            cells = [found[level][metric] for found in inside]
            one = _one(table, of_row == level, models, cells, metric)
            changed[metric, level] = one[0]
            null = f"{metric} of {models[0]} and {models[1]} is equal in {level}"
            groups.append(_change(GROUP, metric, (attribute, (level,)), [e.value for e in cells], one, null))
        for level, reference in pairs_of(frames[models[0]], attribute, metric):
            pair = changed[metric, level], changed[metric, reference]
            null = f"the difference in {metric} between {level} and {reference} is equal in {models[0]} and {models[1]}"
            values = [found[level][metric].value - found[reference][metric].value for found in inside]
            one = comparisons.gap(*pair), *comparisons.p_value(*pair)
            gaps.append(_change(GAP, metric, (attribute, (level, reference)), values, one, null))
    yield from _adjusted(groups)
    yield from _adjusted(gaps)


def pairs_of(frame: Frame, attribute: str, metric: str) -> list[tuple[str, ...]]:
    """Levels that a frame compares, with their reference."""
    found = frame.disparities.get(attribute, {}).items()
    return [d.levels for key, d in found if key == f"difference:{metric}:{'-'.join(d.levels)}"]
