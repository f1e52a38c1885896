"""Private data without a builder: a table with one row per scan becomes a cohort, ``table/NAME``.

The first call proposes a schema (which text means which level, which texts mean that a value is missing, and the form of
the images) and writes it beside the table. A person looks at the file, and from then on the table is read as it says.
Nothing that is stored shows a path: a scan is named by a column of the table, or else by its subject and a number, in the
order of the names of the subject's files. Volumes are stored with their affine.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from equipoise.data_builders.base import cache, report
from equipoise.data_builders.base.cohort import Cohort
from equipoise.data_builders.base.readers import Pixels, UnreadableScan
from equipoise.data_builders.base.schema import Scan, Schema
from equipoise.data_builders.table import images as table_images
from equipoise.data_builders.table import schema_file as schema_files
from equipoise.data_builders.table.config import (
    EXAMPLE,
    NO_IMAGE,
    TableConfig,
    make_config,
    resolve,
    sort_out,
)
from equipoise.data_builders.table.schema_file import SchemaFile
from equipoise.data_builders.table.text_table import check_images_differ, identifiers
from equipoise.engine import files
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.vocabulary import UNKNOWN


class TableCohort(Cohort):
    """Private data from a CSV or Parquet file: one row per PNG, JPEG or NIfTI image (--table=my.csv ...)."""

    name = "table"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, **kwargs: Any):
        """Opens the builder; ``config`` comes from :meth:`configure`.

        Raises:
          UserError: without a table.
        """
        if not isinstance(kwargs.get("config"), TableConfig):
            raise UserError(f"cohort 'table' needs --table, --image, --label and --subject, e.g. {EXAMPLE}")
        self.schema_file: SchemaFile = kwargs["config"].schema_file
        self.FRACTIONS = dict(self.schema_file.fractions)
        self.SPLIT_SEED = self.schema_file.seed
        super().__init__(**kwargs)

    @classmethod
    def configure(cls, config: str, **options: Any) -> TableConfig:
        """Reads the table as the flags of ``equipoise prepare`` say; writes nothing."""
        return make_config(config, cls.__doc__ or "", options)

    @property
    def is_proposal(self) -> bool:
        """Whether the schema is proposed and not yet written to its file."""
        return not self.builder_config.schema_path.exists()

    def propose(self) -> str:
        """Writes the proposed schema to its file.

        Returns:
          Text that shows it, with counts.
        """
        config, schema_file = self.builder_config, self.schema_file
        lines = [f"{config.table.path.name}: {len(config.table.frame)} scans"]
        for role, columns in (("label", schema_file.labels), ("attribute", schema_file.attributes)):
            for name, column in columns.items():
                lines += schema_files.describe_column(config.table, name, column, role)
        headers, reasons = sort_out(config.survey())
        lines += table_images.describe(schema_file.images, headers, reasons)
        lines.append(self._describe_splits())
        files.write_text(config.schema_path, schema_file.to_json())
        return "\n".join([*lines, f"schema written to {config.schema_path}"])

    def _describe_splits(self) -> str:
        schema_file = self.schema_file
        if schema_file.splits is None:
            shares = ", ".join(f"{split} {share:g}" for split, share in schema_file.fractions.items())
            return f"splits by subject: {shares}"
        column = schema_file.columns["split"]
        counts = collections.Counter(
            schema_file.splits[text] for text in self.builder_config.table.frame[column]
        )
        listed = ", ".join(f"{split} ({counts[split]})" for split in schema_file.fractions)
        return f"splits of column {column!r}: {listed}"

    def schema(self) -> Schema:
        """Describes labels and attributes of the table; the metadata say how splits were made, by which schema."""
        schema_file = self.schema_file
        metadata = {"schema_fingerprint": self._fingerprint()}
        if schema_file.splits is not None:
            metadata["split_rule"] = {"unit": "subject", "column": schema_file.columns["split"]}
        return Schema(
            image_shape=(*schema_file.images.size, schema_file.images.channels),
            dtype=np.dtype(schema_file.images.dtype),
            labels={k: c.levels if c.kind == "levels" else None for k, c in schema_file.labels.items()},
            attributes={
                k: c.levels if c.kind == "levels" else None for k, c in schema_file.attributes.items()
            },
            positive={
                k: c.positive for k, c in schema_file.labels.items() if c.positive and c.kind == "levels"
            },
            has_mask="mask" in schema_file.columns,
            has_affine=schema_file.images.kind == "volume",
            metadata=metadata,
        )

    def scans(self) -> Iterable[Scan]:
        """Lists every row, with its values read by the schema.

        Raises:
          UserError: for a value that the schema does not have, a subject that is missing or in two splits, or an image
            that two rows name; the message names the lines.
        """
        return self._scans

    @functools.cached_property
    def _scans(self) -> list[Scan]:
        config, schema_file = self.builder_config, self.schema_file
        table, columns = config.table, schema_file.columns
        subjects = identifiers(table, columns["subject"], "subject")
        files = [resolve(config.image_root, cell) for cell in table.frame[columns["image"]]]
        masks = [None] * len(files)
        if "mask" in columns:
            masks = [resolve(config.image_root, cell) for cell in table.frame[columns["mask"]]]
        check_images_differ(table, files, subjects)
        table_images.check_shapes(schema_file.images, sort_out(config.survey())[0])
        labels = {
            k: schema_files.read_column(table, k, c, config.schema_path)
            for k, c in schema_file.labels.items()
        }
        attributes = {
            k: schema_files.read_column(table, k, c, config.schema_path)
            for k, c in schema_file.attributes.items()
        }
        names = self._scan_names(subjects, files)
        strata = _strata(labels, attributes, schema_file)
        return [
            Scan(
                scan_id=names[i],
                subject_id=subjects[i],
                labels={k: values[i] for k, values in labels.items()},
                attributes={k: values[i] for k, values in attributes.items()},
                stratum=strata[i],
                payload=(files[i], masks[i]),
            )
            for i in range(len(files))
        ]

    def _scan_names(self, subjects: Sequence[str], files: Sequence[pathlib.Path | None]) -> list[str]:
        table, column = self.builder_config.table, self.schema_file.columns.get("scan")
        if column:
            names = identifiers(table, column, "scan")
            first: dict[str, int] = {}
            for index, name in enumerate(names):
                if first.setdefault(name, index) != index:
                    raise UserError(
                        f"{table.at(first[name], index)}: the same scan in column {column!r}: every row needs an id of its own"
                    )
            return names
        names = [""] * len(subjects)
        counted: collections.Counter[str] = collections.Counter()
        for index in sorted(
            range(len(files)), key=lambda i: (files[i].name if files[i] else "", str(files[i]), i)
        ):
            counted[subjects[index]] += 1
            names[index] = f"{subjects[index]}-{counted[subjects[index]]:03d}"
        return names

    def assign_splits(self, scans: Sequence[Scan]) -> dict[str, str]:
        """Takes the split column of the table where it has one; else balances splits by label and attributes.

        Returns:
          Subject -> split.

        Raises:
          UserError: for a text that is not a split by the schema, or a subject in two splits.
        """
        schema_file, table = self.schema_file, self.builder_config.table
        if schema_file.splits is None:
            return super().assign_splits(scans)
        texts = table.frame[schema_file.columns["split"]]
        first: dict[str, int] = {}
        for index, scan in enumerate(self._scans):
            if texts[index] not in schema_file.splits:
                raise UserError(
                    f"{table.at(index)}, column {schema_file.columns['split']!r}: {texts[index]!r} is not in 'splits' of "
                    f"{self.builder_config.schema_path.name}.{did_you_mean(texts[index], schema_file.splits)}"
                )
            before = first.setdefault(scan.subject_id, index)
            if schema_file.splits[texts[before]] != schema_file.splits[texts[index]]:
                raise UserError(
                    f"{table.at(before, index)}: one subject in {schema_file.splits[texts[before]]} and in "
                    f"{schema_file.splits[texts[index]]}: put each subject into one split, so that nobody is tested on who was trained on"
                )
        return {subject: schema_file.splits[texts[index]] for subject, index in first.items()}

    def check(self) -> None:
        """Reads every row by the schema, without pixels.

        Raises:
          UserError: as :meth:`scans` and :meth:`assign_splits` do.
        """
        self.assign_splits(self._scans)

    def load(self, scan: Scan) -> Pixels:
        """Reads one image, with its mask, in the form of the cohort; an image that was decoded before comes from the cache."""
        if not self.schema_file.images.is_slow:
            return self._decode(scan)
        return self._cache.get(_files(scan), lambda: self._decode(scan))

    def _decode(self, scan: Scan) -> Pixels:
        image, mask = scan.payload
        if image is None or (mask is None and "mask" in self.schema_file.columns):
            raise UnreadableScan("the table names no mask" if image else NO_IMAGE)
        return table_images.load(self.schema_file.images, image, mask)

    @functools.cached_property
    def _cache(self) -> cache.DecodedCache:
        default = pathlib.Path(self._data_dir_root) / ".cache" / self.name / self.builder_config.name
        settings = dataclasses.asdict(self.schema_file.images)
        return cache.DecodedCache(self.builder_config.cache_dir or default, settings)

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Decodes into the cache, builds from it, and removes it; a cohort that is prepared already is left as it is.

        Raises:
          UserError: as :meth:`Cohort.download_and_prepare` does, and when the cohort was prepared by another schema.
        """
        folder = pathlib.Path(self.data_path)
        if (folder / report.FILE).exists():
            self._check_same_schema(folder)
            return
        self.check()
        if self.schema_file.images.is_slow:
            labelled = [s for s in self._scans if None not in s.labels.values()]
            num_cached = self._cache.fill(labelled, _files, self._decode, "decoding", self.NUM_THREADS)
            if num_cached:
                print(f"{num_cached} of {len(labelled)} scans were decoded before")
        super().download_and_prepare(**kwargs)
        if self.schema_file.images.is_slow and not self.builder_config.keep_cache:
            self._cache.remove()

    def _check_same_schema(self, folder: pathlib.Path) -> None:
        if self.info.metadata.get("schema_fingerprint") != self._fingerprint():
            raise UserError(
                f"{folder} was prepared by another schema than {self.builder_config.schema_path.name}: give another --name, "
                "or remove that folder"
            )
        built = (folder / report.FILE).stat().st_mtime
        if self.builder_config.table.path.stat().st_mtime > built:
            print(
                f"note: {self.builder_config.table.path.name} was changed after the cohort was prepared; to read it "
                f"again, give another --name, or remove {folder}"
            )

    def _fingerprint(self) -> str:
        """Returns twelve digits that depend on the schema alone, and on nothing that the table says of a person."""
        values = dataclasses.asdict(self.schema_file)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _files(scan: Scan) -> list[pathlib.Path]:
    return [file for file in scan.payload if file]


def _strata(
    labels: dict[str, list[Any]], attributes: dict[str, list[Any]], schema_file: SchemaFile
) -> list[str]:
    """Returns the stratum of every row: the classes of its labels (for a number its quarter), and its levels."""
    parts = []
    for name, column in schema_file.labels.items():
        if column.kind == "levels":
            parts.append(labels[name])
        else:
            values = np.array([np.nan if v is None else v for v in labels[name]])
            known = values[~np.isnan(values)]
            cuts = np.quantile(known, (0.25, 0.5, 0.75)) if len(known) else []
            parts.append(np.searchsorted(cuts, values).tolist())
    parts += [attributes[name] for name, column in schema_file.attributes.items() if column.kind == "levels"]
    return ["/".join(UNKNOWN if v is None else str(v) for v in row) for row in zip(*parts, strict=True)]
