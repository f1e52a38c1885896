"""Metrics of several classes or labels, made of the binary ones by taking each class against the rest.

``BASE:CLASS`` is the binary metric BASE of one class. ``BASE:macro`` is its mean over classes, each of which counts the same; a
class in which BASE is undefined (because it has no image here, say) is left out. A comparison of groups is fair only over the
same classes, so a caller names those that every group has (``averaged`` of
:func:`equipoise.engine.metrics.formulas.registry.get`). ``BASE:micro`` is BASE of all (image, class) pairs put together. Where
classes exclude each other, an image is called the class with the largest score; ``sensitivity:macro`` is then the balanced accuracy.

Sokolova and Lapalme, Inf Process Manag 2009;45:427.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Float64, Int

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas import classification
from equipoise.engine.metrics.formulas.classification import TINY, mean_of
from equipoise.engine.metrics.formulas.metric import Columns, Metric, Sums, array_module, ratio

AVERAGES = ("macro", "micro")
_LISTED = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "f1")
_TASKS = ("multiclass", "multilabel")
_REFERENCE = "over classes: Sokolova and Lapalme, Inf Process Manag 2009;45:427"


def one_against_rest(columns: Columns, number: int) -> dict[str, np.ndarray]:
    """The binary columns of one class.

    Args:
      columns: columns of a multiclass or multilabel task.
      number: place of the class in the order of classes.
    """
    truth, called = np.asarray(columns["truth"]), np.asarray(columns["called"])
    if truth.ndim == 2:
        truth, called = truth[:, number], called[:, number]
    else:
        truth, called = truth == number, called == number
    return {"truth": truth, "score": np.asarray(columns["scores"])[:, number], "called": called}


def _every_class(columns: Columns) -> list[dict[str, np.ndarray]]:
    """The binary columns of each class in order."""
    return [one_against_rest(columns, number) for number in range(np.shape(columns["scores"])[1])]


def components(columns: Columns) -> dict[str, Float64[np.ndarray, " n"]]:
    """What each image adds to the sums that metrics are made of.

    Args:
      columns: columns of a multiclass or multilabel task.

    Returns:
      Each binary component (:func:`classification.components`) as ``NAME:NUMBER`` for every class and, summed over classes,
      ``NAME:micro``; ``count`` and ``correct`` (all labels of an image are right). A multiclass task also has ``log_loss``, ``squared_error``
      and the moments of grades that :data:`_KAPPA` names.
    """
    by_class = [classification.components(binary) for binary in _every_class(columns)]
    parts = {f"{name}:{k}": part for k, binary in enumerate(by_class) for name, part in binary.items()}
    parts |= {f"{name}:micro": sum(binary[name] for binary in by_class) for name in by_class[0]}
    truth, called = np.asarray(columns["truth"]), np.asarray(columns["called"])
    parts["count"] = np.ones(len(truth))
    right = truth == called
    parts["correct"] = (right if truth.ndim == 1 else right.all(1)).astype(np.float64)
    if truth.ndim == 2:
        return parts
    held = np.clip(np.asarray(columns["scores"], np.float64), TINY, 1)
    t, c = truth.astype(np.float64), called.astype(np.float64)
    return parts | {
        "log_loss": -np.log(held[np.arange(len(t)), truth]),
        "squared_error": parts["squared_error:micro"],
        "grade": t,
        "called_grade": c,
        "both_squared": t**2 + c**2,
        "product": t * c,
    }


def _hamming(sums: Sums) -> Array:
    wrong = sums["fp:micro"] + sums["fn:micro"]
    return ratio(wrong, sums["count:micro"])


_KAPPA = ("count", "grade", "called_grade", "both_squared", "product")


def _weighted_kappa(sums: Sums) -> Array:
    """Kappa from Σ(i−j)² over images, and over all pairs of one image's truth with another's call, by their moments."""
    n, grade, called, squares, product = (sums[name] for name in _KAPPA)
    observed, expected = squares - 2 * product, squares - 2 * ratio(grade * called, n)
    return 1 - ratio(observed, expected)


METRICS: Sequence[Metric] = (
    Metric("multicategory_brier", "Brier score over classes", "mean over images of Σₖ (scoreₖ − [class = k])²", False, 0, 2, "no image",
           "Brier, Mon Weather Rev 1950;78:1", ("multiclass",), True, components=("squared_error", "count"),
           of_sums=mean_of("squared_error")),
    Metric("quadratic_weighted_kappa", "quadratic-weighted kappa of ordered classes", "1 − Σ(i−j)² Oᵢⱼ / Σ(i−j)² Eᵢⱼ, E by chance", True,
           -1, 1, "all images are of one class and are called that class", "Cohen, Psychol Bull 1968;70:213", ("multiclass",), True,
           components=_KAPPA, of_sums=_weighted_kappa, listed=False),
    Metric("subset_accuracy", "share of images with every label right", "images with all labels called right / n", True, 0, 1, "no image",
           _REFERENCE, ("multilabel",), True, "proportion", ("correct", "count"), mean_of("correct")),
    Metric("hamming_loss", "Hamming loss", "labels called wrong / (n · labels)", False, 0, 1, "no image", _REFERENCE, ("multilabel",), True,
           components=("fp:micro", "fn:micro", "count:micro"), of_sums=_hamming),
)  # fmt: skip


def names(task: str, classes: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the averages, and of the metrics of each class, that are computed by default.

    Args:
      task: ``multiclass`` or ``multilabel``. Micro-averages of exclusive classes say what the accuracy says, and are left out.
      classes: names of the classes in order.
    """
    parts = (*(AVERAGES if task == "multilabel" else AVERAGES[:1]), *classes)
    return tuple(f"{base}:{part}" for part in parts for base in _LISTED)


