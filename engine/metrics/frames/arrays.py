"""A frame straight from arrays, in the manner of fairlearn's MetricFrame."""

import dataclasses
import numbers
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.frames.frame import Frame, evaluate
from equipoise.engine.metrics.table.reader import NOT_RECORDED, as_text
from equipoise.engine.metrics.table.table import Schema, Source, Table, validate
from equipoise.engine.metrics.table.thresholds import FIXED, Threshold, require_other
from equipoise.engine.vocabulary import UNKNOWN

_MOST_NUMBERS = 12  # different numbers that may still be the levels of a group
_MOST_NAMED = 5  # values that a message names
_TASKS = {1: ("binary", "regression"), 2: ("multiclass", "multilabel")}  # axes of the score -> tasks


class _Arguments(Source):
    """The arguments of a call, as messages name them and their rows."""

    def refuse(self, column: str, bad: Any, problem: str, remedy: str) -> None:
        """Raises a UserError that names argument, rows and remedy where any row is bad."""
        if np.asarray(bad).any():
            raise UserError(f"{self.columns.get(column, column)}: {problem} in {self.rows(bad)}; {remedy}")


def _series(values: Any, name: str, count: int | None) -> pd.Series:
    """A one-dimensional argument as a column; its rows count by position, and an index is dropped.

    Raises:
      UserError: for another number of axes or rows.
    """
    if isinstance(values, pd.Series):
        column = values.reset_index(drop=True)
    else:
        array = values if isinstance(values, pd.Categorical) else np.asarray(values)
        if array.ndim != 1:
            raise UserError(f"{name} has {array.ndim} axes: give one value for each row")
        # A list stays a list, because NumPy turns missing values among words into words.
        column = pd.Series(list(values) if isinstance(values, list | tuple) else array)
    if count is not None and len(column) != count:
        raise UserError(
            f"{name} has {len(column)} rows, and truth has {count}: give one value for each row of truth"
        )
    return column


def _numbers(column: pd.Series, name: str, remedy: str) -> np.ndarray:
    """The numbers of a column as [n] float64; every row must hold one.

    Raises:
      UserError: naming the argument and the rows.
    """
    source = _Arguments("")
    source.refuse(name, column.isna(), "no value", remedy)
    converted = pd.to_numeric(column, errors="coerce")
    source.refuse(name, converted.isna(), "no number", remedy)
    return converted.to_numpy(np.float64)


def _shown(levels: Sequence[str]) -> str:
    """The first of some values, for a message."""
    return ", ".join(map(repr, levels[:_MOST_NAMED])) + (", ..." if len(levels) > _MOST_NAMED else "")


def _binary(text: pd.Series, positive: Any) -> tuple[np.ndarray, tuple[str, str]]:
    """(class index of each row, (negative class, positive class)).

    Raises:
      UserError: where nothing says which class is positive, or it never occurs.
    """
    levels = sorted(text.unique())
    if positive is None:
        pairs = (("0", "1"), ("False", "True"))
        pair = next((pair for pair in pairs if set(levels) <= set(pair)), None)
        if pair is None:
            raise UserError(
                f"truth holds {_shown(levels)}: say which is the positive class, such as positive={levels[-1]!r}"
            )
        return (text == pair[1]).to_numpy(np.int64), pair
    (word,) = as_text(pd.Series([positive]))
    if word not in levels:
        raise UserError(
            f"truth never holds the positive class {word!r}.{did_you_mean(word, levels)} It holds: {_shown(levels)}"
        )
    others = [level for level in levels if level != word]
    return (text == word).to_numpy(np.int64), (others[0] if len(others) == 1 else f"not {word}", word)


