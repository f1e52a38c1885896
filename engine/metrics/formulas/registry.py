"""One registry for every metric: what it is, when it has no value, and the forms that compute it.

A metric is computed from columns, NumPy arrays whose first axis are images:

- ``binary``: truth [n] bool, score [n] probability of the positive class, called [n] bool (score at or above the threshold);
- ``multiclass``: truth [n] int, scores [n, k], called [n] int;
- ``multilabel``: truth, scores, called [n, k];
- ``regression``: truth [n], score [n];
- ``values``: value [n], one number per case (the Dice of a structure); NaN where a case has none.

Names are plain (``auroc``), have a number at the end (``sensitivity_at_specificity_0.90``), or an average or a class of several
(``f1:macro``, ``f1:micro``, ``auroc:Pneumonia``). The formulas are in :mod:`classification`, :mod:`multiclass`,
:mod:`calibration`, :mod:`regression` and :mod:`segmentation`, loaded at the first question.
"""

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equipoise.engine.errors import UserError, did_you_mean

TASKS = ("binary", "multiclass", "multilabel", "regression", "values")
Columns = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a metric is, and its computing form: either ``of_sums`` or ``weighted``.

    Attributes:
      name: key in tables and files.
      title: in running text.
      formula: as printed.
      higher_is_better: direction.
      low: smallest possible value.
      high: largest possible value.
      undefined: when it has no value (NaN, with its n).
      reference: where it is defined.
      tasks: whose columns it takes, of :data:`TASKS`.
      depends_on_prevalence: whether it moves with the share of positives alone, so that groups differ without unfairness.
      kind: ``proportion``: the share of some images among others, so that ``of_sums`` of one image's components is 1, 0, or
        NaN where the image does not count; ``sums``: another function of sums; ``weighted``: needs the rows.
      components: names of per-image columns whose weighted sums ``of_sums`` takes; see :func:`components`.
      of_sums: name -> array of sums, of any shape, NumPy or JAX -> the metric in that shape; NaN where undefined.
      weighted: (prepared columns, weights [n] >= 0) -> scalar; NaN where undefined. Given NumPy arrays it computes in NumPy,
        given JAX arrays in jax.numpy, and may then be compiled and mapped over the weights.
      prepare: columns -> prepared columns: sorted once, bins of the pooled rows assigned once. Prepared columns may be cut to
        any rows in ascending order, rows of weight 0 among them. ``row`` [n] holds the number of each row before sorting.
      smooth: False where a bootstrap does not cover, as for a sum of absolute values: such a metric has a value, no interval, and
        is not compared.
      listed: False where it is computed only when asked for by name, since it means something on some tables alone.
      target: the ideal value where neither end of the range is (a calibration slope of 1): the worst of several is then the one
        farthest from it, whatever ``higher_is_better`` says; else None.
      base: binary metric that an average or one class of several is made of, else None.
    """

    name: str
    title: str
    formula: str
    higher_is_better: bool
    low: float
    high: float
    undefined: str
    reference: str
    tasks: tuple[str, ...]
    depends_on_prevalence: bool = False
    kind: Literal["proportion", "sums", "weighted"] = "sums"
    components: tuple[str, ...] = ()
    of_sums: Callable[[Mapping[str, Array]], Array] | None = None
    weighted: Callable[[Mapping[str, Array], Float[Array, " n"]], Array] | None = None
    prepare: Callable[[Columns], Columns] | None = None
    smooth: bool = True
    listed: bool = True
    base: str | None = None
    target: float | None = None

    def __post_init__(self):
        known = set(self.tasks) <= set(TASKS)
        if not known or (self.of_sums is None) == (self.weighted is None) or not self.low < self.high:
            raise ValueError(
                f"metric {self.name!r}: tasks of {TASKS}, low < high, and either of_sums or weighted"
            )


_METRICS: dict[str, Metric] = {}
_FAMILIES: dict[str, Callable[[str, float], Metric]] = {}
_NUMBER = re.compile(r"(\w+)_(\d*\.?\d+)")
_MODULES = (
    "classification",
    "multiclass",
    "calibration",
    "net_benefit",
    "regression",
    "segmentation",
    "inequality",
)


def array_module(array: Array) -> Any:
    """``jax.numpy`` for an array of JAX, also while it is traced, else NumPy: a formula is written once for both."""
    return jnp if isinstance(array, jax.Array) else np


def ratio(numerator: Array, denominator: Array) -> Array:
    """Quotient of sums in their shape; NaN, without a warning, where the denominator is 0 or NaN."""
    return numerator / array_module(denominator).where(denominator > 0, denominator, np.nan)


def register(metric: Metric) -> Metric:
    """Adds a metric, or replaces the one of its name; returns it."""
    _METRICS[metric.name] = metric
    return metric


def register_family(stem: str, build: Callable[[str, float], Metric]) -> None:
    """Adds metrics named ``STEM_NUMBER``; ``build`` makes one of its name and number (UserError for a wrong number)."""
    _FAMILIES[stem] = functools.cache(build)


@functools.cache
def _load() -> None:
    for module in _MODULES:
        importlib.import_module(f"equipoise.engine.metrics.formulas.{module}")


def get(name: str, classes: Sequence[str] = (), averaged: Sequence[str] | None = None) -> Metric:
    """The entry of a name.

    Args:
      name: a metric's.
      classes: names of the classes or labels in order; ``NAME:CLASS`` may then name one, and else takes its number from 0.
        Without them an average over classes can be described, not computed.
      averaged: those over which ``NAME:macro`` averages, such as the ones present in every group that is compared; by
        default all.

    Raises:
      UserError: for an unknown name, with the closest known one.
    """
    _load()
    base, _, part = name.partition(":")
    if part:
        return importlib.import_module("equipoise.engine.metrics.formulas.multiclass").derived(
            base, part, tuple(classes), None if averaged is None else tuple(averaged)
        )
    if name in _METRICS:
        return _METRICS[name]
    found = _NUMBER.fullmatch(name)
    if found and found[1] in _FAMILIES:
        return _FAMILIES[found[1]](name, float(found[2]))
    known = [*_METRICS, *(f"{stem}_NUMBER" for stem in _FAMILIES)]
    raise UserError(f"no metric {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}")


def names(task: str, classes: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of a task's metrics; of several classes the averages and, where ``classes`` are given, each class."""
    _load()
    plain = tuple(m.name for m in _METRICS.values() if task in m.tasks and m.listed)
    if task not in ("multiclass", "multilabel"):
        return plain
    return (
        *plain,
        *importlib.import_module("equipoise.engine.metrics.formulas.multiclass").names(task, tuple(classes)),
    )


