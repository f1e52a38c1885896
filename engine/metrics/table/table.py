"""The prediction table: one row per image, checked when it is written and when it is read.

Columns: scan_id, subject_id, cohort, split, target, the scores, threshold, threshold_split, checkpoint_step,
checkpoint_fingerprint, config_fingerprint, then one column per attribute under its own name. A task of several labels has
``target:LABEL`` for each label. A score column may have a threshold of its own, ``threshold:COLUMN``. A score at or above the
threshold is a positive. Messages name columns and rows, but never the id or a value of a person.

:mod:`equipoise.engine.metrics.table.reader` reads tables from elsewhere, and :mod:`equipoise.engine.metrics.table.writer` writes a
table from any evaluation loop.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.engine import files
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.vocabulary import UNKNOWN

_KEY = b"equipoise"
_VERSION = 1
_TEXT = (
    "scan_id",
    "subject_id",
    "cohort",
    "split",
    "threshold_split",
    "checkpoint_fingerprint",
    "config_fingerprint",
)
_PROBABILITIES = ("binary", "multiclass", "multilabel")


@dataclasses.dataclass(frozen=True)
class Schema:
    """The meaning of a table's columns.

    Attributes:
      task: ``"classification"`` (of two or more classes), ``"multilabel"``, ``"regression"`` or ``"values"``.
      label: name of what was predicted.
      classes: levels of the label, in the order of the stored integers; for a multi-label task the labels; empty if the
        target is a number.
      positive: the class whose probability is the score of a binary task, or None.
      attributes: attribute -> its levels in order, or None if it is a number (NaN is unknown).
      scores: names of all score columns; for a task of values of the columns of values.
      models: model -> its score columns; by default one model with all of them.
    """

    task: str
    label: str
    classes: tuple[str, ...]
    positive: str | None
    attributes: Mapping[str, list[str] | None]
    scores: tuple[str, ...] = ("score",)
    models: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.models:
            object.__setattr__(self, "models", {"model": tuple(self.scores)})

    @property
    def kind(self) -> str:
        """The kind of metrics that apply: binary, multiclass, multilabel, regression or values."""
        if self.task in ("multilabel", "regression", "values"):
            return self.task
        return "binary" if self.positive is not None else "multiclass" if self.classes else "regression"

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the target columns."""
        if self.kind == "multilabel":
            return tuple(f"target:{name}" for name in self.classes)
        return () if self.kind == "values" else ("target",)

    def to_json(self) -> str:
        """Returns the text that is kept in the Parquet file."""
        return json.dumps({"version": _VERSION} | dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Schema":
        """Reads the text of :meth:`to_json`.

        Raises:
          UserError: for a version that this code does not know.
        """
        values = json.loads(text)
        version = values.pop("version", None)
        if version != _VERSION:
            raise UserError(f"prediction table of version {version}; this Equipoise reads version {_VERSION}")
        models = {name: tuple(columns) for name, columns in values.pop("models", {}).items()}
        lists = {name: tuple(values.pop(name)) for name in ("classes", "scores")}
        return cls(**values, **lists, models=models)


@dataclasses.dataclass(frozen=True, repr=False)
class Table:
    """A checked frame and its schema.

    Attributes:
      frame: one row per image.
      schema: the meaning of its columns.
      notes: what a reader of the report must know about how the table was read.
    """

    frame: pd.DataFrame
    schema: Schema
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Returns how much the table holds, without any of its rows."""
        schema, patients = self.schema, self.frame["subject_id"].nunique()
        return (
            f"Table({len(self.frame)} images of {patients} patients, {schema.kind} {schema.label!r}, "
            f"models: {', '.join(self.models)}; attributes: {', '.join(schema.attributes) or 'none'})"
        )

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models whose scores the table holds."""
        return tuple(self.schema.models)

    def columns(self, model: str | None = None) -> dict[str, np.ndarray]:
        """Returns the columns of one model in the form that metrics take.

        Args:
          model: name of the model; by default the first.

        Returns:
          binary: truth [n] bool, score [n], called [n] bool. multiclass: truth [n] int, scores [n, k], called [n] int (the
          first of the largest scores). multilabel: truth, scores and called [n, k]. regression: truth [n], score [n].
          values: value [n]. Numbers are float64.

        Raises:
          UserError: for an unknown model.
        """
        frame, schema = self.frame, self.schema
        name = self.models[0] if model is None else model
        if name not in schema.models:
            raise UserError(
                f"no model {name!r}.{did_you_mean(name, schema.models)} There are: {', '.join(self.models)}"
            )
        used = list(schema.models[name])
        scores = frame[used].to_numpy(np.float64)
        if schema.kind == "values":
            return {"value": scores[:, 0]}
        truth = frame[list(schema.targets)].to_numpy()
        if schema.kind == "regression":
            return {"truth": truth[:, 0].astype(np.float64), "score": scores[:, 0]}
        if schema.kind == "multiclass":
            return {"truth": truth[:, 0].astype(np.int64), "scores": scores, "called": scores.argmax(1)}
        called = scores >= np.stack([self.threshold(column) for column in used], axis=1)
        if schema.kind == "multilabel":
            return {"truth": truth.astype(bool), "scores": scores, "called": called}
        positive = truth[:, 0] == schema.classes.index(schema.positive)
        return {"truth": positive, "score": scores[:, 0], "called": called[:, 0]}

    def threshold(self, column: str) -> np.ndarray:
        """Returns the thresholds [n] of a score column: its own if it has any, else the table's."""
        of_column = f"threshold:{column}"
        return self.frame[of_column if of_column in self.frame else "threshold"].to_numpy(np.float64)


@dataclasses.dataclass(frozen=True)
class Source:
    """The names of a table's rows and columns in messages.

    Attributes:
      name: name of the file.
      columns: our name of a column -> the file's own name.
      lines: function of [k] rows that returns the [k] numbers by which an editor shows them.
      unit: what these numbers count, ``row`` or ``line``.
    """

    name: str
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lines: Callable[[np.ndarray], Sequence[int]] = lambda rows: rows.tolist()
    unit: str = "row"

    def rows(self, bad: Any) -> str:
        """Returns ``3 rows (counted from 0: 0, 4, 7)`` or ``2 lines (5, 9)``."""
        where = np.flatnonzero(np.asarray(bad))
        shown = ", ".join(map(str, self.lines(where[:5]))) + (", ..." if len(where) > 5 else "")
        count = "counted from 0: " if self.unit == "row" else ""
        return f"{len(where)} {self.unit}{'s' if len(where) > 1 else ''} ({count}{shown})"

    def refuse(self, column: str, bad: Any, problem: str, remedy: str) -> None:
        """Raises a UserError that names file, column, rows and remedy, if any row is bad."""
        if np.asarray(bad).any():
            named = self.columns.get(column, column)
            raise UserError(f"{self.name}: column {named!r}: {problem} in {self.rows(bad)}; {remedy}")


def _check_scores(frame: pd.DataFrame, schema: Schema, source: Source) -> None:
    """Raises a UserError if a score is missing, infinite or no probability where it must be one."""
    if schema.kind == "values":  # the value of an undefined case is NaN, and such cases are counted
        return
    for name in schema.scores:
        values = frame[name].to_numpy()
        source.refuse(
            name, np.isnan(values), "no score (NaN)", "score every image, or remove the row knowingly"
        )
        if schema.kind in _PROBABILITIES:
            bad = (values < 0) | (values > 1)
            source.refuse(name, bad, "score outside [0, 1]", "give probabilities, not logits or percentages")
        source.refuse(name, np.isinf(values), "infinite score", "give finite numbers")


def _check_targets(frame: pd.DataFrame, schema: Schema, source: Source) -> None:
    """Raises a UserError if a target is no class index, or no finite number in a regression."""
    for name in schema.targets:
        target = frame[name].to_numpy()
        if schema.kind == "regression":
            source.refuse(name, ~np.isfinite(target), "not a finite number", "give every image a target")
            continue
        labels = ("no", "yes") if schema.kind == "multilabel" else schema.classes
        listed = ", ".join(f"{i}={c}" for i, c in enumerate(labels))
        bad = ~np.isin(target, np.arange(len(labels)))
        source.refuse(name, bad, "not the index of a class", f"it must be one of {listed}")


def _numbers(frame: pd.DataFrame, names: Sequence[str], source: Source) -> dict[str, pd.Series]:
    """Returns some columns as float64, or raises a UserError that names rows without a number."""
    numbers = {}
    for name in names:
        try:
            numbers[name] = frame[name].astype(np.float64)
        except (TypeError, ValueError) as error:
            bad = pd.to_numeric(frame[name], errors="coerce").isna() & frame[name].notna()
            raise UserError(
                f"{source.name}: column {source.columns.get(name, name)!r}: not a number in {source.rows(bad)}"
            ) from error
    return numbers


def validate(frame: pd.DataFrame, schema: Schema, where: str | Source) -> pd.DataFrame:
    """Checks a table and converts its columns to their types; all numbers become float64.

    Args:
      frame: one row per image.
      schema: the meaning of its columns.
      where: name of the table in messages, or the names of its rows and columns too.

    Returns:
      A copy with the types of a prediction table.

    Raises:
      UserError: with the column, the rows and the remedy.
    """
    source = where if isinstance(where, Source) else Source(where)
    needed = (
        *_TEXT,
        *schema.targets,
        "threshold",
        "checkpoint_step",
        *schema.scores,
        *schema.attributes,
    )
    missing = [c for c in needed if c not in frame]
    if missing:
        raise UserError(
            f"{source.name}: no column {', '.join(map(repr, missing))}; it has: {', '.join(map(repr, frame.columns))}"
        )
    if schema.positive is not None and schema.positive not in schema.classes:
        raise UserError(
            f"{source.name}: positive class {schema.positive!r} is not one of the classes {list(schema.classes)}"
        )
    frame = frame.reset_index(drop=True)
    changed: dict[str, Any] = {}
    for name in _TEXT:
        text = frame[name]
        if pd.api.types.infer_dtype(text, skipna=True) in ("bytes", "mixed"):
            text = text.map(lambda x: x.decode() if isinstance(x, bytes) else x)
        empty = text.isna() | (text.astype(str) == "")
        source.refuse(name, empty, "no value", "every row needs one")
        changed[name] = text.astype(str)
    twice = changed["scan_id"].duplicated(keep=False)
    source.refuse("scan_id", twice, "the same id twice", "keep one row per image")
    thresholds = [c for c in frame if c == "threshold" or str(c).startswith("threshold:")]
    numeric = [k for k, levels in schema.attributes.items() if levels is None]
    names = (*thresholds, *schema.scores, *numeric, *schema.targets, "checkpoint_step")
    changed |= _numbers(frame, names, source)
    frame = frame.assign(**changed)
    _check_scores(frame, schema, source)
    _check_targets(frame, schema, source)
    steps = frame["checkpoint_step"].to_numpy()
    source.refuse(
        "checkpoint_step",
        ~np.isfinite(steps) | (steps % 1 != 0),
        "not a whole number",
        "give the number of the update",
    )
    if schema.positive is not None:
        source.refuse("threshold", frame["threshold"].isna(), "no threshold", "a binary task needs one")
    whole = ["checkpoint_step", *(schema.targets if schema.classes else ())]
    text_of = {}
    for name, levels in schema.attributes.items():
        if levels is not None:
            allowed = [*levels, *([] if UNKNOWN in levels else [UNKNOWN])]
            bad = ~frame[name].isin(allowed)
            source.refuse(name, bad, "not a known level", f"it must be one of {', '.join(allowed)}")
            text_of[name] = frame[name].astype(str)
    return frame.assign(**text_of).astype(dict.fromkeys(whole, np.int64))


def write_table(path: pathlib.Path, frame: pd.DataFrame, schema: Schema) -> None:
    """Checks a table and writes it as Parquet; the file appears whole or not at all.

    Raises:
      UserError: if :func:`validate` refuses the table.
    """
    path = pathlib.Path(path)
    frame = validate(frame, schema, path.name)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata((table.schema.metadata or {}) | {_KEY: schema.to_json().encode()})
    with files.replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_table(path: pathlib.Path) -> Table:
    """Reads and checks a table that :func:`write_table` wrote.

    Raises:
      UserError: if the file is missing, is not Parquet or lacks our schema, or if :func:`validate` refuses the table.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(f"no prediction table {path}: write one with `equipoise evaluate`")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path.name} is not a readable Parquet file: write it again with `equipoise evaluate`"
        ) from error
    text = (table.schema.metadata or {}).get(_KEY)
    if text is None:
        raise UserError(
            f"{path.name} is a Parquet file without Equipoise's schema: read it with `equipoise audit`"
        )
    schema = Schema.from_json(text)
    return Table(validate(table.to_pandas(), schema, path.name), schema)
