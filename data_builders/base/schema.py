"""The schema of a cohort: what its examples hold, and the check that a scan fits."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.data_builders.base.readers.pixels import Pixels
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.vocabulary import UNKNOWN


@dataclasses.dataclass(frozen=True)
class Schema:
    """The description of a cohort's examples.

    Attributes:
      image_shape: [*spatial, channel]; None for an axis along which scans differ.
      dtype: of stored pixels.
      labels: name -> classes, or None for a number.
      attributes: name -> levels (``unknown`` is added to them), or None for a number (NaN where it is unknown).
      positive: label -> its positive class.
      has_mask: whether examples hold a mask [*spatial] of codes.
      has_affine: whether every example holds its own ``affine`` (of :class:`Pixels`), as volumes that were read from
        files should; without it, nothing computed on their grid can be written as NIfTI in its place.
      metadata: JSON values that an analysis must know of the cohort. Any cohort may give these:
        ``affine``: [4, 4], voxel to mm, of a cohort whose volumes all lie on one grid (``has_affine`` is then not needed).
        ``regions``: name -> mask of :func:`equipoise.engine.transforms.masks.encode_mask`, outlined on saliency maps;
        ``region_names``: the same names -> words. ``label_map``, for scores of every region: ``labels`` of
        :func:`equipoise.engine.transforms.masks.encode_labels` on the grid of the images, ``names``, label (as text) ->
        words, and ``marked``, name -> label of the regions that are pointed out. For masks: ``mask_classes``, the name of
        every code, the background first; ``structures``, name -> classes whose union is scored, by default each class but
        the first; ``ratios``, name -> ``{"kind": "area" or "extent", "of": structure, "to": structure}``, for an extent
        also ``axis``, such as the vertical cup-to-disc ratio.
    """

    image_shape: tuple[int | None, ...]
    dtype: Any
    labels: Mapping[str, Sequence[str] | None]
    attributes: Mapping[str, Sequence[str] | None]
    positive: Mapping[str, str] = dataclasses.field(default_factory=dict)
    has_mask: bool = False
    has_affine: bool = False
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """Names of the codes of masks; the numbers 0 to 255 for masks without names."""
        return tuple(self.metadata.get("mask_classes", map(str, range(256))))

    @property
    def structures(self) -> dict[str, list[int]]:
        """Scored structure -> codes of the classes that it is made of; empty for masks without named classes."""
        if not self.has_mask or "mask_classes" not in self.metadata:
            return {}
        classes = list(self.mask_classes)
        united = self.metadata.get("structures", {name: [name] for name in classes[1:]})
        return {name: [classes.index(part) for part in parts] for name, parts in united.items()}


@dataclasses.dataclass(frozen=True)
class Scan:
    """One scan, before its pixels are read.

    Attributes:
      scan_id: unique in the cohort; never a path.
      subject_id: of the person; all scans of a person are in one split.
      labels: name -> class or number; None where it is missing (the scan is then skipped).
      attributes: name -> level or number; None where it is missing (``unknown`` or NaN is then stored).
      stratum: any text; splits are balanced among the subjects that share it.
      payload: what :meth:`Cohort.load` needs, e.g. a path; never stored.
    """

    scan_id: str
    subject_id: str
    labels: Mapping[str, Any]
    attributes: Mapping[str, Any]
    stratum: str = ""
    payload: Any = None


def complete(scan: Scan, schema: Schema) -> Scan:
    """Checks the labels and attributes of a scan, and makes what is missing explicit: ``unknown``, or NaN for a number.

    Raises:
      UserError: for a value outside the vocabulary; the message names the scan, the column and what is allowed.
    """
    vocabularies = [
        ("label", schema.labels, scan.labels),
        ("attribute", {k: with_unknown(v) for k, v in schema.attributes.items()}, scan.attributes),
    ]
    completed: list[dict[str, Any]] = []
    for kind, known, given in vocabularies:
        extra = set(given) - set(known)
        if extra:
            raise UserError(f"scan {scan.scan_id!r}: {kind} {min(extra)!r} is not in the schema")
        values = {}
        for name, levels in known.items():
            value = given.get(name)
            if is_absent(value):
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
        completed.append(values)
    return dataclasses.replace(scan, labels=completed[0], attributes=completed[1])


def with_unknown(levels: Sequence[str] | None) -> list[str] | None:
    """Returns the levels with ``unknown`` at the end; None, for a number, stays None."""
    return None if levels is None else [*(v for v in levels if v != UNKNOWN), UNKNOWN]


def is_absent(value: Any) -> bool:
    """Whether a label or attribute is None, empty text or NaN."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def misfit(pixels: Pixels, schema: Schema) -> str | None:
    """Returns the reason why pixels do not fit the schema, or None where they do."""
    shape = pixels.image.shape
    expected = schema.image_shape
    if len(shape) != len(expected) or any(
        e is not None and e != n for n, e in zip(shape, expected, strict=True)
    ):
        expected_text = "x".join("?" if e is None else str(e) for e in expected)
        return f"shape {'x'.join(map(str, shape))}, expected {expected_text}"
    if pixels.image.dtype != np.dtype(schema.dtype):
        return f"stored as {pixels.image.dtype}, expected {np.dtype(schema.dtype)}"
    if schema.has_mask and (pixels.mask is None or pixels.mask.shape != shape[:-1]):
        return "mask is missing or of another shape than the image"
    if schema.has_mask and pixels.mask.max(initial=0) >= len(schema.mask_classes):
        return f"mask holds codes beyond those of its {len(schema.mask_classes)} classes"
    if schema.has_affine and not _is_affine(pixels.affine):
        return "affine is missing, singular or not finite"
    return None


def _is_affine(affine: np.ndarray | None) -> bool:
    if affine is None or affine.shape != (4, 4) or not np.isfinite(affine).all():
        return False
    return bool(np.linalg.det(affine) != 0)
