"""Agreement of a predicted with a reference mask, case by case, in 2D or 3D.

Lengths are in the unit of the spacing: millimetres, or pixels where a file has no spacing.

The surface of a mask is its voxels with a face on the outside (outside the image counts as outside); distances are between the
centres of voxels. HD95 is the larger of the two directed 95th percentiles, as in MONAI and Metrics Reloaded (MedPy takes the
percentile of both directions together). ASSD is the mean over the voxels of both surfaces. NSD counts surface voxels, not
surface elements.

A structure may be absent. Where the reference has it and the prediction does not (``missed``), or the reverse
(``false_positive``), overlaps are 0 and distances have no value. To leave those cases out would flatter whoever fails most, so
``hd95_penalised`` takes the diagonal of the image there. Where both masks lack the structure nothing is measured: all values are
undefined, or perfect on request.

Maier-Hein et al., Nat Methods 2024;21:195 (definitions and pitfalls).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage, spatial

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.formulas.metric import Metric

_MM3_PER_ML = 1000.0
_RELOADED = "Maier-Hein et al., Nat Methods 2024;21:195"


@dataclasses.dataclass(frozen=True)
class Value:
    """What a value of one case and structure is; the attributes are those of :class:`~equipoise.engine.metrics.formulas.metric.Metric`."""

    title: str
    formula: str
    higher_is_better: bool
    low: float
    high: float
    undefined: str
    reference: str
    target: float | None = None


_ABSENT = "the structure is in neither mask"
_NO_SURFACE = "the structure is missing from either mask"
_VOLUME = "difference of volumes (3D, in ml where lengths are in mm) or of areas (2D)"
VALUES: Mapping[str, Value] = {
    "dice": Value("Dice", "2 |P ∩ R| / (|P| + |R|)", True, 0, 1, _ABSENT, "Dice, Ecology 1945;26:297"),
    "iou": Value("intersection over union", "|P ∩ R| / |P ∪ R|", True, 0, 1, _ABSENT, "Jaccard, New Phytol 1912;11:37"),
    "hd95": Value("95 % Hausdorff distance", "larger of the directed 95th percentiles of surface distances", False, 0, np.inf,
                  _NO_SURFACE, "Huttenlocher et al., IEEE TPAMI 1993;15:850; " + _RELOADED),
    "hd95_penalised": Value("95 % Hausdorff distance, diagonal of the image where missed", "hd95, or the diagonal of the image where "
                            "one mask alone has the structure", False, 0, np.inf, _ABSENT, _RELOADED),
    "assd": Value("average symmetric surface distance", "mean distance of the voxels of both surfaces to the other surface", False, 0,
                  np.inf, _NO_SURFACE, "Heimann et al., IEEE TMI 2009;28:1251"),
    "nsd": Value("normalised surface Dice", "share of the voxels of both surfaces within the tolerance of the other surface", True, 0,
                 1, _ABSENT, "Nikolov et al., J Med Internet Res 2021;23:e26151"),
    "volume_error": Value("volume error", f"|P| − |R|: {_VOLUME}", False, -np.inf, np.inf, "never", _RELOADED, 0),
    "absolute_volume_error": Value("absolute volume error", f"||P| − |R||: {_VOLUME}", False, 0, np.inf, "never", _RELOADED),
    "missed": Value("missed", "1 where the reference has the structure and the prediction has not, 0 where both have", False, 0, 1,
                    "the reference has not the structure", _RELOADED),
    "false_positive": Value("false positive", "1 where the prediction has a structure that the reference has not, 0 where neither has",
                            False, 0, 1, "the reference has the structure", _RELOADED),
}  # fmt: skip


# Values of a ratio of two structures: masks in general have none, so that they are asked for by naming the ratio.
_RATIO_VALUES: Mapping[str, Value] = {
    "ratio_error": Value("error of the ratio", "predicted − reference ratio of two structures", False, -np.inf, np.inf,
                         "either mask lacks the structure that is divided by", _RELOADED, 0),
    "absolute_ratio_error": Value("absolute error of the ratio", "|predicted − reference ratio of two structures|", False, 0, np.inf,
                                  "either mask lacks the structure that is divided by", _RELOADED),
}  # fmt: skip


def _parts(column: str) -> tuple[str, str]:
    """Splits ``hd95_penalised_cup`` into (``hd95_penalised``, ``cup``); both are empty for a column of anything else."""
    known = sorted((*VALUES, *_RATIO_VALUES), key=len, reverse=True)
    value = next((k for k in known if f"{column}_".startswith(f"{k}_")), "")
    return value, column[len(value) + 1 :] if value else ""


def is_value(column: str, of: str = "") -> bool:
    """Whether a column's name begins with the name of a value, as ``dice_cup`` does; with ``of``, whether it is or begins with ``of``."""
    value, _ = _parts(column)
    return bool(value) and of in ("", value, column)


