"""Reading image files as they are: integers stay integers, and what cannot be trusted is refused with its reason."""

import dataclasses
import gzip
import io
import math
import pathlib
import pickle
import zipfile
import zlib
from collections.abc import Collection, Sequence
from typing import Any, BinaryIO

import numpy as np
from scipy import ndimage


class UnreadableScan(Exception):
    """A scan that cannot be used; its message is the reason that the cohort report gives (no path in it)."""


@dataclasses.dataclass(frozen=True)
class Pixels:
    """One decoded scan.

    Attributes:
      image: [*spatial, channel], as stored.
      spacing: [num_spatial], mm.
      scale: real intensity = image · scale[0] + scale[1].
      mask: [*spatial] uint8, or None.
    """

    image: np.ndarray
    spacing: np.ndarray
    scale: tuple[float, float] = (1.0, 0.0)
    mask: np.ndarray | None = None


def _is_cut_short(path: pathlib.Path) -> bool:
    """Whether a gzip file lacks its end: cut within its first kilobyte, nibabel takes it for no image at all."""
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

    Raises:
      UnreadableScan: for a missing, truncated or non-NIfTI file, a volume that is not 3D, a spacing or affine that is
        not finite and positive, or values that are not finite.
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
    return Pixels(np.ascontiguousarray(values)[..., None], spacing, (float(slope), float(intercept)))


def read_picture(path: pathlib.Path) -> Pixels:
    """Reads a PNG or JPEG: 8-bit grey or colour, or 16-bit grey. Spacing is 1 (pictures carry none).

    Raises:
      UnreadableScan: for a missing, truncated or foreign file.
    """
    from PIL import Image

    if not pathlib.Path(path).exists():
        raise UnreadableScan("file is missing")
    try:
        with Image.open(path) as opened:
            opened.load()
            deep = opened.mode.startswith("I")
            grey = opened.mode in ("L", "1", "LA") or deep
            values = np.asarray(opened if deep else opened.convert("L" if grey else "RGB"))
    except Exception as error:
        raise UnreadableScan(f"picture is truncated or damaged ({type(error).__name__})") from error
    if deep:
        values = values.astype(np.uint16)
    return Pixels(values[..., None] if values.ndim == 2 else values, np.ones(2, np.float32))


# All that pickles of NumPy's arrays and scalars name; whatever else one names is refused before it is looked up.
_PLAIN = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {("numpy", "dtype"), ("numpy", "ndarray")}


class _PlainUnpickler(pickle.Unpickler):
    """Builds arrays, numbers, text and containers of them, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how the oldest protocols write bytes
            return lambda text, _: text.encode("latin1")
        if (module, name) not in _PLAIN:
            raise UnreadableScan(
                f"holds a pickle that names {module}.{name}, which is no array; it was not run"
            )
        return super().find_class(module, name)


def _read_npy(stream: BinaryIO) -> np.ndarray:
    """One array of the NPY format; pickled objects must be plain values, and come out as an array of them."""
    version = np.lib.format.read_magic(stream)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:
        raise UnreadableScan(f"array of NPY version {version[0]}.{version[1]}, expected 1.0 or 2.0")
    shape, by_columns, dtype = headers[version](stream)
    content = stream.read()
    if dtype.hasobject:
        pickled = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
        if not isinstance(pickled, np.ndarray) or pickled.shape != shape:
            raise UnreadableScan("a pickle is not the array that its header says")
        return np.asarray(pickled.tolist())
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise UnreadableScan("an array is shorter or longer than its header says")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")


def read_npz(path: pathlib.Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Reads arrays of an NPZ file, running nothing that the file says: pickles of plain values alone are taken.

    Args:
      path: of the file.
      names: of the arrays that are wanted; others are never opened.

    Returns:
      Name -> array, of those wanted that are there; objects such as pickled numbers come out as what they are.

    Raises:
      UnreadableScan: for a missing, truncated or foreign file, and a pickle that holds more than plain values.
    """
    if not pathlib.Path(path).exists():
        raise UnreadableScan("file is missing")
    try:
        with zipfile.ZipFile(path) as archive:
            there = {member.removesuffix(".npy"): member for member in archive.namelist()}
            found = {}
            for name in names:
                if name in there:
                    with archive.open(there[name]) as stream:
                        found[name] = _read_npy(stream)
            return found
    except UnreadableScan:
        raise
    except Exception as error:
        raise UnreadableScan(f"NPZ file is truncated or damaged ({type(error).__name__})") from error


def resampled_shape(
    shape: Sequence[int], old: Sequence[float], new: Sequence[float] | None
) -> tuple[int, ...]:
    """[*spatial] of a grid of voxel size ``old`` once its voxel size is ``new``; None keeps it."""
    if new is None:
        return tuple(shape)
    return tuple(max(round(n * a / b), 1) for n, a, b in zip(shape, old, new, strict=True))


def resampled(pixels: Pixels, spacing: tuple[float, ...]) -> Pixels:
    """Trilinear on a grid whose outer edge is the old one's; masks take the nearest value."""
    ratio = np.asarray(spacing) / pixels.spacing
    if np.allclose(ratio, 1, atol=1e-4):
        return pixels
    grid = {
        "matrix": ratio,
        "offset": 0.5 * ratio - 0.5,
        "output_shape": resampled_shape(pixels.image.shape[:-1], np.round(pixels.spacing.astype(float), 4), spacing),
        "mode": "nearest",
    }  # fmt: skip
    smooth = ndimage.gaussian_filter(
        pixels.image[..., 0].astype(np.float32), np.maximum((ratio - 1) / 2, 0), mode="nearest"
    )
    image = as_type(ndimage.affine_transform(smooth, order=1, **grid), pixels.image.dtype)[..., None]
    mask = None if pixels.mask is None else ndimage.affine_transform(pixels.mask, order=0, **grid)
    return dataclasses.replace(pixels, image=image, mask=mask, spacing=np.asarray(spacing, np.float32))


def as_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values brought to ``dtype``: whole numbers are rounded and held within its limits."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(values), limits.min, limits.max).astype(dtype)