@functools.cache  # an entry is made once, so that what is compiled for its functions is used again
def derived(
    metric: Metric, part: str, classes: tuple[str, ...] = (), averaged: tuple[str, ...] | None = None
) -> Metric:
    """The entry of ``BASE:PART``.

    Args:
      metric: entry of the binary metric BASE.
      part: ``macro``, ``micro``, the name of a class or, without ``classes``, its number.
      classes: names of the classes in order.
      averaged: classes of a macro-average; by default all.

    Raises:
      UserError: for an unknown class, or a base that is not binary.
    """
    base = metric.name
    if "binary" not in metric.tasks:
        raise UserError(
            f"metric '{base}:{part}': {base} is of {' and '.join(metric.tasks)} tasks, not of one class"
        )
    entry = dataclasses.replace(
        metric, name=f"{base}:{part}", tasks=_TASKS, base=base, may_bin=False, focus=None
    )
    if part == "micro":
        return _micro(entry, metric)
    if part == "macro":
        numbers = [_number(base, name, classes) for name in (classes if averaged is None else averaged)]
        return _macro(entry, metric, numbers)
    return _one_class(entry, metric, part, _number(base, part, classes))


def _number(base: str, part: str, classes: tuple[str, ...]) -> int:
    """The place of a class in the order of classes."""
    if part in classes:
        return classes.index(part)
    if not classes and part.isdecimal():
        return int(part)
    known = (*AVERAGES, *classes)
    remedy = (
        f"There are: {', '.join(known)}"
        if classes
        else "Without names of classes write their numbers, from 0"
    )
    raise UserError(f"metric '{base}:{part}': no class {part!r}.{did_you_mean(part, known)} {remedy}")


def _of_part(metric: Metric, part: str | int, sums: Sums) -> Array:
    """A binary metric from the sums of one class or average."""
    return metric.of_sums({name: sums[f"{name}:{part}"] for name in metric.components})


def _one_class(entry: Metric, metric: Metric, name: str, number: int) -> Metric:
    entry = dataclasses.replace(
        entry, title=f"{metric.title}, {name}", formula=f"{metric.formula}, {name} against the rest"
    )
    if metric.of_sums:
        parts = tuple(f"{part}:{number}" for part in metric.components)
        return dataclasses.replace(
            entry, components=parts, of_sums=lambda sums: _of_part(metric, number, sums)
        )
    prepare = metric.prepare or dict

    def estimate(entry: Metric, columns: Columns, code: Int[np.ndarray, " n"]) -> Estimate:
        return metric.estimate(metric, one_against_rest(columns, number), code)

    return dataclasses.replace(
        entry,
        prepare=lambda columns: prepare(one_against_rest(columns, number)),
        estimate=estimate if metric.estimate else None,
    )