def is_share(value: Float[np.ndarray, " n"]) -> bool:
    """Whether all values that exist are 0 or 1, so that their mean is a proportion."""
    known = value[np.isfinite(value)]
    return bool(len(known)) and bool(np.isin(known, (0, 1)).all())


def describe(column: str, metric: str = "mean", value: Float[np.ndarray, " n"] | None = None) -> Metric:
    """The entry of a metric of a column of values, with the title, direction, range and paper of that column.

    No unit is named: lengths are in the unit of the masks, and a table does not say which that is.

    Args:
      column: name of the column; ``hd95_cup`` is HD95 of the cup. Nothing is known of other names, and higher counts as better.
      metric: name of a metric of the task ``values``.
      value: values of the column; the mean of zeros and ones is then a proportion.

    Returns:
      The entry; the ``mean`` of a known column has its direction. Other metrics mean the same for every column.
    """
    entry = registry.get(metric)
    name, structure = _parts(column)
    structure, about = structure.replace("_", " "), {**VALUES, **_RATIO_VALUES}.get(name)
    named = (about.title if about else column) + (f" of {structure}" if structure else "")
    if metric == "mean" and value is not None and is_share(value):
        entry = dataclasses.replace(entry, kind="proportion")
    if metric != "mean" or about is None:
        return dataclasses.replace(entry, title=f"{entry.title}: {named}")
    return dataclasses.replace(
        entry, title=f"mean {named}", formula=f"mean over cases of {about.formula}",
        higher_is_better=about.higher_is_better, low=about.low, high=about.high, target=about.target,
        undefined=f"in every case: {about.undefined}", reference=about.reference,
    )  # fmt: skip