def task_of(columns: Columns) -> str:
    """Which task's columns these are."""
    if "value" in columns:
        return "values"
    if "scores" in columns:
        return "multilabel" if np.ndim(columns["truth"]) == 2 else "multiclass"
    return "binary" if "called" in columns else "regression"


def components(columns: Columns) -> dict[str, np.ndarray]:
    """[n] float64 columns whose weighted sums every ``of_sums`` takes.

    Args:
      columns: of any task.
    """
    module = {"binary": "classification", "multilabel": "multiclass", "values": "regression"}
    task = task_of(columns)
    return importlib.import_module(f"equipoise.engine.metrics.formulas.{module.get(task, task)}").components(
        columns
    )


def per_image(metric: Metric, columns: Columns) -> Float[np.ndarray, " n"]:
    """Of a share of images: 1 where an image counts for it, 0 where against, NaN where it is not counted.

    Args:
      metric: of kind ``proportion``.
      columns: with their :func:`components`.
    """
    return np.asarray(metric.of_sums({name: columns[name] for name in metric.components}))


def compute(
    name: str, columns: Columns, weight: Float[np.ndarray, " n"] | None = None, classes: Sequence[str] = ()
) -> float:
    """One metric of one set of images, in float64.

    Args:
      name: of the registry.
      columns: of the metric's task.
      weight: of each image; by default 1.
      classes: as :func:`get`; by default numbered from 0.

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
