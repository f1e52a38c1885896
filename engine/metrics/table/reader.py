"""Prediction tables from elsewhere: reads any CSV or Parquet file, once the user has said which column plays which part.

A comma, semicolon, tab or bar may separate the fields of a CSV, which are all read as text, so that only this module interprets them.
A missing attribute (empty, NA, NaN, null, unknown) becomes ``unknown`` and is never merged into a group. Messages name the file, the
column and the line that an editor shows, and say what to do. They show no value of a person.
"""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.table.file import File
from equipoise.engine.metrics.table.table import Schema, Source, Table, validate
from equipoise.engine.vocabulary import MISSING_WORDS, UNKNOWN, is_missing

_POSITIVE = {
    "1": "0",
    "1.0": "0.0",
    "true": "false",
    "yes": "no",
    "positive": "negative",
    "present": "absent",
}
_MOST_NUMBERS = 12  # an attribute with more distinct numbers than this is no set of groups
_MOST_NAMED = 4  # at most so many targets or values make up the name of what was predicted
NOT_RECORDED = "not recorded"
_OURS = ("scan_id", "subject_id", "cohort", "split", "target", "threshold", "threshold_split", "checkpoint_step",
         "checkpoint_fingerprint", "config_fingerprint")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Roles:
    """The part that each column plays.

    Attributes:
      task: ``binary``, ``multiclass``, ``multilabel``, ``regression`` or ``values``.
      target: column of the truth; for a multi-label task one column of zeros and ones for each label; empty for values.
      models: model -> its score columns. For a task with classes this is one name with ``{class}`` in place of the class; for values
        it is name -> column.
      positive: value of the target that is the positive class of a binary task; by default the obvious one.
      attributes: columns whose levels form groups.
      bins: attribute -> increasing cuts, for attributes that are numbers.
      confounders: further columns that gaps are adjusted for; numbers stay numbers.
      subject: column of the patient; by default ``subject_id`` if the file has it, else every row is a patient of its own.
      scan: column of the image; by default ``scan_id`` if the file has it, else the number of the row.
      split: column of the split, or None.
    """

    task: str
    target: tuple[str, ...]
    models: Mapping[str, tuple[str, ...]]
    positive: str | None = None
    attributes: tuple[str, ...] = ()
    bins: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    confounders: tuple[str, ...] = ()
    subject: str | None = None
    scan: str | None = None
    split: str | None = None


def as_text(values: pd.Series) -> pd.Series:
    """Returns values as stripped text: missing ones become ``unknown``, and whole numbers lose their ``.0``."""
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    place, distinct = pd.factorize(values, use_na_sentinel=False)
    shown = pd.Series(distinct, dtype=object).map(
        lambda x: UNKNOWN if pd.isna(x) or is_missing(str(x)) else " ".join(str(x).split())
    )
    return pd.Series(shown.astype(str).to_numpy()[place], values.index, dtype=str)


def _number(values: pd.Series, column: str, source: Source) -> np.ndarray:
    """Returns values as float64; missing ones become NaN.

    Raises:
      UserError: for text that is not a number.
    """
    if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return values.to_numpy(np.float64, na_value=np.nan)
    text = pa.array(values, pa.string())
    try:
        return pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        pass
    stripped = values.astype(object).where(values.notna(), "").astype(str).str.strip()
    stripped = stripped.mask(stripped.str.lower().isin(MISSING_WORDS))
    number = pd.to_numeric(stripped, errors="coerce")
    bad = number.isna() & stripped.notna()
    comma = bad.any() and stripped[bad].str.fullmatch(r"-?\d+,\d+").all()
    remedy = "write 0.5, not 0,5" if comma else "give numbers"
    source.refuse(column, bad, "not a number", remedy)
    return number.to_numpy(np.float64)


