"""The base of every cohort: examples of one form, splits by subject, and a report of what was kept and what was skipped.

A cohort is a subclass of :class:`Cohort` that lists its scans (:meth:`Cohort.scans`), reads one (:meth:`Cohort.load`) and
says what examples hold (:meth:`Cohort.schema`). The base checks labels and attributes, assigns splits, writes ArrayRecord
files through TFDS (without TensorFlow), and leaves ``cohort_report.json`` and ``splits.json`` beside them.
"""

import collections
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from equipoise.data_builders.base import cache, report, splits
from equipoise.data_builders.base import schema as schemas
from equipoise.data_builders.base.readers import Pixels, UnreadableScan
from equipoise.data_builders.base.schema import Scan, Schema
from equipoise.engine.errors import UserError


class Cohort(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The base builder. Subclasses define ``VERSION``, :meth:`schema`, :meth:`scans` and :meth:`load`.

    Attributes:
      FRACTIONS: split -> share of the subjects.
      SPLIT_SEED: seed of the assignment to splits; another seed gives another assignment.
      NUM_THREADS: threads that read scans.
    """

    VERSION = tfds.core.Version("1.0.0")
    FRACTIONS: Mapping[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}
    SPLIT_SEED = 0
    NUM_THREADS = 4

    def __init__(self, *, source_dir: pathlib.Path | None = None, **kwargs: Any):
        """Opens the builder.

        Args:
          source_dir: folder of the raw files, for cohorts that have some.
          **kwargs: arguments of TFDS builders: ``data_dir``, ``config``.
        """
        self.source_dir = source_dir
        self._skipped: list[dict[str, str]] = []
        self._counts: dict[str, Any] = {}
        self._findings: dict[str, Any] = {}
        self._assigned: dict[str, str] = {}
        super().__init__(**{"file_format": "array_record"} | kwargs)

    def schema(self) -> Schema:
        """Describes what the examples hold."""
        raise NotImplementedError(f"{type(self).__name__} must define schema()")

    def scans(self) -> Iterable[Scan]:
        """Lists every scan of the cohort, without reading pixels.

        A subclass writes what it learns about the cohort as a whole, such as the unit of a number, into
        ``self._findings``: JSON values that the report and the metadata then hold. It passes scans that cannot be used to
        :meth:`_skip`.

        Raises:
          UserError: when ``source_dir`` does not have the layout of this cohort.
        """
        raise NotImplementedError(f"{type(self).__name__} must define scans()")

    def load(self, scan: Scan) -> Pixels:
        """Reads one scan.

        Raises:
          UnreadableScan: with the reason, when it cannot be used.
        """
        raise NotImplementedError(f"{type(self).__name__} must define load()")

    def load_all(self, scans: Sequence[Scan]) -> Iterator[tuple[Scan, Pixels | UnreadableScan]]:
        """Reads scans in order, several at a time. A synthetic cohort overrides this and renders batches."""

        def attempt(scan: Scan) -> Pixels | UnreadableScan:
            try:
                return self.load(scan)
            except UnreadableScan as reason:
                return reason

        yield from cache.in_parallel(attempt, scans, self.NUM_THREADS)

    def assign_splits(self, scans: Sequence[Scan]) -> dict[str, str]:
        """Assigns every subject to a split; a subject whose scans are in two strata counts in the first.

        A cohort with official splits overrides this.

        Returns:
          Subject -> split.
        """
        strata: dict[str, str] = {}
        for scan in scans:
            strata.setdefault(scan.subject_id, scan.stratum)
        return splits.assign(strata, self.FRACTIONS, self.SPLIT_SEED)

    @classmethod
    def configure(cls, config: str, **options: Any) -> Any:
        """Makes the builder config for ``prepare --options``; cohorts that have settings override this.

        Raises:
          UserError: for a setting that does not exist, or a value that it may not have.
        """
        raise UserError(
            f"cohort {config or cls.name!r} has no settings: leave out --options={','.join(options)}"
        )

    def _create_builder_config(self, builder_config: Any, version: Any) -> Any:
        """Accepts a configuration that :meth:`configure` made, whether or not its name is listed."""
        if isinstance(builder_config, tfds.core.BuilderConfig):
            return builder_config
        return super()._create_builder_config(builder_config, version)

    def _info(self) -> tfds.core.DatasetInfo:
        schema = self.schema()
        num_spatial = len(schema.image_shape) - 1

        def feature(levels: Sequence[str] | None) -> Any:
            return (
                tfds.features.Scalar(np.float32)
                if levels is None
                else tfds.features.ClassLabel(names=list(levels))
            )

        features = {
            "image": tfds.features.Tensor(shape=schema.image_shape, dtype=schema.dtype, encoding="zlib"),
            "labels": {name: feature(classes) for name, classes in schema.labels.items()},
            "attributes": {
                name: feature(schemas.with_unknown(levels)) for name, levels in schema.attributes.items()
            },
            "subject_id": tfds.features.Text(),
            "scan_id": tfds.features.Text(),
            "spacing": tfds.features.Tensor(shape=(num_spatial,), dtype=np.float32),
            "scale": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        }
        if schema.has_mask:
            features["mask"] = tfds.features.Tensor(
                shape=schema.image_shape[:-1], dtype=np.uint8, encoding="zlib"
            )
        if schema.has_affine:
            # As bytes: TFDS would store the numbers themselves in single precision.
            features["affine"] = tfds.features.Tensor(shape=(4, 4), dtype=np.float64, encoding="bytes")
        metadata = {
            "cohort": self.name,
            "config": self.builder_config.name if self.builder_config else None,
            "num_spatial": num_spatial,
            "positive": dict(schema.positive),
            "split_rule": {"unit": "subject", "fractions": dict(self.FRACTIONS), "seed": self.SPLIT_SEED},
            **schema.metadata,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=(type(self).__doc__ or "").strip(),
            features=tfds.features.FeaturesDict({k: v for k, v in features.items() if v != {}}),
            metadata=tfds.core.MetadataDict(metadata),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        scans = sorted(self.scans(), key=lambda s: s.scan_id)
        self.info.metadata.update(self._findings)
        if not scans and self._skipped:
            raise self._nothing_left(f"all {len(self._skipped)} scans")
        if not scans:
            where = f" in {self.source_dir}" if self.source_dir else ""
            raise UserError(
                f"cohort {self.name!r}: no scan found{where}. Is --source_dir the folder that the cohort's own layout has at its top?"
            )
        repeated = [k for k, n in collections.Counter(s.scan_id for s in scans).items() if n > 1]
        if repeated:
            raise UserError(
                f"cohort {self.name!r}: {len(repeated)} scan id(s) appear more than once, e.g. {repeated[0]!r}"
            )
        for scan in scans:
            for field, value in (("scan_id", scan.scan_id), ("subject_id", scan.subject_id)):
                # A path may hold a name or a date of birth, and differs between machines.
                if not value or set(value) & set("/\\"):
                    raise UserError(
                        f"cohort {self.name!r}: {field} {value!r} is empty or a path; use the cohort's own identifier"
                    )
        schema = self.schema()
        kept = []
        for scan in scans:
            missing = [name for name in schema.labels if schemas.is_absent(scan.labels.get(name))]
            if missing:
                self._skip(scan, f"label {missing[0]!r} is missing")
            else:
                kept.append(schemas.complete(scan, schema))
        if not kept:
            raise self._nothing_left(f"all {len(scans)} scans")
        self._assigned = self.assign_splits(kept)
        by_split: dict[str, list[Scan]] = {name: [] for name in self.FRACTIONS}
        for scan in kept:
            by_split.setdefault(self._assigned[scan.subject_id], []).append(scan)
        splits.check_disjoint({name: {s.subject_id for s in members} for name, members in by_split.items()})
        return {name: self._generate_examples(name, members) for name, members in by_split.items() if members}

    def _skip(self, scan: Scan, reason: str) -> None:
        self._skipped.append({"scan_id": scan.scan_id, "reason": reason})

    def _nothing_left(self, what: str) -> UserError:
        reasons = collections.Counter(s["reason"] for s in self._skipped).most_common(3)
        listed = "; ".join(f"{reason} ({count})" for reason, count in reasons)
        return UserError(f"cohort {self.name!r}: {what} were skipped: {listed}")

    def _generate_examples(self, split: str, scans: Sequence[Scan]) -> Iterator[tuple[str, dict[str, Any]]]:
        schema = self.schema()
        kept: list[Scan] = []
        empty: collections.Counter[str] = collections.Counter()
        loaded = cache.tracked(self.load_all(scans), f"{self.name}: {split}", len(scans))
        for scan, pixels in loaded:
            reason = pixels if isinstance(pixels, UnreadableScan) else schemas.misfit(pixels, schema)
            if reason:
                self._skip(scan, str(reason))
                continue
            kept.append(scan)
            example = {
                "image": pixels.image,
                "labels": dict(scan.labels),
                "attributes": dict(scan.attributes),
                "subject_id": scan.subject_id,
                "scan_id": scan.scan_id,
                "spacing": np.asarray(pixels.spacing, np.float32),
                "scale": np.asarray(pixels.scale, np.float32),
            }
            if schema.has_affine:
                example["affine"] = np.asarray(pixels.affine, np.float64)
            if schema.has_mask:
                example["mask"] = pixels.mask
                empty.update(
                    name for name, codes in schema.structures.items() if not np.isin(pixels.mask, codes).any()
                )
            for name in ("labels", "attributes"):
                if not example[name]:
                    del example[name]
            yield scan.scan_id, example
        if not kept:
            raise self._nothing_left(f"all {len(scans)} scans of split {split!r}")
        self._counts[split] = report.count(kept, schema)
        if schema.structures:
            self._counts[split]["scans_without"] = {name: empty[name] for name in schema.structures}

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Builds the cohort with its ``splits.json`` and ``cohort_report.json``, unless it is built already.

        Raises:
          UserError: when the folder holds a dataset without its report, or when the raw files do not fit the schema.
        """
        folder = pathlib.Path(self.data_path)
        if (folder / report.FILE).exists():
            return
        if folder.exists():
            raise UserError(
                f"{folder} has no {report.FILE}: it was not built by `equipoise prepare`. Remove the folder, then prepare again."
            )
        self._skipped, self._counts, self._findings, self._assigned = [], {}, {}, {}
        tfds.disable_progress_bar()
        super().download_and_prepare(**kwargs)

    def _log_download_bytes(self) -> None:
        """Does nothing, so that TFDS announces no download: there is none, and our own bars show the progress."""

    def _log_download_done(self) -> None:
        """Does nothing: the program says where the cohort is."""

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        # TFDS calls this on a temporary folder, which it renames at the end. So a build that was stopped leaves nothing
        # that looks complete but has no report.
        super()._download_and_prepare(*args, **kwargs)
        folder = pathlib.Path(self.data_path)
        content = {
            "cohort": self.name,
            "config": self.builder_config.name if self.builder_config else None,
            "version": str(self.version),
            "counts": self._counts,
            "findings": self._findings,
            "skipped_total": len(self._skipped),
            "skipped": sorted(self._skipped, key=lambda s: s["scan_id"]),
            "built": {"tensorflow_datasets": tfds.__version__, "numpy": np.__version__},
        }
        for name, values in (("splits.json", self._assigned), (report.FILE, content)):
            (folder / name).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
