"""What a metric is: its formula, direction and range, when it has no value, and the form that computes it.

A metric is computed from columns, NumPy arrays whose first axis are images:

- ``binary``: truth [n] bool, score [n] probability of the positive class, called [n] bool (score at or above the threshold);
- ``multiclass``: truth [n] int, scores [n, k], called [n] int;
- ``multilabel``: truth, scores, called [n, k];
- ``regression``: truth [n], score [n];
- ``values``: value [n], one number per case (the Dice of a structure); NaN where a case has none.

A new metric is one entry in the ``METRICS`` of the module of its task, with its formula beside it. Everything that other parts of
the library must know of it stands in the entry.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.estimates.intervals import Estimate

TASKS = ("binary", "multiclass", "multilabel", "regression", "values")
Columns = Mapping[str, np.ndarray]
Sums = Mapping[str, Array]  # component -> its weighted sum


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a metric is, and its computing form: either ``of_sums`` or ``weighted``.

    Attributes:
      name: key in tables and files.
      title: name in running text.
      formula: the formula as it is printed.
      higher_is_better: whether a larger value is a better one.
      low: smallest possible value.
      high: largest possible value.
      undefined: when the metric has no value (NaN, with its n).
      reference: paper that defines it.
      tasks: tasks whose columns it takes, of :data:`TASKS`.
      depends_on_prevalence: whether it moves with the share of positives alone, so that groups differ without unfairness.
      kind: ``proportion``: the share of some images among others, so that ``of_sums`` of one image's components is 1, 0, or
        NaN where the image does not count; ``sums``: another function of sums; ``area``: the area under the ROC curve of its
        columns, which has computing forms of its own; ``weighted``: another metric that needs the rows.
      components: names of the per-image columns whose weighted sums ``of_sums`` takes.
      of_sums: sums of the components, arrays of any shape, NumPy or JAX -> the metric in that shape; NaN where undefined.
      weighted: (prepared columns, weights [n] >= 0) -> scalar; NaN where undefined. Given NumPy arrays it computes in NumPy,
        given JAX arrays in jax.numpy, and may then be compiled and mapped over the weights.
      prepare: columns -> prepared columns: sorted once, bins of the pooled rows assigned once. Prepared columns may be cut to
        any rows in ascending order, rows of weight 0 among them. ``row`` [n] holds the number of each row before sorting.
      estimate: (entry, columns with their components, patient of each image) -> the value with a closed interval, which needs no
        resample; None where limits come from a bootstrap. A proportion has :func:`estimate_proportion` unless it names another.
        A metric made of sums reads the columns that its ``components`` name, so that it serves one class of several too.
      may_bin: whether rows of neighbouring scores may be put into bins while a bootstrap weighs them: the metric is smooth in the
        scores of each class, and stays the same where a row of weight 2 is split into two.
      focus: truth [n] -> (rows [n], quantile of their scores) where a metric at a fixed rate has its threshold, so that bins are
        finest there; None for other metrics.
      short: short name in figures and sentences; by default the title without what stands in brackets.
      gap: symbol of a difference between two groups, such as ``ΔTPR``; by default Δ and the short title.
      smooth: False where a bootstrap does not cover, as for a sum of absolute values: such a metric has a value and no interval,
        and is not compared.
      listed: False where it is computed only when asked for by name, since it has a meaning on some tables alone.
      target: the ideal value where neither end of the range is (a calibration slope of 1): the worst of several is then the one
        farthest from it, whatever ``higher_is_better`` says; else None.
      base: name of the binary metric that an average or one class of several is made of, else None.
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
    kind: Literal["proportion", "sums", "area", "weighted"] = "sums"
    components: tuple[str, ...] = ()
    of_sums: Callable[[Sums], Array] | None = None
    weighted: Callable[[Mapping[str, Array], Float[Array, " n"]], Array] | None = None
    prepare: Callable[[Columns], Columns] | None = None
    estimate: Callable[["Metric", Columns, Int[np.ndarray, " n"]], Estimate] | None = None
    may_bin: bool = False
    focus: Callable[[Bool[np.ndarray, " n"]], tuple[Bool[np.ndarray, " n"], float]] | None = None
    short: str = ""
    gap: str = ""
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
        if self.kind == "proportion" and self.estimate is None:
            object.__setattr__(self, "estimate", estimate_proportion)

    @property
    def is_closed(self) -> bool:
        """Whether the interval needs no resample."""
        return self.estimate is not None


def array_module(array: Array) -> Any:
    """Returns ``jax.numpy`` for an array of JAX, also while it is traced, else NumPy, so that one formula serves both."""
    return jnp if isinstance(array, jax.Array) else np


def ratio(numerator: Array, denominator: Array) -> Array:
    """Returns the quotient of sums in their shape; NaN, without a warning, where the denominator is 0 or NaN."""
    return numerator / array_module(denominator).where(denominator > 0, denominator, np.nan)


def per_image(metric: Metric, columns: Columns) -> Float[np.ndarray, " n"]:
    """What each image says for a proportion: 1 where it counts for it, 0 where against, NaN where it does not count.

    Args:
      metric: entry of kind ``proportion``.
      columns: columns with what each image adds to sums.
    """
    return np.asarray(metric.of_sums({name: columns[name] for name in metric.components}))


def estimate_proportion(metric: Metric, columns: Columns, code: Int[np.ndarray, " n"]) -> Estimate:
    """The closed interval of a proportion, over the images that its formula counts (:func:`intervals.proportion`)."""
    return proportion_of(per_image(metric, columns), code, metric.undefined)


def proportion_of(value: Float[np.ndarray, " n"], code: Int[np.ndarray, " n"], undefined: str) -> Estimate:
    """The closed interval of a share of images.

    Args:
      value: 1 where an image counts for the share, 0 where against, NaN where it does not count.
      code: patient of each image.
      undefined: why there is no value where no image counts.
    """
    counted = np.isfinite(value)
    if not counted.any():
        return intervals.undefined(undefined)
    return intervals.proportion(value[counted] > 0, code[counted])
