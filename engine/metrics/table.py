"""The prediction table: one row per image, checked when it is written and when it is read.

Columns: scan_id, subject_id, cohort, split, target, the scores, threshold, threshold_split, checkpoint_step,
checkpoint_fingerprint, config_fingerprint, then one column per attribute under its own name. A score at or above the
threshold is a positive. Messages name columns and row numbers, never a person's id or value.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from engine.config import UserError

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
_REQUIRED = (*_TEXT, "target", "threshold", "checkpoint_step")
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a reader must know of a table's columns.

    Attributes:
      task: its kind, such as ``"classification"``.
      label: name of the label that was predicted.
      classes: levels of the label, in the order of the stored integers; empty where the target is a number.
      positive: the class whose probability is the score of a binary task, or None.
      attributes: levels of every attribute in order; None where it is a number (NaN: unknown).
      scores: names of the score columns.
    """

    task: str
    label: str
    classes: tuple[str, ...]
    positive: str | None
    attributes: Mapping[str, list[str] | None]
    scores: tuple[str, ...] = ("score",)

    def to_json(self) -> str:
        """The text kept in the Parquet file."""
        return json.dumps({"version": _VERSION} | dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Schema":
        """The inverse of :meth:`to_json`.

        Raises:
          UserError: for a version this code does not know.
        """
        values = json.loads(text)
        version = values.pop("version", None)
        if version != _VERSION:
            raise UserError(f"prediction table of version {version}; this Equipoise reads version {_VERSION}")
        return cls(**values | {"classes": tuple(values["classes"]), "scores": tuple(values["scores"])})


@dataclasses.dataclass(frozen=True)
class Table:
    """A checked frame and its schema."""

    frame: pd.DataFrame
    schema: Schema


def _rows(bad: Any) -> str:
    """``3 rows (first: 0, 4, 7)``, counted from 0."""
    where = np.flatnonzero(np.asarray(bad))
    shown = ", ".join(map(str, where[:5]))
    return f"{len(where)} row{'s' if len(where) > 1 else ''} (counted from 0: {shown}{', ...' if len(where) > 5 else ''})"


def _refuse(where: str, column: str, bad: Any, problem: str, remedy: str) -> None:
    if np.asarray(bad).any():
        raise UserError(f"{where}: column {column!r}: {problem} in {_rows(bad)}; {remedy}")


def _check_scores(frame: pd.DataFrame, schema: Schema, where: str) -> None:
    for name in schema.scores:
        values = frame[name].to_numpy()
        _refuse(
            where, name, np.isnan(values), "no score (NaN)", "score every image, or remove the row knowingly"
        )
        if schema.task == "classification":
            bad = (values < 0) | (values > 1)
            _refuse(where, name, bad, "score outside [0, 1]", "give probabilities, not logits")


def _check_targets(frame: pd.DataFrame, schema: Schema, where: str) -> None:
    target = frame["target"].to_numpy()
    if schema.classes:
        bad = ~np.isin(target, np.arange(len(schema.classes)))
        listed = ", ".join(f"{i}={c}" for i, c in enumerate(schema.classes))
        _refuse(where, "target", bad, "no class index", f"it must be one of {listed}")
    else:
        _refuse(where, "target", ~np.isfinite(target), "no finite number", "give every image a target")


def validate(frame: pd.DataFrame, schema: Schema, where: str) -> pd.DataFrame:
    """Checks a table and brings its columns to their types (numbers of the table are float64).

    Args:
      frame: one row per image.
      schema: of the table.
      where: names the table in messages.

    Returns:
      A copy with the types of the contract.

    Raises:
      UserError: naming the column, the rows and the remedy.
    """
    needed = (*_REQUIRED, *schema.scores, *schema.attributes)
    missing = [c for c in needed if c not in frame]
    if missing:
        raise UserError(
            f"{where}: no column {', '.join(map(repr, missing))}; it has: {', '.join(map(repr, frame.columns))}"
        )
    if schema.positive is not None and schema.positive not in schema.classes:
        raise UserError(
            f"{where}: positive class {schema.positive!r} is none of the classes {list(schema.classes)}"
        )
    frame = frame.reset_index(drop=True)
    frame = frame.assign(
        **{
            c: frame[c].map(lambda x: x.decode() if isinstance(x, bytes) else x)
            for c in ("scan_id", "subject_id")
        }
    )
    for name in _TEXT:
        empty = frame[name].isna() | (frame[name].astype(str) == "")
        _refuse(where, name, empty, "nothing", "every row needs a value")
        frame[name] = frame[name].astype(str)
    _refuse(
        where,
        "scan_id",
        frame["scan_id"].duplicated(keep=False),
        "the same id twice",
        "keep one row per image",
    )
    numbers = ["threshold", *schema.scores, *(k for k, levels in schema.attributes.items() if levels is None)]
    for name in (*numbers, "target", "checkpoint_step"):
        try:
            frame[name] = frame[name].astype(np.float64)
        except (TypeError, ValueError) as error:
            bad = pd.to_numeric(frame[name], errors="coerce").isna() & frame[name].notna()
            raise UserError(f"{where}: column {name!r}: no number in {_rows(bad)}") from error
    _check_scores(frame, schema, where)
    _check_targets(frame, schema, where)
    steps = frame["checkpoint_step"].to_numpy()
    _refuse(
        where, "checkpoint_step", ~np.isfinite(steps) | (steps % 1 != 0), "no whole number", "give the update"
    )
    if schema.positive is not None:
        _refuse(where, "threshold", frame["threshold"].isna(), "no threshold", "a binary task needs one")
    whole = ["checkpoint_step", *(["target"] if schema.classes else [])]
    frame = frame.astype(dict.fromkeys(whole, np.int64))
    for name, levels in schema.attributes.items():
        if levels is not None:
            allowed = [*levels, *([] if UNKNOWN in levels else [UNKNOWN])]
            bad = ~frame[name].isin(allowed)
            _refuse(where, name, bad, "no known level", f"it must be one of {', '.join(allowed)}")
            frame[name] = frame[name].astype(str)
    return frame


def write_table(path: pathlib.Path, frame: pd.DataFrame, schema: Schema) -> None:
    """Checks a table and writes it as Parquet; the file appears whole or not at all.

    Raises:
      UserError: as :func:`validate`.
    """
    path = pathlib.Path(path)
    frame = validate(frame, schema, path.name)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata((table.schema.metadata or {}) | {_KEY: schema.to_json().encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as f:
            pq.write_table(table, f)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_table(path: pathlib.Path) -> Table:
    """Reads and checks a table that :func:`write_table` wrote.

    Raises:
      UserError: when the file is missing, is no Parquet, lacks our schema, or fails :func:`validate`.
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
            f"{path.name} is a Parquet file without Equipoise's schema: it was not written by `equipoise evaluate`"
        )
    schema = Schema.from_json(text)
    return Table(validate(table.to_pandas(), schema, path.name), schema)
