"""The configuration of a cohort made of a table: the request of the command line, and the files that it names."""

import collections
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow_datasets as tfds

from equipoise.data_builders.base import cache
from equipoise.data_builders.base.cohort import Cohort
from equipoise.data_builders.base.readers import UnreadableScan
from equipoise.data_builders.table import images as table_images
from equipoise.data_builders.table import schema_file as schema_files
from equipoise.data_builders.table.images import Header
from equipoise.data_builders.table.schema_file import SchemaFile
from equipoise.data_builders.table.text_table import TextTable, read_table
from equipoise.engine.errors import UserError, did_you_mean

EXAMPLE = "equipoise prepare --cohort=table --table=my.csv --image=path --label=y --subject=pid --attributes=sex,age"
NO_IMAGE = "the table names no image"
_ROLES = ("image", "subject", "mask", "scan", "split")
# Columns of the prediction table: an attribute with one of these names would hide them.
_RESERVED = re.compile(
    r"(scan_id|subject_id|cohort|split|target|score(_\d+)?|threshold|threshold_split|"
    r"checkpoint_step|checkpoint_fingerprint|config_fingerprint)"
)


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class TableConfig(tfds.core.BuilderConfig):
    """A table, and the rules by which it is read.

    Attributes:
      table: of the user.
      schema_file: the rules, read from the schema file or proposed.
      schema_path: of the schema file.
      image_root: folder that relative paths start from.
      cache_dir: folder of decoded scans; None: a folder under the data folder.
      keep_cache: whether decoded scans stay after the build.
      survey: reads the header of every row's image, or the reason why it cannot be read.
    """

    table: TextTable
    schema_file: SchemaFile
    schema_path: pathlib.Path
    image_root: pathlib.Path
    cache_dir: pathlib.Path | None
    keep_cache: bool
    survey: Callable[[], Sequence[Header | UnreadableScan]]


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The request of the command line, before the table is read."""

    table: str = ""
    image: str = ""
    subject: str = ""
    label: Sequence[str] = ()
    attributes: Sequence[str] = ()
    mask: str = ""
    scan: str = ""
    split: str = ""
    image_root: str = ""
    schema: str = ""
    size: Sequence[str] = ()
    spacing: Sequence[str] = ()
    cache_dir: str = ""
    keep_cache: bool = False

    def check(self, table: TextTable) -> None:
        """Raises UserError for a column that the table does not have, or whose name cannot be used."""
        for role in _ROLES:
            if getattr(self, role):
                table.check_column(getattr(self, role), role)
        for flag in ("label", "attributes"):
            names = getattr(self, flag)
            for name in names:
                table.check_column(name, flag)
                if (
                    "/" in name
                    or (flag == "attributes" and _RESERVED.fullmatch(name))
                    or names.count(name) > 1
                ):
                    raise UserError(
                        f"--{flag}: {name!r} is named twice, holds a slash, or is a name that the prediction table "
                        "uses itself: rename the column"
                    )

    def columns(self) -> dict[str, str]:
        """Returns role -> column."""
        return {role: getattr(self, role) for role in _ROLES if getattr(self, role)}

    def numbers(self, flag: str, kind: type) -> tuple[Any, ...] | None:
        """Reads ``--size`` or ``--spacing`` as numbers; None where it is not given."""
        try:
            return tuple(kind(n) for n in getattr(self, flag)) or None
        except ValueError as error:
            raise UserError(f"--{flag}={','.join(getattr(self, flag))}: numbers are expected") from error


def make_config(name: str, description: str, options: dict[str, Any]) -> TableConfig:
    """Reads the table and its schema file, or proposes a schema where there is no file; writes nothing.

    Args:
      name: of the cohort; empty: the name of the table's file.
      description: of the cohort.
      options: the flags of ``equipoise prepare`` by name.

    Raises:
      UserError: for a table, column, image or schema that does not fit; the message says what to do.
    """
    known = [f.name for f in dataclasses.fields(_Asked)]
    for option in options:
        if option not in known:
            raise UserError(f"cohort 'table' has no setting {option!r}.{did_you_mean(option, known)}")
    asked = _Asked(**options)
    missing = [flag for flag in ("table", "image", "label", "subject") if not getattr(asked, flag)]
    if missing:
        raise UserError(f"cohort 'table' needs --{' and --'.join(missing)}, e.g. {EXAMPLE}")
    file = pathlib.Path(asked.table).expanduser()
    name = name or re.sub(r"[^\w-]+", "_", file.stem)
    if not re.fullmatch(r"[\w-]+", name):
        raise UserError(f"table/{name}: letters, digits, '_' and '-' only")
    table = read_table(file)
    asked.check(table)
    root = pathlib.Path(asked.image_root).expanduser() if asked.image_root else file.parent
    if not root.is_dir():
        raise UserError(f"--image_root: no folder {root}")
    path = (
        pathlib.Path(asked.schema).expanduser() if asked.schema else file.with_name(f"{file.name}.schema.json")
    )  # fmt: skip
    survey = functools.cache(functools.partial(_survey, table, asked.image, root))
    schema_file = _read_schema_file(asked, path) if path.exists() else _propose(asked, table, survey())
    return TableConfig(
        name=name,
        description=description,
        table=table,
        schema_file=schema_file,
        schema_path=path,
        image_root=root,
        survey=survey,
        cache_dir=pathlib.Path(asked.cache_dir).expanduser() if asked.cache_dir else None,
        keep_cache=asked.keep_cache,
    )


def _propose(asked: _Asked, table: TextTable, survey: Sequence[Header | UnreadableScan]) -> SchemaFile:
    headers = sort_out(survey)[0]
    kind = "volume" if len(headers[0].shape) == 3 else "picture"
    return SchemaFile(
        columns=asked.columns(),
        labels={name: schema_files.propose_column(table, name, "label") for name in asked.label},
        attributes={
            name: schema_files.propose_column(table, name, "attributes") for name in asked.attributes
        },
        images=table_images.propose(
            kind, headers, asked.numbers("size", int), asked.numbers("spacing", float)
        ),
        fractions=Cohort.FRACTIONS,
        seed=Cohort.SPLIT_SEED,
        splits=schema_files.propose_splits(table, asked.split) if asked.split else None,
    )


def _read_schema_file(asked: _Asked, path: pathlib.Path) -> SchemaFile:
    schema_file = schema_files.read_schema_file(path)
    wanted: dict[str, Any] = {
        "columns": asked.columns(), "labels": list(asked.label), "attributes": list(asked.attributes),
    }  # fmt: skip
    if size := asked.numbers("size", int):
        wanted["size"] = list(size)
    if spacing := asked.numbers("spacing", float):
        wanted["spacing"] = list(spacing) * (3 if len(spacing) == 1 else 1)
    schema_file.check_asked(wanted, path)
    return schema_file


def _survey(table: TextTable, column: str, root: pathlib.Path) -> list[Header | UnreadableScan]:
    """Reads the header of every image.

    Raises:
      UserError: when no image can be read, or when they are not all pictures or all volumes.
    """
    files = [resolve(root, cell) for cell in table.frame[column]]
    table_images.kind_of(file for file in files if file)

    def header_of(file: pathlib.Path | None) -> Header | UnreadableScan:
        if file is None:
            return UnreadableScan(NO_IMAGE)
        try:
            return table_images.read_header(file)
        except UnreadableScan as reason:
            return reason

    survey = []
    with cache.progress() as bar:
        task = bar.add_task("reading headers", total=len(files))
        for _, header in cache.in_parallel(header_of, files, Cohort.NUM_THREADS):
            survey.append(header)
            bar.advance(task)
    headers, reasons = sort_out(survey)
    if not headers:
        reason, count = collections.Counter(reasons).most_common(1)[0]
        raise UserError(
            f"none of the {len(files)} images in column {column!r} can be read: {reason} ({count}). Relative paths "
            f"start from {root}; --image_root=FOLDER names another"
        )
    return survey


def sort_out(survey: Sequence[Header | UnreadableScan]) -> tuple[list[Header], list[str]]:
    """Returns the headers that were read, and the reasons why others could not be read."""
    return [h for h in survey if isinstance(h, Header)], [str(h) for h in survey if not isinstance(h, Header)]


def resolve(root: pathlib.Path, cell: str) -> pathlib.Path | None:
    """Returns the file that a cell names, or None where the cell is empty."""
    return root / cell.strip() if cell.strip() else None
