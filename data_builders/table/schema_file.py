"""The schema file of a user's table: it says how every column is read.

It is proposed and written as JSON on the first call. From then on, the table is read as the file says.
"""

import collections
import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from equipoise.data_builders.table.images import Form
from equipoise.data_builders.table.text_table import TextTable
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.vocabulary import may_be_missing, normalized

MAX_LEVELS = 50
_VERSION = 1
_MAX_CODES, _LARGEST_CODE = (
    10,
    20,
)  # a few small whole numbers are codes of levels; ages and scores are numbers
_LARGE_NUMBER = 100_000  # whole numbers that are this large and all different are ids of people or visits
_NEGATIVE = {
    *("0", "no", "none", "absent", "negative", "neg", "without", "false"),
    *("healthy", "normal", "control", "benign"),
}
_SPLITS = {
    "train": ("train", "training", "tr"),
    "validation": ("validation", "val", "valid", "dev", "development", "tune", "tuning"),
    "test": ("test", "testing", "ts"),
}
_ABOUT = [
    "strings: what each text in the table stands for. Map two spellings to one level to merge them; then take the "
    "spare level out of levels.",
    "missing: texts that stand for 'not known'. A scan without its label is skipped; an attribute becomes unknown.",
    "kind: 'levels' (a closed list) or 'number' (strings and levels are then not needed).",
    "A text that is in neither strings nor missing stops the build.",
]


@dataclasses.dataclass(frozen=True)
class Column:
    """The rules by which one label or attribute is read.

    Attributes:
      kind: "levels" or "number".
      missing: texts that stand for a value which is not known.
      levels: in order.
      strings: text -> level.
      positive: for a label with two levels, the level that a high score means.
    """

    kind: str
    missing: tuple[str, ...] = ("",)
    levels: tuple[str, ...] = ()
    strings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    positive: str | None = None

    def __post_init__(self):
        if self.kind not in ("levels", "number"):
            raise UserError(f"kind {self.kind!r} is none of levels, number")
        if self.kind == "number":
            return
        for text, level in self.strings.items():
            if level not in self.levels:
                raise UserError(
                    f"strings maps {text!r} to {level!r}, which is not in levels.{did_you_mean(level, self.levels)}"
                )
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise UserError("levels are empty, or name one twice")
        if self.positive is not None and self.positive not in self.levels:
            raise UserError(
                f"positive {self.positive!r} is not in levels.{did_you_mean(self.positive, self.levels)}"
            )

    def value(self, text: str) -> str | float | None:
        """Returns the level or number that a text stands for, or None where it is missing.

        Raises:
          ValueError: for a text that the schema does not have; the message says what to do.
        """
        if text in self.missing:
            return None
        if self.kind == "number":
            number = _number(text)
            if number is None:
                comma = " (decimals are written with a point)" if _number(text.replace(",", ".")) else ""
                raise ValueError(f"is not a number{comma}; correct the table, or add the text to 'missing'")
            return number
        if text not in self.strings:
            near = did_you_mean(text, [*self.strings, *self.levels])
            raise ValueError(
                f"is not in the schema.{near} Correct the table, or add the text to 'strings' or 'missing'"
            )
        return self.strings[text]


@dataclasses.dataclass(frozen=True)
class SchemaFile:
    """The content of a schema file.

    Attributes:
      columns: role -> column. The roles are image and subject, and mask, scan and split where the table has them.
      labels: column -> the rules by which it is read.
      attributes: likewise.
      images: the form to which all images are brought.
      fractions: split -> share of subjects; not used where the table has a split column.
      seed: of the assignment to splits.
      splits: text in the split column -> train, validation or test; None without such a column.
    """

    columns: Mapping[str, str]
    labels: Mapping[str, Column]
    attributes: Mapping[str, Column]
    images: Form
    fractions: Mapping[str, float]
    seed: int = 0
    splits: Mapping[str, str] | None = None

    def to_json(self) -> str:
        """Writes the content as the text of a file."""
        values = dataclasses.asdict(self)
        for column in (*values["labels"].values(), *values["attributes"].values()):
            for name in [k for k, v in column.items() if not v]:
                del column[name]
        return (
            json.dumps({"version": _VERSION, "about": _ABOUT} | values, indent=1, ensure_ascii=False) + "\n"
        )

    def check_asked(self, asked: Mapping[str, Any], path: pathlib.Path) -> None:
        """Checks that the command line asks for what the file holds.

        Args:
          asked: columns, labels, attributes, and size and spacing where they are given.
          path: of the file.

        Raises:
          UserError: with what differs, and what to do.
        """
        held = {
            "columns": dict(self.columns),
            "labels": list(self.labels),
            "attributes": list(self.attributes),
            "size": list(self.images.size) if self.images.fit != "none" else None,
            "spacing": list(self.images.spacing) if self.images.spacing else None,
        }
        for name, value in asked.items():
            if value != held[name]:
                raise UserError(
                    f"{path.name} was written for {name} {held[name]}, the command asks for {value}: edit or remove "
                    "that file (it is then proposed anew), or name another with --schema"
                )