def _one_score(
    truth: Any, score: Any, positive: Any, task: str | None
) -> tuple[Schema, dict[str, np.ndarray]]:
    """Schema without attributes, and the columns of target and score, of a binary or a regression table."""
    column = _series(truth, "truth", None)
    scores = _numbers(
        _series(score, "score", len(column)), "score", "give a score for each row, or leave the row out"
    )
    source = _Arguments("")
    source.refuse("truth", column.isna(), "no value", "give each row its true value, or leave the row out")
    text = as_text(column)
    source.refuse("truth", text == UNKNOWN, "no value", "give each row its true value, or leave the row out")
    is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if task is None:
        is_binary = positive is not None or not is_number or set(text.unique()) <= {"0", "1"}
        task = "binary" if is_binary else "regression"
    if task == "regression":
        target = _numbers(column, "truth", "give each row a number")
        return Schema("regression", "truth", (), None, {}), {"target": target, "score": scores}
    target, classes = _binary(text, positive)
    return Schema("classification", "truth", classes, classes[1], {}), {"target": target, "score": scores}


def _class_scores(
    score: Any, count: int, classes: Sequence[Any] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """([n, k] scores, names of the k classes in order)."""
    if classes is None and isinstance(score, pd.DataFrame):
        classes = list(score.columns)
    scores = np.asarray(score)
    if len(scores) != count:
        raise UserError(
            f"score has {len(scores)} rows, and truth has {count}: give one row of scores for each row of truth"
        )
    width = scores.shape[1]
    if width < 2:
        raise UserError(f"score has {width} column: give [n] scores, or a column for each class")
    names = tuple(as_text(pd.Series(list(range(width) if classes is None else classes), dtype=object)))
    if len(names) != width or len(set(names)) != width:
        raise UserError(
            f"classes names {len(set(names))} classes, and score has {width} columns: name each column once"
        )
    columns = [
        _numbers(
            pd.Series(scores[:, k]),
            f"score of {name!r}",
            "give a score for each row and class, or leave the row out",
        )
        for k, name in enumerate(names)
    ]
    return np.stack(columns, axis=1), names


def _several_scores(
    truth: Any, score: Any, classes: Sequence[Any] | None
) -> tuple[Schema, dict[str, np.ndarray]]:
    """Schema without attributes, and the columns of targets and scores, of a table of several classes or labels."""
    labels = np.asarray(truth)
    scores, names = _class_scores(score, len(labels), classes)
    columns = {f"score:{name}": scores[:, k] for k, name in enumerate(names)}
    source = _Arguments("")
    if labels.ndim == 1:
        column = _series(truth, "truth", None)
        if classes is None and pd.api.types.is_bool_dtype(column):
            column = column.astype(np.int64)  # columns are then numbered, False first
        text = as_text(column)
        source.refuse(
            "truth", text == UNKNOWN, "no value", "give each row its true class, or leave the row out"
        )
        source.refuse(
            "truth",
            ~text.isin(names),
            "no known class",
            f"the columns of score are {_shown(names)}: name them with classes=",
        )
        target = text.map({name: k for k, name in enumerate(names)}).to_numpy(np.int64)
        return Schema("classification", "truth", names, None, {}, tuple(columns)), {
            "target": target,
            **columns,
        }
    if labels.shape != scores.shape:
        raise UserError(
            f"truth of shape {labels.shape} and score of shape {scores.shape}: give one 0 or 1 for each score"
        )
    for k, name in enumerate(names):
        target = _numbers(pd.Series(labels[:, k]), f"truth of {name!r}", "give each label 0 or 1")
        source.refuse(
            f"truth of {name!r}", ~np.isin(target, (0, 1)), "neither 0 nor 1", "give each label 0 or 1"
        )
        columns[f"target:{name}"] = target.astype(np.int64)
    return Schema("multilabel", "truth", names, None, {}, tuple(columns)[: len(names)]), columns


def _levels(values: Any, name: str, count: int) -> tuple[np.ndarray, list[str]]:
    """(level of each row, levels in order). A categorical keeps the order of its levels; others are sorted.

    Raises:
      UserError: for numbers that are no levels.
    """
    argument = f"groups[{name!r}]"
    column = _series(values, argument, count)
    is_categorical = isinstance(column.dtype, pd.CategoricalDtype)
    text = as_text(column.astype(object) if is_categorical else column)
    present = set(text.unique()) - {UNKNOWN}
    if is_categorical:
        categories = as_text(pd.Series(list(column.cat.categories)))
        return text.to_numpy(), [level for level in categories if level in present]
    if len(present) > _MOST_NUMBERS and pd.api.types.is_numeric_dtype(column):
        raise UserError(
            f"{argument} holds {len(present)} different numbers, which are no groups: cut it, such as pd.cut(values, (0, 40, 60, 120))"
        )
    parts = lambda level: [int(p) if p.isdigit() else p.casefold() for p in re.split(r"([0-9]+)", level)]  # noqa: E731
    return text.to_numpy(), sorted(present, key=parts)


def _named_groups(groups: Any) -> dict[str, Any]:
    """Name -> levels of each row, from a mapping, a DataFrame, a named Series, or one array, which is called ``group``."""
    if isinstance(groups, Mapping):
        return {str(name): values for name, values in groups.items()}
    if isinstance(groups, pd.DataFrame):
        return {str(name): groups[name] for name in groups.columns}
    name = groups.name if isinstance(groups, pd.Series) and groups.name is not None else "group"
    return {str(name): groups}


def table_from_arrays(
    truth: Any,
    score: Any,
    *,
    groups: Any,
    subject: Any = None,
    classes: Sequence[Any] | None = None,
    positive: Any = None,
    task: str | None = None,
    threshold: float | Threshold = 0.5,
    threshold_split: str = FIXED,
    split: str = "all",
) -> Table:
    """Makes a checked prediction table from arrays, for everything that takes a table.

    Args:
      truth: as for :func:`frame`.
      score: as for :func:`frame`.
      groups: as for :func:`frame`.
      subject: as for :func:`frame`.
      classes: as for :func:`frame`.
      positive: as for :func:`frame`.
      task: as for :func:`frame`.
      threshold: as for :func:`frame`.
      threshold_split: as for :func:`frame`.
      split: as for :func:`frame`.

    Raises:
      UserError: as for :func:`frame`.
    """
    axes = np.ndim(score)
    if axes not in _TASKS:
        raise UserError(f"score has {axes} axes: give [n] scores, or [n, k] scores of k classes")
    if task not in (None, *_TASKS[axes]):
        raise UserError(
            f"task {task!r} with {axes} axes of score: choose {' or '.join(map(repr, _TASKS[axes]))}"
        )
    if axes == 1:
        schema, columns = _one_score(truth, score, positive, task)
    else:
        schema, columns = _several_scores(truth, score, classes)
    count = len(next(iter(columns.values())))
    if isinstance(threshold, Threshold):
        threshold, threshold_split = threshold.value, threshold.split
    if not isinstance(threshold, numbers.Real):
        raise UserError(f"threshold {threshold!r}: give one number, or a Threshold from thresholds.choose")
    require_other(threshold_split, split, "the caller")
    row = np.arange(count).astype(str)
    data: dict[str, Any] = {
        "scan_id": row, "subject_id": row, "cohort": "arrays", "split": split, **columns, "threshold": float(threshold),
        "threshold_split": threshold_split, "checkpoint_step": 0, "checkpoint_fingerprint": NOT_RECORDED,
        "config_fingerprint": NOT_RECORDED,
    }  # fmt: skip
    source = _Arguments("", {"target": "truth"})
    if subject is not None:
        data["subject_id"] = as_text(_series(subject, "subject", count)).to_numpy()
        source.refuse("subject", data["subject_id"] == UNKNOWN, "no value", "name the person of each row")
    attributes = {}
    for name, values in _named_groups(groups).items():
        if name in data or name.startswith(("target:", "threshold:")):
            raise UserError(f"groups: {name!r} is a column of the prediction table: give it another name")
        data[name], attributes[name] = _levels(values, name, count)
    schema = dataclasses.replace(schema, attributes=attributes)
    return Table(validate(pd.DataFrame(data), schema, source), schema)


def frame(
    truth: Any,
    score: Any,
    *,
    groups: Any,
    subject: Any = None,
    metrics: Sequence[str] | None = None,
    by: Sequence[str] | None = None,
    control: Sequence[str] = (),
    reference: Mapping[str, str] | None = None,
    classes: Sequence[Any] | None = None,
    positive: Any = None,
    task: str | None = None,
    threshold: float | Threshold = 0.5,
    threshold_split: str = FIXED,
    split: str = "all",
    resamples: int = 2000,
    seed: int = 0,
    bca: bool = False,
    rest: bool = False,
    compare: bool = True,
    hidden: Collection[tuple[str, str]] = (),
) -> Frame:
    """Computes every metric overall and by group, with intervals, straight from arrays.

    Arrays are NumPy or JAX arrays, lists, or pandas Series; rows are matched by position, never by a pandas index. The arrays become
    a checked prediction table (:func:`table_from_arrays`) for :func:`evaluate`, so that the numbers are those of the same table in a
    file.

    Args:
      truth: [n] the true value of each row. Two classes are 0 and 1, booleans, or words with ``positive``; several classes are their
        names; a regression has numbers. Several labels are [n, k] of 0 and 1.
      score: [n] probabilities of the positive class, or predicted numbers of a regression; [n, k] probabilities of k classes or
        labels, an array or a DataFrame with a column for each.
      groups: name -> [n] levels, as a mapping or a DataFrame. A single array is called ``group``, a single Series by its name. People
        with a missing value are ``unknown``: they are shown, and compared with nobody. Levels are sorted; those of a categorical
        keep their order.
      subject: [n] the person of each row. None: every row is a person of its own. Intervals are then too narrow where people have
        several rows, and ``settings["subject"]`` says that this was assumed.
      metrics: names of metrics; by default all of the task (:func:`equipoise.engine.metrics.names`).
      by: names of ``groups`` and intersections of them, such as ``race*sex``; by default each of ``groups`` that is no control.
      control: names of ``groups`` within whose levels the others are compared, level by level.
      reference: name, or intersection -> level that the others are compared with; by default the first level that has images.
      classes: names of the k columns of ``score`` in order; by default those of a DataFrame, else 0 to k − 1. Truth is matched by name.
      positive: value of ``truth`` whose probability ``score`` is; needed where truth holds words.
      task: ``binary`` or ``regression`` for [n] scores. By default a truth of numbers other than 0 and 1 is a regression.
      threshold: a score at or above it is called positive; a number, or a :class:`Threshold` that knows where it was chosen.
      threshold_split: name of the rows that the threshold was chosen on; ``fixed``: on none.
      split: name of these rows. A threshold chosen on them is refused.
      resamples: number of bootstrap resamples, drawn once for all metrics and groups.
      seed: seed of the bootstrap.
      bca: BCa instead of percentile limits where a bootstrap is used.
      rest: compare each group with everyone else also in scores that need resamples.
      compare: whether groups are compared.
      hidden: (attribute or intersection, level) of cells to leave out, as if nobody were in them.

    Returns:
      The frame.

    Raises:
      UserError: for arrays of different lengths, missing truth or scores, scores that are no numbers or no probabilities, an
        unknown class or metric; the message names the argument and the rows.
    """
    table = table_from_arrays(
        truth, score, groups=groups, subject=subject, classes=classes, positive=positive, task=task, threshold=threshold,
        threshold_split=threshold_split, split=split,
    )  # fmt: skip
    result = evaluate(
        table, metrics=metrics, groups=by, control=control, reference=reference, resamples=resamples, seed=seed, bca=bca, rest=rest,
        compare=compare, hidden=hidden,
    )  # fmt: skip
    assumed = "given" if subject is not None else "not given: every row counts as a person of its own"
    return dataclasses.replace(result, settings=result.settings | {"subject": assumed})
