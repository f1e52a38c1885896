"""Images on another grid: another voxel size, or another number of voxels."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from equipoise.data_builders.base.readers.pixels import Pixels


def resampled_shape(
    shape: Sequence[int], old: Sequence[float], new: Sequence[float] | None
) -> tuple[int, ...]:
    """Computes the shape of a grid after its voxel size changes.

    Args:
      shape: [*spatial].
      old: voxel size along each axis, mm.
      new: voxel size after the change, mm; None keeps the shape.
    """
    if new is None:
        return tuple(shape)
    return tuple(max(round(n * a / b), 1) for n, a, b in zip(shape, old, new, strict=True))


def resample(pixels: Pixels, spacing: tuple[float, ...]) -> Pixels:
    """Resamples a volume to another voxel size, on a grid with the same outer edge.

    Images are interpolated linearly, and smoothed first where the new voxels are larger; masks take the nearest value.
    The affine follows: what lay at a place in the world still lies there.

    Args:
      pixels: of a volume with one channel.
      spacing: [num_spatial], mm.
    """
    ratio = np.asarray(spacing) / pixels.spacing
    if np.allclose(ratio, 1, atol=1e-4):
        return pixels
    offset = 0.5 * ratio - 0.5
    grid = {
        "matrix": ratio,
        "offset": offset,
        "output_shape": resampled_shape(pixels.image.shape[:-1], np.round(pixels.spacing.astype(float), 4), spacing),
        "mode": "nearest",
    }  # fmt: skip
    smooth = ndimage.gaussian_filter(
        pixels.image[..., 0].astype(np.float32), np.maximum((ratio - 1) / 2, 0), mode="nearest"
    )
    image = round_to_type(ndimage.affine_transform(smooth, order=1, **grid), pixels.image.dtype)[..., None]
    mask = None if pixels.mask is None else ndimage.affine_transform(pixels.mask, order=0, **grid)
    return dataclasses.replace(
        pixels,
        image=image,
        mask=mask,
        spacing=np.asarray(spacing, np.float32),
        affine=regridded_affine(pixels.affine, ratio, offset),
    )


def crop_or_pad_pixels(pixels: Pixels, shape: tuple[int, ...], value: float = 0) -> Pixels:
    """Crops or pads an image about its centre, with its mask and its affine.

    Args:
      pixels: of a scan.
      shape: [*spatial] wanted; with an odd difference the extra voxel goes to the far end.
      value: fills the image where it is padded, in stored units; masks are padded with 0.
    """
    from equipoise.engine.transforms.spatial import crop_or_pad  # imports JAX, which other readers do without

    have = pixels.image.shape[:-1]
    if have == tuple(shape):
        return pixels
    offset = [(n - m) // 2 if n > m else -((m - n) // 2) for n, m in zip(have, shape, strict=True)]
    return dataclasses.replace(
        pixels,
        image=crop_or_pad(pixels.image, shape, float(value)),
        mask=None if pixels.mask is None else crop_or_pad(pixels.mask, shape),
        affine=regridded_affine(pixels.affine, np.ones(len(offset)), np.array(offset)),
    )


def regridded_affine(affine: np.ndarray | None, scale: np.ndarray, offset: np.ndarray) -> np.ndarray | None:
    """Computes the affine of a new grid whose index ``i`` lies at index ``scale · i + offset`` of the old one.

    Args:
      affine: [4, 4] of the old grid; None stays None.
      scale: [3], along each axis.
      offset: [3], in voxels of the old grid.
    """
    if affine is None:
        return None
    change = np.eye(4)
    change[:3, :3] = np.diag(scale)
    change[:3, 3] = offset
    return affine @ change


def round_to_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Converts values to ``dtype``: for whole numbers they are rounded and held within its limits."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(values), limits.min, limits.max).astype(dtype)
