"""Velocity fields of the user: the form of their files, and their resampling onto the grid of a cohort.

A folder holds one NIfTI file per field and nothing else, all on the grid of the template's file. A field v is the result of
the registration of a subject to the template: the template is the subject resampled along exp(v), so that the subject is
the template pulled back along exp(-v). The header says what the three components are:

  intent 1007 (vector), 5-D [x, y, z, 1, 3]           mm to the left, posterior, superior: what ITK and ANTs write
  intent 1006 (displacement vector), 4-D or 5-D       mm to the right, anterior, superior: the NIfTI standard's own axes
  either intent, 4-D or 5-D, intent_name "voxels"     voxels along the file's axes

Any other header could be read in two ways, and is refused. With nibabel, ``image.header.set_intent("vector",
name="voxels")`` writes the last of these.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from equipoise.data_builders.base.settings import fingerprint
from equipoise.data_builders.simba.anatomy import VoxelGrid
from equipoise.engine.errors import UserError

_VECTOR, _DISPLACEMENT = 1007, 1006  # NIfTI intent codes
_LPS = np.diag([-1.0, -1.0, 1.0])
_FEWEST = 3


class VelocityFields:
    """Velocity fields in files, every header checked.

    Attributes:
      files: in the order of their names.
      grid: of every field and of the template.
    """

    def __init__(self, files: Sequence[pathlib.Path], grid: VoxelGrid):
        """Reads the headers.

        Args:
          files: as :func:`list_fields` returns them.
          grid: of the template's file.

        Raises:
          UserError: with the name of the first file that is not a velocity field on that grid.
        """
        self.files = list(files)
        self.grid = grid
        for file in self.files:
            _check(file, grid)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digits that depend on the contents of the files."""
        return fingerprint(*map(str, self.files))

    def read(self, index: int) -> Float[np.ndarray, "3 d h w"]:
        """Reads one field on the template's grid: float32, in mm to the right, anterior, superior.

        Raises:
          UserError: with the name of the file, when it is truncated, or holds values that are not velocities.
        """
        import nibabel as nib

        file = self.files[index]
        image = _open(file)
        try:
            raw = np.asanyarray(image.dataobj)
        except Exception as error:  # a damaged file raises many kinds of error
            raise _refused(
                file, f"data are truncated or damaged ({type(error).__name__}): write it again"
            ) from error
        raw = raw[:, :, :, 0] if raw.ndim == 5 else raw
        turned = nib.orientations.apply_orientation(raw, nib.orientations.io_orientation(image.affine))
        field = np.empty((3, *self.grid.shape), np.float32)
        for component, weights in zip(field, _to_mm(file, image), strict=True):
            component[...] = 0
            for axis in np.flatnonzero(weights):
                component += np.float32(weights[axis]) * turned[..., axis]
        bad = sum(int((~np.isfinite(component)).sum()) for component in field)
        if bad:
            raise _refused(file, f"{bad} values are not finite: mend or remove it")
        largest = max(np.abs(component).max() for component in field)
        limit = (np.linalg.norm(self.grid.affine[:3, :3], axis=0) * self.grid.shape).min() / 2
        if largest > limit:
            raise _refused(
                file,
                f"its largest velocity, {largest:.4g} mm, is more than half the grid's shortest side, {2 * limit:.4g} mm: "
                "are these positions instead of velocities, or not mm?",
            )
        return field