def cut(values: np.ndarray, cuts: Sequence[float]) -> tuple[np.ndarray, list[str]]:
    """Cuts numbers into intervals that are closed below and open above.

    Args:
      values: [n] numbers; NaN is unknown.
      cuts: increasing bounds between the intervals.

    Returns:
      ([n] label of each number, all labels in order). A label reads ``40–59`` if all values are whole, else ``40 to <60``.
    """
    known = values[np.isfinite(values)]
    whole = bool((known % 1 == 0).all()) and all(c % 1 == 0 for c in cuts)
    labels = [f"<{cuts[0]:g}"]
    for low, high in itertools.pairwise(cuts):
        last = f"{low:g}" if high - 1 == low else f"{low:g}–{high - 1:g}"
        labels.append(last if whole else f"{low:g} to <{high:g}")
    labels.append(f"≥{cuts[-1]:g}")
    place = np.searchsorted(np.asarray(cuts, np.float64), values, side="right")
    return np.where(np.isfinite(values), np.asarray(labels, object)[place], UNKNOWN), labels


def _attribute(
    values: pd.Series, name: str, roles: Roles, source: Source
) -> tuple[np.ndarray, list[str] | None]:
    """Returns (level of each row, levels in order), or (numbers, None) for a confounder that is a number."""
    if name in roles.bins:
        return cut(_number(values, name, source), roles.bins[name])
    text = as_text(values)
    levels = set(text.unique()) - {UNKNOWN}
    numbers = pd.to_numeric(pd.Series(sorted(levels), dtype=object), errors="coerce")
    if len(levels) > _MOST_NUMBERS and numbers.notna().all():
        if name in roles.confounders:
            return _number(values.where((text != UNKNOWN).to_numpy()), name, source), None
        low, high = (float(numbers.quantile(q)) for q in (1 / 3, 2 / 3))
        raise UserError(
            f"{source.name}: column {name!r} has {len(levels)} different numbers, too many to be groups: cut them, "
            f"such as --bins={name}:{low:.0f},{high:.0f}"
        )
    natural = lambda s: [int(p) if p.isdigit() else p.casefold() for p in re.split(r"([0-9]+)", s)]  # noqa: E731
    return text.to_numpy(), sorted(levels, key=natural)