def _micro(entry: Metric, metric: Metric) -> Metric:
    entry = dataclasses.replace(
        entry, title=f"{metric.title}, all classes together", formula=f"{metric.formula}, of all (image, class) pairs",
        reference=f"{metric.reference}; {_REFERENCE}",
    )  # fmt: skip
    if metric.of_sums:
        # One image adds several pairs, so that a proportion of pairs is not one of images.
        parts = tuple(f"{part}:micro" for part in metric.components)
        return dataclasses.replace(
            entry,
            kind="sums",
            components=parts,
            of_sums=lambda sums: _of_part(metric, "micro", sums),
            estimate=None,
        )

    def prepare(columns: Columns) -> dict[str, np.ndarray]:
        by_class = _every_class(columns)
        pairs = {name: np.stack([binary[name] for binary in by_class], axis=1) for name in by_class[0]}
        shape = pairs["truth"].shape
        unsorted = _in_row_order(metric, {name: value.ravel() for name, value in pairs.items()})
        return {k: v.reshape(shape) if v.shape == (pairs["truth"].size,) else v for k, v in unsorted.items()}

    def weighted(columns: Columns, weight: Float[Array, " n"]) -> Array:
        n, k = columns["rank"].shape
        flat = {
            name: value.reshape(-1) if value.shape == (n, k) else value for name, value in columns.items()
        }
        return _sorted_again(metric, flat, array_module(weight).repeat(weight, k))

    return dataclasses.replace(entry, kind="weighted", prepare=prepare, weighted=weighted, estimate=None)


def _macro(entry: Metric, metric: Metric, numbers: Sequence[int]) -> Metric:
    entry = dataclasses.replace(
        entry, title=f"{metric.title}, mean over classes", formula=f"mean over classes of {metric.formula}, class against the rest",
        undefined=f"in every class: {metric.undefined}; a class in which it is undefined is left out of the mean",
        reference=f"{metric.reference}; {_REFERENCE}",
    )  # fmt: skip

    def mean(values: list[Array]) -> Array:
        if not values:
            raise UserError(f"{entry.name} averages over classes: name them, in order")
        xp = array_module(values[0])
        values = xp.stack([xp.asarray(value) for value in values])
        defined = ~xp.isnan(values)
        return ratio(xp.where(defined, values, 0).sum(0), defined.sum(0) * xp.ones(()))

    if metric.of_sums:
        parts = tuple(f"{part}:{number}" for number in numbers for part in metric.components)
        return dataclasses.replace(
            entry, kind="sums", components=parts, of_sums=lambda sums: mean([_of_part(metric, k, sums) for k in numbers]), estimate=None
        )  # fmt: skip

    def prepare(columns: Columns) -> dict[str, np.ndarray]:
        by_class = {k: _in_row_order(metric, one_against_rest(columns, k)) for k in numbers}
        return {f"{name}:{k}": value for k, binary in by_class.items() for name, value in binary.items()}

    def weighted(columns: Columns, weight: Float[Array, " n"]) -> Array:
        by_class = {
            k: {n[: -len(f":{k}")]: v for n, v in columns.items() if n.endswith(f":{k}")} for k in numbers
        }
        return mean([_sorted_again(metric, by_class[k], weight) for k in numbers])

    return dataclasses.replace(entry, kind="weighted", prepare=prepare, weighted=weighted, estimate=None)


def _in_row_order(metric: Metric, columns: Columns) -> dict[str, np.ndarray]:
    """Prepared columns put back into the order of rows, with the ``rank`` that each row had in the sorted ones.

    Classes sort the same rows differently, and the prepared columns of all classes must be cut together.
    """
    n = len(columns["truth"])
    prepared = dict(metric.prepare(columns) if metric.prepare else columns)
    rank = np.argsort(prepared.pop("row", np.arange(n)))
    return {name: value[rank] if value.shape[:1] == (n,) else value for name, value in prepared.items()} | {
        "rank": rank
    }


def _sorted_again(metric: Metric, columns: Columns, weight: Float[Array, " n"]) -> Array:
    """The metric of columns from :func:`_in_row_order`, which are sorted by rank again."""
    xp, n = array_module(weight), len(weight)
    order = xp.argsort(columns["rank"])
    cut = {k: v[order] if v.shape[:1] == (n,) else v for k, v in columns.items() if k != "rank"}
    return metric.weighted(cut, weight[order])
