"""The base of every cohort: one canonical example, splits by subject, and a report of what was kept and what was not.

A cohort is a subclass of :class:`Cohort` that says what its scans are (:meth:`Cohort.scans`), how one is read
(:meth:`Cohort.load`) and what they may hold (:meth:`Cohort.schema`). The base checks vocabularies, assigns splits, writes
ArrayRecord through TFDS (no TensorFlow needed) and leaves ``cohort_report.json`` and ``splits.json`` beside the data.
"""

import collections
import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from equipoise.data_builders.base import cache, splits
from equipoise.data_builders.base.readers import Pixels, UnreadableScan
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.vocabulary import UNKNOWN


@dataclasses.dataclass(frozen=True)
class Schema:
    """What the examples of a cohort hold.

    Attributes:
      image_shape: [*spatial, channel]; None where scans differ.
      dtype: of stored pixels.
      labels: name -> classes, or None for a number.
      attributes: name -> levels (``unknown`` is added), or None for a number (NaN: unknown).
      positive: label -> its positive class.
      has_mask: whether examples hold a mask [*spatial] of codes.
      metadata: JSON values that an analysis must know of the cohort. Reports read three, each of which any cohort may
        give: ``regions``, name -> mask of :func:`equipoise.engine.transforms.masks.encode_mask`, outlined on saliency maps;
        ``region_names``, the same names -> words; ``label_map``, for scores of every region: ``labels`` of
        :func:`equipoise.engine.transforms.masks.encode_labels` on the images' grid, ``names``, label (as text) -> words, and
        ``marked``, name -> label of those that are pointed out. Of masks: ``mask_classes``, the name of every code, the
        background first; ``structures``, name -> classes whose union is scored, by default each class but the first;
        ``ratios``, name -> ``{"kind": "area" or "extent", "of": structure, "to": structure}`` and of an extent ``axis``,
        such as the vertical cup-to-disc ratio.
    """

    image_shape: tuple[int | None, ...]
    dtype: Any
    labels: Mapping[str, Sequence[str] | None]
    attributes: Mapping[str, Sequence[str] | None]
    positive: Mapping[str, str] = dataclasses.field(default_factory=dict)
    has_mask: bool = False
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """Names of the codes of masks; where they have none, as many as a byte can hold."""
        return tuple(self.metadata.get("mask_classes", map(str, range(256))))

    @property
    def structures(self) -> dict[str, list[int]]:
        """Scored structure -> codes of the classes that make it up; empty where masks have no named classes."""
        if not self.has_mask or "mask_classes" not in self.metadata:
            return {}
        classes = list(self.mask_classes)
        united = self.metadata.get("structures", {name: [name] for name in classes[1:]})
        return {name: [classes.index(part) for part in parts] for name, parts in united.items()}


@dataclasses.dataclass(frozen=True)
class Scan:
    """One image to be, before its pixels are read.

    Attributes:
      scan_id: unique in the cohort; never a path.
      subject_id: of the person; all scans of a person land in one split.
      labels: name -> class or number; None where missing (the scan is then skipped).
      attributes: name -> level or number; None where missing (then ``unknown`` or NaN).
      stratum: cell within which splits are balanced.
      payload: whatever :meth:`Cohort.load` needs, e.g. a path; never stored.
    """

    scan_id: str
    subject_id: str
    labels: Mapping[str, Any]
    attributes: Mapping[str, Any]
    stratum: str = ""
    payload: Any = None