def list_fields(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the files of a folder of velocity fields, in the order of their names.

    Raises:
      UserError: when there is no such folder, it holds anything but NIfTI files, or too few of them.
    """
    if not folder.is_dir():
        raise UserError(f"simba: velocity_fields: no folder {folder}")
    files = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in files:
        if not (entry.is_file() and entry.name.endswith((".nii", ".nii.gz"))):
            raise _refused(
                entry, "is no .nii or .nii.gz file: the folder must hold velocity fields and nothing else"
            )
    if len(files) < _FEWEST:
        raise UserError(
            f"simba: velocity_fields: {folder} holds {len(files)} .nii or .nii.gz files: "
            f"principal components need {_FEWEST} or more"
        )
    return files


def resampler(source: VoxelGrid, target: VoxelGrid) -> Callable[[np.ndarray], Float[np.ndarray, "3 d h w"]]:
    """Makes the function that resamples fields onto another grid whose axes have the same directions.

    Interpolation is linear; where the target is coarser, the weights are as wide as its voxels, so that every value counts.
    Beyond the edge of the source, the values of the edge continue.

    Args:
      source: grid of the fields, which are in mm to the right, anterior, superior.
      target: grid onto which they are resampled.

    Returns:
      A function from a field [3, d, h, w] in mm on the source to one in voxels of the target.
    """
    places = np.linalg.inv(source.affine) @ target.affine
    axes = [
        _weights(places[i, i], places[i, 3], source.shape[i], target.shape[i]).astype(np.float32)
        for i in range(3)
    ]
    to_voxels = np.linalg.inv(target.affine[:3, :3])

    def resample(field: np.ndarray) -> np.ndarray:
        coarse = np.empty((3, *target.shape), np.float32)
        for result, component in zip(
            coarse, field, strict=True
        ):  # one at a time, because products make copies
            for axis, weights in enumerate(axes):
                component = np.moveaxis(np.tensordot(weights, component, (1, axis)), 0, axis)
            result[...] = component
        return np.einsum("ij,j...->i...", to_voxels, coarse).astype(np.float32)

    return resample


def _weights(scale: float, offset: float, have: int, want: int) -> Float[np.ndarray, "want have"]:
    """Computes weights of interpolation along one axis; index ``i`` of the target is ``scale i + offset`` of the source."""
    places = np.clip(scale * np.arange(want) + offset, 0, have - 1)
    hats = np.maximum(1 - np.abs(places[:, None] - np.arange(have)) / max(scale, 1), 0)
    return hats / hats.sum(1, keepdims=True)


def _refused(file: pathlib.Path, problem: str) -> UserError:
    return UserError(f"simba: velocity_fields: {file.name}: {problem}")


def _open(file: pathlib.Path) -> Any:
    import nibabel as nib

    try:
        return nib.load(file)
    except Exception as error:  # many kinds, as above
        raise _refused(file, f"not a readable NIfTI file, or truncated ({type(error).__name__})") from error


def _check(file: pathlib.Path, grid: VoxelGrid) -> None:
    image = _open(file)
    _to_mm(file, image)
    affine = np.asarray(image.affine, float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise _refused(file, "header has a singular or non-finite affine")
    own_grid = VoxelGrid.canonical(image.shape[:3], affine)
    remedy = "resample the fields to the template's grid"
    if own_grid.shape != grid.shape:
        sizes = ["x".join(map(str, g.shape)) for g in (own_grid, grid)]
        raise _refused(file, f"has {sizes[0]} voxels, the template {sizes[1]}: {remedy}")
    corners = np.array(np.meshgrid(*((0, n - 1) for n in grid.shape), [1])).reshape(4, -1)
    apart = np.abs((own_grid.affine - grid.affine) @ corners).max()
    if apart > 1e-2:
        raise _refused(file, f"its grid lies up to {apart:.3g} mm from the template's: {remedy}")


def _to_mm(file: pathlib.Path, image: Any) -> Float[np.ndarray, "3 3"]:
    """Returns the matrix that turns the components of a file into mm to the right, anterior, superior.

    Raises:
      UserError: for a header that does not say what the components are.
    """
    header, shape = image.header, image.shape
    unit = header.get_xyzt_units()[0]
    code, _, name = header.get_intent(code_repr="code")
    sizes = "x".join(map(str, shape))
    five = len(shape) == 5 and shape[3:] == (1, 3)
    if not five and not (len(shape) == 4 and shape[3] == 3):
        raise _refused(file, f"shape {sizes} is not a field of vectors: x, y, z, 1, 3 is expected")
    if unit not in ("mm", "unknown"):
        raise _refused(file, f"its unit is {unit}: mm is expected")
    if code in (_VECTOR, _DISPLACEMENT):
        if name == "voxels":
            return np.asarray(image.affine[:3, :3], float)
        if name == "" and code == _DISPLACEMENT:
            return np.eye(3)
        if name == "" and five:
            return _LPS
    said = f"intent {code}" + f" {name!r}" * bool(name)
    raise _refused(
        file,
        f"{said} of shape {sizes} does not say whether components are mm or voxels, and along which axes: write it "
        "with ITK, or set the intent as the docstring of equipoise.data_builders.simba.fields lists",
    )
