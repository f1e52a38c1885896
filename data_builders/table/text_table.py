"""A user's table as text; every row knows the line at which an editor shows it."""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Sequence

import pandas as pd

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.vocabulary import is_missing

_DELIMITERS = ",;\t|"
_PARQUET = (".parquet", ".pq")


@dataclasses.dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
      path: of the file.
      frame: one row per scan; every cell is text, ``""`` where it is empty.
      lines: the line of every row, counted from 1 as an editor does (in Parquet files: the row, counted from 1).
      unit: what ``lines`` counts: "line" or "row".
    """

    path: pathlib.Path
    frame: pd.DataFrame
    lines: Sequence[int]
    unit: str = "line"

    def at(self, *indices: int) -> str:
        """Returns ``my.csv, line 7`` or ``my.csv, lines 7 and 9`` for rows given by their index."""
        numbers = [str(self.lines[i]) for i in indices]
        plural = "s" if len(numbers) > 1 else ""
        return f"{self.path.name}, {self.unit}{plural} {' and '.join(numbers)}"

    def check_column(self, name: str, flag: str) -> None:
        """Raises UserError, with the nearest name, if the table has no such column."""
        if name not in self.frame:
            known = list(self.frame.columns)
            raise UserError(
                f"{self.path.name} has no column {name!r} (--{flag}).{did_you_mean(name, known)} "
                f"It has: {', '.join(known)}"
            )


def read_table(path: pathlib.Path) -> TextTable:
    """Reads a CSV file (separated by comma, semicolon, tab or bar; UTF-8 with or without BOM) or a Parquet file.

    Raises:
      UserError: for a file that is missing, empty, or of another kind or encoding, and for a table with a repeated column
        name or a row that is longer or shorter than the header.
    """
    if not path.is_file():
        raise UserError(f"--table: no file {path}")
    if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
        raise UserError(f"--table: {path.name} is a spreadsheet: save it as CSV (UTF-8) and give that")
    table = _read_parquet(path) if path.suffix.lower() in _PARQUET else _read_csv(path)
    if not len(table.frame):
        raise UserError(f"{path.name} has no row below its header")
    repeated = table.frame.columns[table.frame.columns.duplicated()]
    if len(repeated):
        raise UserError(
            f"{path.name} has two columns named {repeated[0]!r}: rename one, so that it is clear which one is meant"
        )
    return table


def identifiers(table: TextTable, column: str, flag: str) -> list[str]:
    """Reads the ids in a column, without blanks around them.

    Args:
      table: of the user.
      column: with the ids.
      flag: of the command line that names the column.

    Raises:
      UserError: for an id that is missing or holds a slash; the message names the line.
    """
    ids = [text.strip() for text in table.frame[column]]
    for index, text in enumerate(ids):
        if is_missing(text):
            raise UserError(
                f"{table.at(index)}, column {column!r} (--{flag}): {text!r} names no one. The subject decides in which "
                "split a scan is: fill in the id, or remove the row"
            )
        if set(text) & set("/\\"):
            raise UserError(
                f"{table.at(index)}, column {column!r} (--{flag}): the id holds a slash, as a path does; "
                "use the cohort's own identifier"
            )
    return ids


def check_images_differ(
    table: TextTable, files: Sequence[pathlib.Path | None], subjects: Sequence[str]
) -> None:
    """Checks that no two rows name the same image.

    Args:
      table: of the user.
      files: image of each row.
      subjects: of each row.

    Raises:
      UserError: with both lines.
    """
    first: dict[pathlib.Path, int] = {}
    for index, file in enumerate(files):
        if file is None:
            continue
        before = first.setdefault(file.resolve(), index)
        if before != index:
            same = subjects[before] == subjects[index]
            raise UserError(
                f"{table.at(before, index)}: the same image {'twice' if same else 'under two subjects'}: "
                f"{'remove one row' if same else 'find out whose it is, and remove the other row'}"
            )


def _read_csv(path: pathlib.Path) -> TextTable:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path.name} is not UTF-8 (byte {error.start}): save it as UTF-8 (in Excel: 'CSV UTF-8')"
        ) from error
    header = text.partition("\n")[0]
    # Only the header decides: names of columns rarely hold a delimiter, free text in the rows often does.
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = [name.strip() for name in next(reader, [])]
    cells, lines, end = [], [], reader.line_num
    try:
        for cell in reader:
            line, end = end + 1, reader.line_num
            if not any(cell):
                continue
            if len(cell) != len(names):
                raise UserError(
                    f"{path.name}, line {line}: {len(cell)} cells where the header has {len(names)}: "
                    f"put quotes around a cell that holds {delimiter!r}"
                )
            cells.append(cell)
            lines.append(line)
    except csv.Error as error:
        raise UserError(f"{path.name}, line {end + 1}: {error} (a quote that is never closed?)") from error
    return TextTable(path, pd.DataFrame(cells, columns=names, dtype=object), lines)


def _read_parquet(path: pathlib.Path) -> TextTable:
    try:
        frame = pd.read_parquet(path)
    except Exception as error:
        raise UserError(f"{path.name} is not a readable Parquet file ({type(error).__name__})") from error
    text = pd.DataFrame({str(name): _as_text(frame[name]) for name in frame}, dtype=object)
    return TextTable(path, text, range(1, len(text) + 1), "row")


def _as_text(column: pd.Series) -> list[str]:
    """Converts cells to text; whole numbers that are stored as floats, because a cell is empty, lose their ``.0``."""
    whole = column.dtype.kind == "f" and (column.dropna() % 1 == 0).all()
    return ["" if pd.isna(value) else str(int(value) if whole else value) for value in column]
