"""One number that models are ranked by: a metric of the validation split, or its worst value over groups."""

import math

import numpy as np
import pandas as pd

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import multiclass, registry, segmentation
from equipoise.engine.metrics.formulas.metric import Metric
from equipoise.engine.metrics.table import groupings
from equipoise.engine.metrics.table.table import Schema, Table
from equipoise.engine.vocabulary import UNKNOWN


def _split_name(name: str) -> tuple[str, str, str | None]:
    """``worst_group:sensitivity:sex`` -> (kind, metric, attribute); a plain metric has kind ``"overall"``."""
    kind, _, rest = name.partition(":")
    if kind != "worst_group":
        return "overall", name, None
    metric, _, attribute = rest.rpartition(":")
    if not metric:
        raise UserError(
            f"metric {name!r}: write worst_group:METRIC:ATTRIBUTE, such as worst_group:sensitivity:sex"
        )
    return kind, metric, attribute


def higher_is_better(name: str) -> bool:
    """Whether a larger value is better of what selects models: a metric, ``worst_group:METRIC:ATTRIBUTE`` or ``loss``.

    Raises:
      UserError: for an unknown name.
    """
    return False if name == "loss" else _entry(name).higher_is_better


def _entry(name: str) -> Metric:
    """The entry of the metric that a name selects by; for one class that of its base, since no schema names the classes here."""
    metric = _split_name(name)[1]
    if segmentation.is_value(metric):
        return segmentation.describe(metric)
    part = metric.partition(":")[2]
    return registry.get(metric if part in multiclass.AVERAGES else metric.removesuffix(f":{part}"))


def select_value(frame: pd.DataFrame, name: str, schema: Schema) -> tuple[float, bool]:
    """Computes the one number that model selection ranks by.

    Args:
      frame: prediction table of the validation split.
      name: a metric (``auroc``; for masks ``dice_cup``, the mean of a column, or ``dice``, its mean over structures), or
        ``worst_group:METRIC:ATTRIBUTE``: the worst value of the groups in which it is defined; people whose group is unknown are
        left out.
      schema: schema of the table.

    Returns:
      (value, whether higher is better); NaN where it is undefined.

    Raises:
      UserError: for an unknown metric or attribute, or a metric of another task.
    """
    better = higher_is_better(name)
    kind, metric, attribute = _split_name(name)
    if kind == "overall":
        return _compute(frame, metric, schema), better
    values = group_values(frame, metric, attribute, schema).values()
    return min(values, key=lambda value: goodness(metric, value), default=float("nan")), better


def _compute(frame: pd.DataFrame, metric: str, schema: Schema) -> float:
    """A metric of some rows; for masks the mean of a column, or the mean of the columns of all structures."""
    if not segmentation.is_value(metric):
        return registry.compute(metric, Table(frame, schema).columns(), classes=schema.classes)
    columns = [column for column in schema.scores if segmentation.is_value(column, metric)]
    if not columns:
        raise UserError(f"no column of {metric!r}: the table has {', '.join(schema.scores)}")
    means = [registry.compute("mean", {"value": frame[c].to_numpy(np.float64)}) for c in columns]
    return float(np.mean(means))


def goodness(metric: str, value: float) -> float:
    """A number that grows as a metric gets better: the value, its opposite, or minus its distance to the ideal value."""
    target = _entry(metric).target
    if target is not None:
        return -abs(value - target)
    return value if higher_is_better(metric) else -value


def group_values(frame: pd.DataFrame, metric: str, attribute: str, schema: Schema) -> dict[str, float]:
    """Computes level -> value of a metric, for the known levels in which it is defined.

    Args:
      frame: prediction table.
      metric: name of the metric.
      attribute: attribute that has levels.
      schema: schema of the table.
    """
    levels = [level for level in groupings.levels_of(frame, schema, attribute) if level != UNKNOWN]
    values = {level: _compute(frame[frame[attribute] == level], metric, schema) for level in levels}
    return {level: value for level, value in values.items() if not math.isnan(value)}
