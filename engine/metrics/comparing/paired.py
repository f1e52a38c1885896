"""Comparison of two models of one table on the same patients: differences of their scores and of their gaps between groups."""

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
    """The change of one score from one model to another.

    Attributes:
      kind: ``overall``, ``group``, or ``gap`` (the difference between two groups).
      metric: name of the metric.
      attribute: attribute of the groups; empty overall.
      levels: the group; for a gap also the group it is compared with.
      first: value of the first model.
      second: value of the second model.
      value: second − first, in the unit of the metric.
      low: lower limit of the change's 95 % interval.
      high: upper limit of the change's 95 % interval.
      p: two-sided p value of no change.
      p_adjusted: p adjusted by Holm over all metrics and groups of one kind and attribute.
      test: name of the test.
      null: the null hypothesis in words.
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
    """The comparison of two models.

    Attributes:
      first: name of the first model.
      second: name of the second model.
      changes: second − first in every metric: overall, in groups and in gaps.
    """

    first: str
    second: str
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the part ``comparison`` of ``metrics.json``."""
        return clean(dataclasses.asdict(self))


def names(table: Table, wanted: Sequence[str]) -> tuple[str, str]:
    """Returns the names of the two models that are compared.

    Args:
      table: checked predictions.
      wanted: names of the two models.

    Raises:
      UserError: unless they are two different models of the table.
    """
    if table.schema.kind == "values":
        raise UserError(
            "--compare needs two models, but this table holds columns of values, which are not models"
        )
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
    """Returns (difference of two AUROCs, p, test) by DeLong's paired test, summed by patient."""
    columns = [table.columns(model) for model in models]
    test = delong.paired(
        columns[0]["truth"][rows], columns[1]["score"][rows], columns[0]["score"][rows],
        table.frame["subject_id"].to_numpy()[rows],
    )  # fmt: skip
    (a, shared), (_, b) = test.covariance
    square = a + b - 2 * shared
    se = math.sqrt(square) if square > 0 else math.nan
    reason = (
        None
        if square > 0
        else "both models rank these images alike, so that there is no variance and no interval"
    )

    def limits(confidence: float) -> tuple[float, float]:
        half = float(special.ndtri(0.5 + confidence / 2)) * se
        return test.value - half, test.value + half

    estimate = dataclasses.replace(
        comparisons.gap(second, first),
        value=test.value,
        se=se,
        limits=limits,
        method="DeLong, paired",
        reason=reason,
    )
    return estimate, test.p, "DeLong, paired, clustered by patient"


def compare(
    table: Table, frames: Mapping[str, Frame], models: Sequence[str], metrics: Sequence[str]
) -> ModelComparison:
    """Compares two models, second minus first: overall, in every known group, and in the gaps to the reference group.

    Args:
      table: the table of both frames.
      frames: model -> its scores, from one call of :func:`equipoise.engine.metrics.frames.frame.evaluate_models`, so that the resamples are the
        same. What a shared report hides stays hidden.
      models: (first, second).
      metrics: names of the metrics to compare.
    """
    changes = list(_overall(table, frames, models, metrics))
    for attribute in frames[models[0]].groups:
        changes += _by_group(table, frames, models, metrics, attribute)
    return ModelComparison(*models, tuple(changes))


def _difference(
    table: Table, rows: np.ndarray, models: Sequence[str], cells: Sequence[Estimate], metric: str
) -> tuple[Estimate, float, str]:
    """Returns (second − first, p, test) in one set of rows."""
    first, second = cells
    is_area = table.schema.kind == "binary" and registry.get(metric).kind == "area"
    if is_area and math.isfinite(first.value + second.value):
        return _area_difference(table, rows, models, second, first)
    return comparisons.gap(second, first), *comparisons.p_value(second, first)


def _change(
    kind: str, metric: str, place: tuple[str, tuple[str, ...]], values: Sequence[float],
    difference: tuple[Estimate, float, str], null: str,
) -> Change:  # fmt: skip
    """Puts a difference with its p value and test into a record."""
    estimate, p, test = difference
    low, high = estimate.limits(CONFIDENCE)
    reason = estimate.reason or "no interval" if math.isnan(low) else None
    return Change(kind, metric, *place, *values, estimate.value, low, high, p, math.nan, test, null, reason)


def _adjusted(changes: Sequence[Change]) -> Iterable[Change]:
    """Adjusts the p values of the changes as one family of tests."""
    return multiplicity.with_adjusted(dict(enumerate(changes))).values()


def _overall(
    table: Table, frames: Mapping[str, Frame], models: Sequence[str], metrics: Sequence[str]
) -> Iterator[Change]:
    """Returns the change of every metric among everyone."""
    rows, changes = np.ones(len(table.frame), bool), []
    for metric in metrics:
        cells = [frames[m].overall[metric] for m in models]
        null = f"{metric} of {models[0]} and {models[1]} is equal"
        difference = _difference(table, rows, models, cells, metric)
        changes.append(_change(OVERALL, metric, ("", ()), [e.value for e in cells], difference, null))
    yield from _adjusted(changes)


def _by_group(
    table: Table, frames: Mapping[str, Frame], models: Sequence[str], metrics: Sequence[str], attribute: str
) -> Iterator[Change]:
    """Yields the changes in the groups of an attribute, then in its gaps."""
    level_of_row, by_model = row_levels(table.frame, attribute), [frames[m].groups[attribute] for m in models]
    levels = list(filter(groupings.is_known, by_model[0]))
    differences, groups, gaps = {}, [], []
    for metric in metrics:
        for level in levels:
            cells = [scores[level][metric] for scores in by_model]
            difference = _difference(table, level_of_row == level, models, cells, metric)
            differences[metric, level] = difference[0]
            null = f"{metric} of {models[0]} and {models[1]} is equal in {level}"
            groups.append(
                _change(GROUP, metric, (attribute, (level,)), [e.value for e in cells], difference, null)
            )
        for level, reference in pairs_of(frames[models[0]], attribute, metric):
            pair = differences[metric, level], differences[metric, reference]
            null = f"the difference in {metric} between {level} and {reference} is equal in {models[0]} and {models[1]}"
            values = [scores[level][metric].value - scores[reference][metric].value for scores in by_model]
            difference = comparisons.gap(*pair), *comparisons.p_value(*pair)
            gaps.append(_change(GAP, metric, (attribute, (level, reference)), values, difference, null))
    yield from _adjusted(groups)
    yield from _adjusted(gaps)


def pairs_of(frame: Frame, attribute: str, metric: str) -> list[tuple[str, ...]]:
    """Returns (level, reference) for every gap of a metric that a frame holds."""
    disparities = frame.disparities.get(attribute, {}).items()
    return [d.levels for key, d in disparities if key == f"difference:{metric}:{'-'.join(d.levels)}"]
