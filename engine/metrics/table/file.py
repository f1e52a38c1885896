"""A CSV or Parquet file from elsewhere: its header, its columns, and the line of each row."""

import csv
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.table.table import Source


class File:
    """A table file whose columns are read when they are asked for.

    Attributes:
      name: name of the file, without its folder.
      header: names of its columns.
    """

    def __init__(self, path: pathlib.Path):
        """Opens a file and reads its header.

        Raises:
          UserError: if the file is missing, empty, of another kind or not UTF-8, or if it names a column twice.
        """
        self._path, self.name = pathlib.Path(path).expanduser(), pathlib.Path(path).name
        if not self._path.is_file():
            raise UserError(f"no table {self._path}")
        suffix = self._path.suffix.lower()
        if suffix in (".xls", ".xlsx", ".ods"):
            raise UserError(f"{self.name} is a spreadsheet: save it as “CSV UTF-8” and give that file")
        self._is_csv = suffix not in (".parquet", ".pq")
        self._delimiter = ","
        self.header = self._csv_header() if self._is_csv else self._parquet_header()
        twice = sorted({c for c in self.header if self.header.count(c) > 1})
        if twice:
            raise UserError(f"{self.name}: column {twice[0]!r} is there twice: rename one of them")

    def _parquet_header(self) -> list[str]:
        """Returns the names of the columns of a Parquet file."""
        try:
            return list(pq.read_schema(self._path).names)
        except pa.ArrowInvalid as error:
            raise UserError(f"{self.name} is not a readable Parquet file: write it again") from error

    def _csv_header(self) -> list[str]:
        """Returns the names on the first line of a CSV file, and remembers its separator."""
        try:
            with self._path.open(newline="", encoding="utf-8-sig") as f:
                first = f.readline()
        except UnicodeDecodeError as error:
            raise self._not_utf8() from error
        if not first.strip():
            raise UserError(f"{self.name}: line 1 is empty: it must name the columns")
        rows = {d: next(csv.reader([first], delimiter=d)) for d in ",;\t|"}
        self._delimiter = max(rows, key=lambda d: len(rows[d]))
        return rows[self._delimiter]

    def _not_utf8(self) -> UserError:
        """Returns the error that names the first line that is not UTF-8."""
        line = 1 + self._path.read_bytes()[: self._first_bad_byte()].count(b"\n")
        return UserError(f"{self.name}: line {line} is not UTF-8 text: save the file as “CSV UTF-8”")

    def _first_bad_byte(self) -> int:
        try:
            self._path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            return error.start
        return 0

    def lines(self, rows: np.ndarray) -> list[int]:
        """Returns the numbers by which an editor shows some rows of a CSV; a quoted field may hold line ends."""
        wanted, line_of = set(rows.tolist()), {}
        with self._path.open(newline="", encoding="utf-8-sig") as f:
            reader = csv.reader(f, delimiter=self._delimiter)
            next(reader)
            place, start = 0, reader.line_num + 1
            for fields in reader:
                if fields:  # an empty line is not a row
                    if place in wanted:
                        line_of[place] = start
                    place += 1
                start = reader.line_num + 1
                if len(line_of) == len(wanted):
                    break
        return [line_of[row] for row in rows.tolist()]

    def source(self, columns: Mapping[str, str] | None = None) -> Source:
        """Returns how messages name the file's rows.

        Args:
          columns: our name of a column -> the file's own name.
        """
        if self._is_csv:
            return Source(self.name, columns or {}, self.lines, "line")
        return Source(self.name, columns or {})

    def require(self, names: Sequence[str]) -> None:
        """Checks that columns are there.

        Raises:
          UserError: with the first column that is missing and the closest one that is there.
        """
        for name in names:
            if name not in self.header:
                known = ", ".join(map(repr, self.header[:30])) + (", ..." if len(self.header) > 30 else "")
                same = [c for c in self.header if c.strip().lower() == name.strip().lower()]
                hint = f" Did you mean {same[0]!r}?" if same else did_you_mean(name, self.header)
                raise UserError(f"{self.name}: no column {name!r}.{hint} It has: {known}")

    def read(self, names: Sequence[str]) -> pd.DataFrame:
        """Returns some columns; the columns of a CSV are text.

        Raises:
          UserError: for a missing column, a file without rows, or a line with too few or too many fields.
        """
        self.require(names)
        names = list(dict.fromkeys(names))
        if not self._is_csv:
            frame = pq.read_table(self._path, columns=names).to_pandas()
        else:
            try:
                frame = pacsv.read_csv(
                    self._path,
                    parse_options=pacsv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
                    convert_options=pacsv.ConvertOptions(
                        include_columns=names, column_types=dict.fromkeys(names, pa.string())
                    ),
                ).to_pandas()
            except pa.ArrowInvalid as error:
                raise self._damage() from error
        if frame.empty:
            raise UserError(f"{self.name} has no row below its header, so that there is nothing to audit")
        return frame

    def _damage(self) -> UserError:
        """Returns the error that names the first line with too few or too many fields."""
        try:
            with self._path.open(newline="", encoding="utf-8-sig") as f:
                reader = csv.reader(f, delimiter=self._delimiter)
                for fields in reader:
                    if fields and len(fields) != len(self.header):
                        return UserError(
                            f"{self.name}: line {reader.line_num} has {len(fields)} fields, but line 1 names {len(self.header)} "
                            "columns: put a field that holds the separator in double quotes"
                        )
        except UnicodeDecodeError:
            return self._not_utf8()
        return UserError(f"{self.name} is not a readable CSV file: save it again as “CSV UTF-8”")