def _binary(text: pd.Series, roles: Roles, source: Source) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Returns (index of each row's class, classes, the positive class)."""
    column = roles.target[0]
    source.refuse(
        column, text == UNKNOWN, "no value", "give every row its true class, or remove it knowingly"
    )
    values = sorted(text.unique())
    lower = {value.lower(): value for value in values}
    positive = roles.positive
    if positive is None:
        known = [p for p, negative in _POSITIVE.items() if set(lower) <= {p, negative}]
        if not known:
            shown = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
            raise UserError(
                f"{source.name}: column {column!r} holds {shown}: say with --positive=VALUE which is the positive class"
                + (" (several classes: --class_scores=p_{class})" if len(values) > 2 else "")
            )
        positive = lower.get(known[0], known[0])
        negative = lower.get(_POSITIVE[known[0]], _POSITIVE[known[0]])
    elif positive.lower() not in lower:
        raise UserError(
            f"{source.name}: column {column!r} never holds the positive class {positive!r}.{did_you_mean(positive, values)}"
        )
    else:
        others = [v for v in values if v.lower() != positive.lower()]
        negative = others[0] if len(others) == 1 else f"not {positive}"
    is_positive = text.str.lower() == positive.lower()  # "Yes" and "yes" are one value
    return is_positive.to_numpy(np.int64), (negative, positive), positive


def _classes(file: File, roles: Roles, text: pd.Series) -> tuple[str, ...]:
    """Returns the classes of a multi-class task: those of the first model's columns, checked against the target."""
    pattern = next(iter(roles.models.values()))[0]
    before, after = pattern.split("{class}")
    size = len(before) + len(after)
    named = [
        c[len(before) : len(c) - len(after)]
        for c in file.header
        if len(c) > size and c.startswith(before) and c.endswith(after)
    ]
    missing = sorted(set(text.unique()) - set(named) - {UNKNOWN})
    if missing:
        raise UserError(
            f"{file.name}: no column {pattern.replace('{class}', missing[0])!r} for the class {missing[0]!r} of "
            f"{roles.target[0]!r}: every class needs its score column"
        )
    if len(named) < 2:
        raise UserError(f"{file.name}: fewer than two columns are named like {pattern!r}")
    return tuple(named)


def _truth(
    file: File, raw: pd.DataFrame, roles: Roles, source: Source
) -> tuple[dict[str, np.ndarray], tuple[str, ...], str | None]:
    """Returns (target columns, classes, positive class)."""
    if roles.task == "values":
        return {}, (), None
    if roles.task == "regression":
        return {"target": _number(raw[roles.target[0]], roles.target[0], source)}, (), None
    if roles.task == "multilabel":
        targets = {}
        for name in roles.target:
            text = as_text(raw[name]).str.lower()
            index = text.map({k: i for p, n in _POSITIVE.items() for i, k in ((1, p), (0, n))})
            source.refuse(name, index.isna(), "neither 0 nor 1", "give each label a column of 0 and 1")
            targets[f"target:{name}"] = index.to_numpy(np.int64)
        return targets, tuple(roles.target), None
    text = as_text(raw[roles.target[0]])
    if roles.task == "binary":
        index, classes, positive = _binary(text, roles, source)
        return {"target": index}, classes, positive
    source.refuse(roles.target[0], text == UNKNOWN, "no value", "give every row its true class")
    classes = _classes(file, roles, text)
    return {"target": text.map({c: i for i, c in enumerate(classes)}).to_numpy(np.int64)}, classes, None


def read(path: pathlib.Path, roles: Roles) -> Table:
    """Reads a CSV or Parquet file as a prediction table.

    Args:
      path: path of the file.
      roles: which column plays which part.

    Returns:
      The checked table. Its threshold is 0.5 until another is set. Its cohort is the name of the file, and the fingerprints of checkpoint
      and configuration are ``not recorded``.

    Raises:
      UserError: with the file, the column, the lines and the remedy.
    """
    file = File(path)
    subject = roles.subject or ("subject_id" if "subject_id" in file.header else None)
    scan = roles.scan or ("scan_id" if "scan_id" in file.header else None)
    attributes = dict.fromkeys((*roles.attributes, *roles.confounders))
    plain = [*roles.target, *attributes, *(c for c in (subject, scan, roles.split) if c)]
    file.require(plain)
    for name in roles.bins:
        if name not in attributes:
            raise UserError(
                f"--bins={name}:...: {name!r} is not one of the groups.{did_you_mean(name, attributes)}"
            )
    raw = file.read(plain) if plain else None
    source = file.source()
    targets, classes, positive = _truth(file, raw, roles, source)
    models = {
        model: tuple(c.replace("{class}", k) for k in classes) if "{class}" in (c := columns[0]) else columns
        for model, columns in roles.models.items()
    }
    used = list(dict.fromkeys(c for columns in models.values() for c in columns))
    for name in attributes:
        if name in (*_OURS, *used) or name.startswith(("target:", "threshold:")):
            raise UserError(f"{file.name}: column {name!r} cannot be a group: copy it under another name")
    numbers = file.read(used) if used else pd.DataFrame(index=raw.index)
    columns: dict[str, object] = {"cohort": file.name, **targets}
    columns |= {name: _number(numbers[name], name, source) for name in used}
    count = len(numbers)
    notes, ids = [], {"scan_id": scan, "subject_id": subject}
    number = np.arange(count).astype(str)
    for name, column in ids.items():
        columns[name] = number if column is None else as_text(raw[column]).to_numpy()
        if column is not None:
            source.refuse(column, columns[name] == UNKNOWN, "no value", "every row needs one")
    if subject is None:
        notes.append(
            "No column names the patient, so that every row counts as a patient of its own. If patients have several "
            "rows, the intervals are too narrow: name the column with --subject."
        )
    columns["split"] = "all" if roles.split is None else as_text(raw[roles.split]).to_numpy()
    for name in attributes:
        columns[name], attributes[name] = _attribute(raw[name], name, roles, source)
    columns |= {"threshold": 0.5, "threshold_split": "fixed", "checkpoint_step": 0}
    columns |= dict.fromkeys(("checkpoint_fingerprint", "config_fingerprint"), NOT_RECORDED)
    names = roles.target or tuple(models)
    label = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    schema = Schema(roles.task, label, classes, positive, attributes, tuple(used), models)
    named = (
        {"target": label}
        | {k: v for k, v in ids.items() if v}
        | ({"split": roles.split} if roles.split else {})
    )
    named |= {f"target:{c}": c for c in roles.target}
    return Table(validate(pd.DataFrame(columns), schema, file.source(named)), schema, tuple(notes))