def surface(mask: Bool[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Voxels of a mask with a face on the outside."""
    return mask & ~ndimage.binary_erosion(mask)


def _box(mask: Bool[np.ndarray, "..."]) -> tuple[slice, ...]:
    """The smallest box that holds every voxel of a mask, which must not be empty."""
    box = []
    for axis in range(mask.ndim):
        there = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(there[0], there[-1] + 1))
    return tuple(box)


def surface_distances(
    prediction: Bool[np.ndarray, "..."], reference: Bool[np.ndarray, "..."], spacing: Sequence[float]
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " r"]]:
    """Distances of each surface voxel to the nearest one of the other surface, in the unit of ``spacing``.

    Args:
      prediction: mask that is not empty.
      reference: mask that is not empty.
      spacing: distance of voxels along each axis.

    Returns:
      (distances of the prediction's surface, distances of the reference's surface).
    """
    box = _box(prediction | reference)  # a border of the box that cuts a mask is a border of the image
    places = [np.argwhere(surface(mask[box])) * np.asarray(spacing) for mask in (prediction, reference)]
    # Surfaces are sparse, so that a search tree beats a distance transform of the volume; an unbalanced one also where they are far apart.
    p, r = (spatial.KDTree(place, balanced_tree=False, compact_nodes=False) for place in places)
    return r.query(places[0])[0], p.query(places[1])[0]


def _distances(
    prediction: Bool[np.ndarray, "..."], reference: Bool[np.ndarray, "..."], spacing: Sequence[float], tolerance: float
) -> dict[str, float]:  # fmt: skip
    there, back = surface_distances(prediction, reference, spacing)
    both = np.concatenate([there, back])
    far = float(max(np.percentile(there, 95), np.percentile(back, 95)))
    near = float((both <= tolerance * (1 + 1e-9)).mean())  # 3 · 0.1 mm is within 0.3 mm
    return {"hd95": far, "hd95_penalised": far, "assd": float(both.mean()), "nsd": near}


def evaluate(
    prediction: Bool[np.ndarray, "..."],
    reference: Bool[np.ndarray, "..."],
    spacing: Sequence[float],
    tolerance: float,
    perfect_if_absent: bool = False,
) -> dict[str, float]:
    """Measures every value of one structure in one case.

    Args:
      prediction: 2D or 3D mask; axes of length 1 are left out.
      reference: mask of the same shape.
      spacing: distance of voxels along each axis, in mm (or 1 for pixels).
      tolerance: tolerance of the normalised surface Dice, in the unit of the spacing.
      perfect_if_absent: overlaps are 1 and distances 0 where neither mask has the structure, instead of undefined.

    Returns:
      Name of :data:`VALUES` -> value, NaN where undefined.

    Raises:
      UserError: for shapes that differ, or a spacing or tolerance that is no length.
    """
    prediction, reference, spacing = _checked(prediction, reference, spacing, tolerance)
    p, r = int(prediction.sum()), int(reference.sum())
    size = float(np.prod(spacing)) / (_MM3_PER_ML if reference.ndim == 3 else 1.0)
    both, nan = p + r, float("nan")
    shared = int((prediction & reference).sum()) if p and r else 0
    absent = 1.0 if perfect_if_absent else nan
    values = {
        "dice": 2 * shared / both if both else absent,
        "iou": shared / (both - shared) if both else absent,
        "hd95": 1 - absent if not both else nan,
        "hd95_penalised": float(np.linalg.norm(np.multiply(reference.shape, spacing)))
        if both
        else 1 - absent,
        "assd": 1 - absent if not both else nan,
        "nsd": 0.0 if both else absent,
        "volume_error": (p - r) * size,
        "absolute_volume_error": abs(p - r) * size,
        "missed": float(not p) if r else nan,
        "false_positive": nan if r else float(p > 0),
    }
    return values | (_distances(prediction, reference, spacing, tolerance) if p and r else {})


def _checked(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks as booleans without axes of length 1, which would make every voxel a surface, and the spacing of the axes left."""
    prediction, reference = np.asarray(prediction, bool), np.asarray(reference, bool)
    spacing = np.asarray(spacing, np.float64)
    if prediction.shape != reference.shape:
        raise UserError(
            f"masks of shapes {prediction.shape} and {reference.shape}: resample the prediction to the reference"
        )
    if spacing.shape != (reference.ndim,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise UserError(
            f"spacing {tuple(spacing.tolist())}: give one positive length for each of {reference.ndim} axes"
        )
    if not 0 <= tolerance < np.inf:
        raise UserError(f"tolerance {tolerance}: give a distance, 0 or more")
    if reference.squeeze().ndim not in (2, 3):
        raise UserError(f"masks of shape {reference.shape}: give images of 2 or 3 axes")
    kept = [axis for axis, length in enumerate(reference.shape) if length > 1]
    return prediction.squeeze(), reference.squeeze(), spacing[kept]


def evaluate_case(
    prediction: Integer[np.ndarray, "..."],
    reference: Integer[np.ndarray, "..."],
    spacing: Sequence[float],
    structures: Mapping[str, int | Sequence[int]],
    tolerance: float,
    perfect_if_absent: bool = False,
) -> dict[str, dict[str, float]]:
    """Measures every value of every structure in one case.

    Args:
      prediction: label codes, 2D or 3D.
      reference: label codes of the same shape.
      spacing: distance of voxels along each axis, in mm.
      structures: name -> label code, or the codes that together make up the structure.
      tolerance: tolerance of the normalised surface Dice, in mm.
      perfect_if_absent: as for :func:`evaluate`.

    Returns:
      structure -> name of :data:`VALUES` -> value.
    """
    parts = {name: np.atleast_1d(codes) for name, codes in structures.items()}
    return {
        name: evaluate(
            np.isin(prediction, codes), np.isin(reference, codes), spacing, tolerance, perfect_if_absent
        )
        for name, codes in parts.items()
    }


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A ratio of two structures, such as the vertical cup-to-disc ratio.

    Attributes:
      kind: ``area``: numbers of pixels are divided; ``extent``: lengths from the first to the last pixel along ``axis``.
      of: structure that is divided.
      to: structure that it is divided by.
      axis: axis of an extent.
    """

    kind: str
    of: str
    to: str
    axis: int = 0

    def __post_init__(self):
        if self.kind not in ("area", "extent"):
            raise UserError(f"ratio of kind {self.kind!r}: choose area or extent")

    def measure(self, codes: Integer[np.ndarray, "..."], structures: Mapping[str, Sequence[int]]) -> float:
        """The ratio in a mask of label codes; NaN without the structure that is divided by."""
        sizes = []
        for name in (self.of, self.to):
            mask = np.isin(codes, structures[name])
            there = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != self.axis)))
            length = int(there[-1] - there[0] + 1) if len(there) else 0
            sizes.append(int(mask.sum()) if self.kind == "area" else length)
        return sizes[0] / sizes[1] if sizes[1] else float("nan")


def ratio_columns(name: str) -> tuple[str, ...]:
    """The names of a ratio's columns: predicted, reference, error and absolute error."""
    return f"predicted_{name}", f"reference_{name}", f"ratio_error_{name}", f"absolute_ratio_error_{name}"


def evaluate_ratio(
    name: str,
    ratio: Ratio,
    prediction: Integer[np.ndarray, "..."],
    reference: Integer[np.ndarray, "..."],
    structures: Mapping[str, Sequence[int]],
) -> dict[str, float]:
    """Measures the columns of a ratio in one case.

    Args:
      name: name of the ratio.
      ratio: ratio to measure.
      prediction: label codes.
      reference: label codes of the same shape.
      structures: name -> label codes that make up the structure.
    """
    predicted, real = (ratio.measure(codes, structures) for codes in (prediction, reference))
    values = (predicted, real, predicted - real, abs(predicted - real))
    return dict(zip(ratio_columns(name), values, strict=True))