def read_schema_file(path: pathlib.Path) -> SchemaFile:
    """Reads a schema file.

    Raises:
      UserError: with the name of the file, the entry and what is wrong with it.
    """
    try:
        given = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path.name}, line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(given, dict) or given.pop("version", None) != _VERSION:
        raise UserError(f"{path.name} is no schema of version {_VERSION}: remove it, and it is proposed anew")
    given.pop("about", None)
    for group in ("labels", "attributes"):
        if not isinstance(given.get(group), dict):
            raise UserError(f"{path.name}: {group!r} is missing, or no object of columns")
        given[group] = {k: _build(Column, v, f"{path.name}, {group} {k!r}") for k, v in given[group].items()}
    given["images"] = _build(Form, given.get("images"), f"{path.name}, images")
    schema = _build(SchemaFile, given, path.name)
    for text, split in (schema.splits or {}).items():
        if split not in _SPLITS:
            raise UserError(
                f"{path.name}, splits: {text!r} maps to {split!r}, none of {', '.join(_SPLITS)}."
                f"{did_you_mean(str(split), _SPLITS)}"
            )
    return schema


def _build(cls: type, given: Any, where: str) -> Any:
    if not isinstance(given, dict):
        raise UserError(f"{where}: an object is expected, found {given!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in given:
        if name not in fields:
            raise UserError(f"{where} has no entry {name!r}.{did_you_mean(name, fields)}")
    try:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: {error}") from error
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def propose_column(table: TextTable, name: str, flag: str) -> Column:
    """Proposes the rules by which a column of labels or attributes is read.

    Spellings that differ only in case or blanks become one level; nothing else is merged.

    Args:
      table: of the user.
      name: of the column.
      flag: of the command line that names it: "label" or "attributes".

    Raises:
      UserError: for a column that is empty, or holds free text or ids.
    """
    counts = collections.Counter(table.frame[name])
    missing = tuple(sorted({"", *(text for text in counts if may_be_missing(text))}))
    known = {text: count for text, count in counts.items() if text not in missing}
    where = f"{table.path.name}, column {name!r} (--{flag})"
    if not known:
        raise UserError(f"{where} holds no value: leave it out of --{flag}")
    numbers = {text: number for text in known if (number := _number(text)) is not None}
    codes = _are_codes(numbers.values()) and len(numbers) == len(known)
    mostly_numbers = sum(known[t] for t in numbers) > 0.8 * sum(known.values())
    distinct = {normalized(text) for text in known}
    if mostly_numbers and not codes:
        if _is_identifier(numbers.values(), known):
            raise UserError(f"{where} looks like an identifier: leave it out of --{flag}")
        return Column("number", missing)
    if len(distinct) > MAX_LEVELS or len(distinct) > max(10, 0.9 * sum(known.values())):
        comma = ", or, if these are numbers, write decimals with a point" if _has_comma(known) else ""
        raise UserError(
            f"{where} holds {len(distinct)} different texts in {sum(known.values())} rows: free text, dates or an "
            f"identifier, not groups. Leave it out of --{flag}, or add a column with at most {MAX_LEVELS} levels{comma}"
        )
    variants: dict[str, list[str]] = collections.defaultdict(list)
    for text in sorted(known, key=lambda t: (-known[t], t)):
        variants[f"{numbers[text]:g}" if codes else normalized(text)].append(text)
    named = {key: key if codes else " ".join(texts[0].split()) for key, texts in variants.items()}
    order = sorted(
        variants, key=lambda k: (flag == "label" and k not in _NEGATIVE, float(k) if codes else 0, k)
    )
    levels = tuple(named[key] for key in order)
    return Column(
        "levels", missing, levels,
        {text: named[key] for key in order for text in variants[key]},
        levels[1] if flag == "label" and len(levels) == 2 else None,
    )  # fmt: skip


def propose_splits(table: TextTable, name: str) -> dict[str, str]:
    """Proposes which text in the split column means train, validation and test.

    Raises:
      UserError: for a text that is not a usual word for any of them.
    """
    words = {word: split for split, known in _SPLITS.items() for word in known}
    texts = table.frame[name].tolist()
    for index, text in enumerate(texts):
        if normalized(text) not in words:
            raise UserError(
                f"{table.at(index)}, column {name!r} (--split): {text!r} is not a split.{did_you_mean(normalized(text), words)} "
                f"Write train, validation or test (also: {', '.join(sorted(set(words) - set(_SPLITS)))})"
            )
    return {text: words[normalized(text)] for text in sorted(set(texts))}


def read_column(table: TextTable, name: str, column: Column, path: pathlib.Path) -> list[Any]:
    """Reads the levels or numbers of a column; they are None where they are missing.

    Args:
      table: of the user.
      name: of the column.
      column: the rules by which it is read.
      path: of the schema file, for messages.

    Raises:
      UserError: for the first text that the schema does not have, with file, line, column, text, the nearest level and
        what to do.
    """
    values, wrong = [], []
    for index, text in enumerate(table.frame[name]):
        try:
            values.append(column.value(text))
        except ValueError as problem:
            wrong.append((index, text, problem))
    if wrong:
        index, text, problem = wrong[0]
        more = f" ({len(wrong) - 1} more like it in this column.)" if len(wrong) > 1 else ""
        raise UserError(
            f"{table.at(index)}, column {name!r}: {text!r} {problem} of column {name!r} in {path.name}.{more}"
        )
    return values


def describe_column(table: TextTable, name: str, column: Column, role: str) -> list[str]:
    """Returns lines that say how a column will be read, with counts."""
    counts = collections.Counter(table.frame[name])
    lines = [f"{role} {name!r}: {column.kind}"]
    if column.kind == "levels":
        width = max(map(len, column.levels))
        for level in column.levels:
            texts = [text for text, to in column.strings.items() if to == level]
            positive = "  (positive class)" if level == column.positive else ""
            merged = f"  merged from {', '.join(map(repr, texts))}" if len(texts) > 1 else ""
            lines.append(f"  {level:{width}} {sum(counts[t] for t in texts):7}{positive}{merged}")
    else:
        numbers = [n for text in counts.elements() if (n := _number(text)) is not None]
        lines.append(f"  {min(numbers):g} to {max(numbers):g}, {len(numbers)} rows")
    missing = ", ".join(f"{text!r} ({counts[text]})" for text in column.missing if counts[text])
    return [*lines, *([f"  read as missing: {missing}"] if missing else [])]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    # float() also accepts "1_000" and "infinity", which are not numbers of a table.
    return value if math.isfinite(value) and not re.search("[_a-df-z]", text.lower()) else None


def _are_codes(numbers: Iterable[float]) -> bool:
    distinct = set(numbers)
    return (
        0 < len(distinct) <= _MAX_CODES and all(n % 1 == 0 for n in distinct) and max(map(abs, distinct)) <= _LARGEST_CODE
    )  # fmt: skip


def _is_identifier(numbers: Iterable[float], known: Mapping[str, int]) -> bool:
    numbers = list(numbers)
    are_different = max(known.values()) == 1 and all(n % 1 == 0 for n in numbers)
    return are_different and min(numbers) >= _LARGE_NUMBER


def _has_comma(texts: Iterable[str]) -> bool:
    return all(_number(text.replace(",", ".")) is not None for text in texts)
