"""NIfTI volumes, with their axes turned to the right, anterior and superior."""

import gzip
import pathlib
import zlib

import numpy as np

from equipoise.data_builders.base.readers.pixels import Pixels, UnreadableScan


def _is_cut_short(path: pathlib.Path) -> bool:
    """Whether a gzip file lacks its end. nibabel does not recognise an image that is cut within its first kilobyte."""
    try:
        with gzip.open(path) as stream:
            while stream.read(1 << 20):
                pass
    except EOFError:
        return True
    except (OSError, zlib.error):
        return False
    return False


def read_nifti(path: pathlib.Path) -> Pixels:
    """Reads a NIfTI volume, reoriented to RAS (axes run to the right, anterior, superior).

    The affine is turned with the voxels, so that every voxel keeps its place in the world. Oblique volumes stay oblique.

    Raises:
      UnreadableScan: for a missing, truncated or non-NIfTI file, a volume that is not 3D, a voxel size that is not finite
        and positive, an affine that is singular or not finite, or values that are not finite.
    """
    import nibabel as nib

    if not pathlib.Path(path).exists():
        raise UnreadableScan("file is missing")
    try:
        raw = nib.load(path)
    except Exception as error:
        if _is_cut_short(path):
            raise UnreadableScan("data are truncated or damaged (compressed stream ends early)") from error
        raise UnreadableScan(f"not a readable NIfTI file ({type(error).__name__})") from error
    affine = np.asarray(raw.affine, float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UnreadableScan("header has a singular or non-finite affine")
    shape = raw.shape[:3] if raw.shape[3:] == (1,) else raw.shape
    if len(shape) != 3 or min(shape) < 2:
        raise UnreadableScan(f"expected a 3D volume, found shape {'x'.join(map(str, raw.shape))}")
    zooms = np.asarray(raw.header.get_zooms()[:3], np.float32)
    if not (np.isfinite(zooms).all() and (zooms > 0).all()):
        raise UnreadableScan(f"voxel size {zooms.tolist()} mm is not positive")
    try:
        slope, intercept = raw.dataobj.slope, raw.dataobj.inter
        values = np.asanyarray(raw.dataobj.get_unscaled()).reshape(shape)
    except Exception as error:
        raise UnreadableScan(f"data are truncated or damaged ({type(error).__name__})") from error
    orientation = nib.orientations.io_orientation(affine)
    values = nib.orientations.apply_orientation(values, orientation)
    spacing = zooms[np.argsort(orientation[:, 0])]
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnreadableScan(f"{int((~np.isfinite(values)).sum())} voxels are not finite")
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("="))
    return Pixels(
        np.ascontiguousarray(values)[..., None],
        spacing,
        (float(slope), float(intercept)),
        affine=affine @ nib.orientations.inv_ornt_aff(orientation, shape),
    )