class Cohort(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base builder. Subclasses define ``VERSION``, :meth:`schema`, :meth:`scans` and :meth:`load`."""

    VERSION = tfds.core.Version("1.0.0")
    FRACTIONS: Mapping[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}
    SPLIT_SEED = 0
    NUM_THREADS = 4

    def __init__(self, *, source_dir: pathlib.Path | None = None, **kwargs: Any):
        """Opens the builder.

        Args:
          source_dir: folder of the raw cohort, where there is one.
          **kwargs: of TFDS builders: ``data_dir``, ``config``.
        """
        self.source_dir = source_dir
        self._skipped: list[dict[str, str]] = []
        self._counts: dict[str, Any] = {}
        self._findings: dict[str, Any] = {}
        self._assigned: dict[str, str] = {}
        super().__init__(**{"file_format": "array_record"} | kwargs)

    def schema(self) -> Schema:
        """What the examples hold."""
        raise NotImplementedError(f"{type(self).__name__} must define schema()")

    def scans(self) -> Iterable[Scan]:
        """Every scan of the cohort, without reading pixels.

        What is found out of the cohort as a whole, such as the unit of a number, goes into ``self._findings``, JSON values
        that the report and the metadata then hold; what cannot be used goes to :meth:`_skip`.

        Raises:
          UserError: when ``source_dir`` is not this cohort's layout.
        """
        raise NotImplementedError(f"{type(self).__name__} must define scans()")

    def load(self, scan: Scan) -> Pixels:
        """Reads one scan.

        Raises:
          UnreadableScan: with the reason, when it cannot be used.
        """
        raise NotImplementedError(f"{type(self).__name__} must define load()")

    def load_all(self, scans: Sequence[Scan]) -> Iterator[tuple[Scan, Pixels | UnreadableScan]]:
        """Reads scans in order, several at a time. A synthetic cohort renders batches here instead."""

        def attempt(scan: Scan) -> Pixels | UnreadableScan:
            try:
                return self.load(scan)
            except UnreadableScan as reason:
                return reason

        yield from cache.in_parallel(attempt, scans, self.NUM_THREADS)

    def assign_splits(self, scans: Sequence[Scan]) -> dict[str, str]:
        """Subject -> split. A cohort with official splits overrides this; a subject in two strata keeps the first."""
        strata: dict[str, str] = {}
        for scan in scans:
            strata.setdefault(scan.subject_id, scan.stratum)
        return splits.assign(strata, self.FRACTIONS, self.SPLIT_SEED)

    @classmethod
    def configure(cls, config: str, **options: Any) -> Any:
        """The builder config for ``prepare --options``; cohorts that have settings override this."""
        raise UserError(
            f"cohort {config or cls.name!r} has no settings: leave out --options={','.join(options)}"
        )

    def _create_builder_config(self, builder_config: Any, version: Any) -> Any:
        """Takes a configuration that :meth:`configure` made, whether or not one of its name is listed."""
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
                name: feature(_with_unknown(levels)) for name, levels in schema.attributes.items()
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
            missing = [name for name in schema.labels if _is_missing(scan.labels.get(name))]
            if missing:
                self._skip(scan, f"label {missing[0]!r} is missing")
            else:
                kept.append(self._checked(scan, schema))
        if not kept:
            raise self._nothing_left(f"all {len(scans)} scans")
        self._assigned = self.assign_splits(kept)
        by_split: dict[str, list[Scan]] = {name: [] for name in self.FRACTIONS}
        for scan in kept:
            by_split.setdefault(self._assigned[scan.subject_id], []).append(scan)
        splits.check_disjoint({name: {s.subject_id for s in members} for name, members in by_split.items()})
        return {name: self._generate_examples(name, members) for name, members in by_split.items() if members}

    def _checked(self, scan: Scan, schema: Schema) -> Scan:
        """The scan with missing attributes made explicit.

        Raises:
          UserError: for a value outside the vocabulary, naming scan, column and what is allowed.
        """
        vocabularies = [
            ("label", schema.labels, scan.labels),
            ("attribute", {k: _with_unknown(v) for k, v in schema.attributes.items()}, scan.attributes),
        ]
        checked: list[dict[str, Any]] = []
        for kind, known, given in vocabularies:
            extra = set(given) - set(known)
            if extra:
                raise UserError(f"scan {scan.scan_id!r}: {kind} {min(extra)!r} is not in the schema")
            values = {}
            for name, levels in known.items():
                value = given.get(name)
                if _is_missing(value):
                    value = math.nan if levels is None else UNKNOWN
                if levels is not None and value not in levels:
                    raise UserError(
                        f"scan {scan.scan_id!r}, {kind} {name!r}: {value!r} is not one of {list(levels)}."
                        f"{did_you_mean(str(value), levels)} Map it in the cohort's builder, or leave it missing."
                    )
                if levels is None:
                    try:
                        value = float(value)
                    except (TypeError, ValueError):
                        raise UserError(
                            f"scan {scan.scan_id!r}, {kind} {name!r}: {value!r} is not a number"
                        ) from None
                values[name] = value
            checked.append(values)
        return dataclasses.replace(scan, labels=checked[0], attributes=checked[1])

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
            reason = pixels if isinstance(pixels, UnreadableScan) else _misfit(pixels, schema)
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
        self._counts[split] = _count(kept, schema)
        if schema.structures:
            self._counts[split]["scans_without"] = {name: empty[name] for name in schema.structures}

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Builds the cohort, unless it is there, with its ``splits.json`` and ``cohort_report.json``.

        Raises:
          UserError: when the folder holds a dataset without its report, or when the raw cohort does not fit.
        """
        folder = pathlib.Path(self.data_path)
        if (folder / "cohort_report.json").exists():
            return
        if folder.exists():
            raise UserError(
                f"{folder} has no cohort_report.json: it was not built by `equipoise prepare`. Remove the folder, then prepare again."
            )
        self._skipped, self._counts, self._findings, self._assigned = [], {}, {}, {}
        tfds.disable_progress_bar()
        super().download_and_prepare(**kwargs)

    def _log_download_bytes(self) -> None:
        """Keeps TFDS from announcing a download: there is none, and our own bars tell the progress."""

    def _log_download_done(self) -> None:
        """As above; the program says where the cohort is."""

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        # TFDS calls this on a temporary folder that it renames when all is there: a build cut short leaves nothing
        # that looks complete but lacks its report.
        super()._download_and_prepare(*args, **kwargs)
        folder = pathlib.Path(self.data_path)
        report = {
            "cohort": self.name,
            "config": self.builder_config.name if self.builder_config else None,
            "version": str(self.version),
            "counts": self._counts,
            "findings": self._findings,
            "skipped_total": len(self._skipped),
            "skipped": sorted(self._skipped, key=lambda s: s["scan_id"]),
            "built": {"tensorflow_datasets": tfds.__version__, "numpy": np.__version__},
        }
        for name, content in (("splits.json", self._assigned), ("cohort_report.json", report)):
            (folder / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def _with_unknown(levels: Sequence[str] | None) -> list[str] | None:
    return None if levels is None else [*(v for v in levels if v != UNKNOWN), UNKNOWN]


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _misfit(pixels: Pixels, schema: Schema) -> str | None:
    """Why pixels do not fit the schema, or None."""
    shape = pixels.image.shape
    wanted = schema.image_shape
    if len(shape) != len(wanted) or any(w is not None and w != s for s, w in zip(shape, wanted, strict=True)):
        return f"shape {'x'.join(map(str, shape))}, expected {'x'.join('?' if w is None else str(w) for w in wanted)}"
    if pixels.image.dtype != np.dtype(schema.dtype):
        return f"stored as {pixels.image.dtype}, expected {np.dtype(schema.dtype)}"
    if schema.has_mask and (pixels.mask is None or pixels.mask.shape != shape[:-1]):
        return "mask is missing or of another shape than the image"
    if schema.has_mask and pixels.mask.max(initial=0) >= len(schema.mask_classes):
        return f"mask holds codes beyond those of its {len(schema.mask_classes)} classes"
    return None


def _count(scans: Sequence[Scan], schema: Schema) -> dict[str, Any]:
    """Scans and subjects by level, and how many subjects carry two known levels of one label or attribute."""

    def levels(names: Iterable[str], field: str) -> dict[str, dict[str, int]]:
        return {
            k: dict(sorted(collections.Counter(str(getattr(s, field)[k]) for s in scans).items()))
            for k in names
        }

    words = [k for k, v in schema.attributes.items() if v is not None]
    classes = [k for k, v in schema.labels.items() if v is not None]
    inconsistent = {}
    for field, name in [*(("labels", k) for k in classes), *(("attributes", k) for k in words)]:
        seen: dict[str, set[str]] = collections.defaultdict(set)
        for scan in scans:
            value = getattr(scan, field)[name]
            if value != UNKNOWN:
                seen[scan.subject_id].add(value)
        inconsistent[f"{field}/{name}"] = sum(len(v) > 1 for v in seen.values())
    return {
        "scans": len(scans),
        "subjects": len({s.subject_id for s in scans}),
        "labels": levels(classes, "labels"),
        "attributes": levels(words, "attributes"),
        "subjects_with_two_levels": {k: n for k, n in inconsistent.items() if n},
    }
