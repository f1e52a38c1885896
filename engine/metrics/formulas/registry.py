"""Every metric by its name: the table of entries, and the values that they compute.

Names are plain (``auroc``), have a number at the end (``sensitivity_at_specificity_0.90``), or an average or a class of several
(``f1:macro``, ``f1:micro``, ``auroc:Pneumonia``). What an entry holds is :class:`equipoise.engine.metrics.formulas.metric.Metric`.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.formulas import (
    calibration,
    classification,
    inequality,
    multiclass,
    net_benefit,
    regression,
)
from equipoise.engine.metrics.formulas.metric import Columns, Metric

_NUMBER = re.compile(r"(\w+)_(\d*\.?\d+)")
_COMPONENTS: Mapping[str, Callable[[Columns], dict[str, np.ndarray]]] = {
    "binary": classification.components,
    "multiclass": multiclass.components,
    "multilabel": multiclass.components,
    "regression": regression.components,
    "values": regression.components,
}
_METRICS: dict[str, Metric] = {}
_FAMILIES: dict[str, Callable[[str, float], Metric]] = {}


def register(metric: Metric) -> Metric:
    """Adds a metric, or replaces the one of its name; returns it."""
    _METRICS[metric.name] = metric
    return metric


def register_family(stem: str, build: Callable[[str, float], Metric]) -> None:
    """Adds metrics named ``STEM_NUMBER``; ``build`` makes one from its name and number (UserError for a wrong number)."""
    _FAMILIES[stem] = functools.cache(build)


# The order is that of tables and reports.
for _module in (classification, multiclass, calibration, regression, inequality):
    for _metric in _module.METRICS:
        register(_metric)
for _stem, _build in {**classification.FAMILIES, **net_benefit.FAMILIES}.items():
    register_family(_stem, _build)


def get(name: str, classes: Sequence[str] = (), averaged: Sequence[str] | None = None) -> Metric:
    """The entry of a metric.

    Args:
      name: name of the metric.
      classes: names of the classes or labels in order; ``NAME:CLASS`` may then name one of them, and else takes its number from 0.
        Without them an average over classes can be described, not computed.
      averaged: classes over which ``NAME:macro`` averages, such as those present in every group that is compared; by default all.

    Raises:
      UserError: for an unknown name, with the closest known one.
    """
    base, _, part = name.partition(":")
    if part:
        return multiclass.derived(
            get(base), part, tuple(classes), None if averaged is None else tuple(averaged)
        )
    if name in _METRICS:
        return _METRICS[name]
    numbered = _NUMBER.fullmatch(name)
    if numbered and numbered[1] in _FAMILIES:
        return _FAMILIES[numbered[1]](name, float(numbered[2]))
    known = [*_METRICS, *(f"{stem}_NUMBER" for stem in _FAMILIES)]
    raise UserError(f"no metric {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}")


def names(task: str, classes: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of a task's metrics; for a task of several classes the averages and, where ``classes`` are given, each class."""
    plain = tuple(m.name for m in _METRICS.values() if task in m.tasks and m.listed)
    if task not in ("multiclass", "multilabel"):
        return plain
    return (*plain, *multiclass.names(task, tuple(classes)))


def task_of(columns: Columns) -> str:
    """The task whose columns these are."""
    if "value" in columns:
        return "values"
    if "scores" in columns:
        return "multilabel" if np.ndim(columns["truth"]) == 2 else "multiclass"
    return "binary" if "called" in columns else "regression"


def components(columns: Columns) -> dict[str, np.ndarray]:
    """What each image adds to sums: [n] float64 columns whose weighted sums every ``of_sums`` takes.

    Args:
      columns: columns of any task.
    """
    return _COMPONENTS[task_of(columns)](columns)


def compute(
    name: str, columns: Columns, weight: Float[np.ndarray, " n"] | None = None, classes: Sequence[str] = ()
) -> float:
    """One metric of one set of images, in float64.

    Args:
      name: name of the metric.
      columns: columns of the metric's task.
      weight: weight of each image; by default 1.
      classes: names of the classes, as for :func:`get`; by default their numbers from 0.

    Returns:
      The value, NaN where it is undefined.

    Raises:
      UserError: for an unknown name, or columns of another task.
    """
    task = task_of(columns)
    if "scores" in columns:
        classes = classes or tuple(map(str, range(columns["scores"].shape[1])))
    metric = get(name, classes)
    if task not in metric.tasks:
        raise UserError(f"{name} is for {' and '.join(metric.tasks)} tables, and this one is {task}")
    n = len(next(iter(columns.values())))
    weight = np.ones(n) if weight is None else np.asarray(weight, np.float64)
    if metric.of_sums:
        parts = components(columns)
        return float(metric.of_sums({part: weight @ parts[part] for part in metric.components}))
    prepared: dict[str, Any] = dict(metric.prepare(columns) if metric.prepare else columns)
    order = prepared.pop("row", slice(None))
    return float(metric.weighted(prepared, weight[order]))
