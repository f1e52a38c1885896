"""Principal components of the velocity fields by which real subjects were registered to the template.

The model of Stanley et al. 2023 (doi 10.1007/978-3-031-43895-0_46), for users who have such fields. With n fields of p values
and p far above n, the eigenvectors of the covariance follow from the n x n Gram matrix of the centred fields, X Xᵀ / (n - 1):
it has the same eigenvalues, and each of its eigenvectors u gives a component Xᵀu of the covariance. One field is in memory
at a time; the Gram matrix is summed in float64 over blocks of columns.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from equipoise.data_builders.base import cache
from equipoise.data_builders.simba.anatomy import VoxelGrid
from equipoise.data_builders.simba.fields import VelocityFields, resampler
from equipoise.data_builders.simba.velocity import Modes, growth
from equipoise.engine.errors import UserError

_BLOCK = 2**21  # values of a block of columns, 16 MB
_FORMAT = 1  # of the files in which fits are kept; files of another format are not read


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """Principal components of n rows, as weights of the rows.

    Attributes:
      eigenvalues: [k], the variance along each component, falling.
      weights: [n, k]; ``weightsᵀ (rows - mean)`` are the components, each of norm 1. The row with the largest score in
        absolute value has a positive one.
      share: of the variance that they hold.
    """

    eigenvalues: Float[np.ndarray, " k"]
    weights: Float[np.ndarray, "n k"]
    share: float


def gram_matrix(blocks: Iterable[Float[np.ndarray, "n b"]]) -> Float[np.ndarray, "n n"]:
    """Computes X Xᵀ / (n - 1) of the centred rows X.

    Args:
      blocks: float64 blocks of columns of the rows, in any order.
    """
    total: Any = 0.0
    for block in blocks:
        centred = block - block.mean(0)
        total = total + centred @ centred.T
    return total / (len(total) - 1)


def decompose(gram: Float[np.ndarray, "n n"], share: float = 1.0) -> Decomposition:
    """Computes the leading components that hold ``share`` of the variance: at most n - 1, the largest possible rank.

    Args:
      gram: as :func:`gram_matrix` returns it.
      share: in (0, 1].

    Raises:
      UserError: when all rows are equal.
    """
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > values[0] * len(gram) * np.finfo(float).eps).sum()) if values[0] > 0 else 0
    if not rank:
        raise UserError("simba: velocity_fields: all fields are equal: there is nothing to decompose")
    held = np.cumsum(values[:rank]) / values[:rank].sum()
    count = min(int(np.searchsorted(held, share - 1e-12)) + 1, rank)
    vectors = vectors[:, :count]
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(count)])
    weights = vectors * signs / np.sqrt((len(gram) - 1) * values[:count])
    return Decomposition(values[:count], weights, float(held[count - 1]))


@dataclasses.dataclass(frozen=True)
class PrincipalComponents:
    """The velocity model (:class:`VelocityModel`) whose subjects and effects are drawn as in a folder of velocity fields.

    Fits are kept in ``folder``, named by a digest of the contents of the fields, the grids and the settings.

    Attributes:
      fields: of the user.
      affine: [4, 4], of the cohort's grid, voxel to mm.
      share: share of the variance that the components of subjects hold.
      width_mm: standard deviation of the Gaussian that spreads the effect of a region.
      folder: in which fits are kept; a fit needs 4 bytes per value of all fields there while it is made.
    """

    fields: VelocityFields
    affine: Float[np.ndarray, "4 4"]
    share: float
    width_mm: float
    folder: pathlib.Path

    def subject(self, shape: Sequence[int], spacing: float) -> Modes:
        """Computes the mean field, and the components scaled by their standard deviations.

        Components are computed on the grid of the fields, so that every resolution has the same ones, and are then
        resampled onto this grid.

        Args:
          shape: of the grid.
          spacing: mm between its points.

        Raises:
          UserError: for a file that cannot be read, or too little space on the disk.
        """
        target = self._target(shape, spacing)
        return self._kept({"share": self.share}, target, lambda: self._fit_subject(target))

    def effect(self, region: Bool[np.ndarray, "d h w"], spacing: float) -> Modes:
        """Computes the mean and the first component of the voxels of a region, scaled by its standard deviation.

        Fields register subjects to the template, and images are pulled back in the other direction, so both are negated.
        The sign of the component is such that the region grows at positive scores. The field inside the region is smoothed
        into its surroundings by a Gaussian of ``width_mm``, and divided by the largest value of the region's own smoothed
        mask: a region that moves as a whole then still moves as much in its middle.

        Args:
          region: True inside the region.
          spacing: mm between voxels.

        Raises:
          UserError: for a file that cannot be read, or fields that are all equal in the region.
        """
        target = self._target(region.shape, spacing)
        settings = {
            "region": hashlib.sha256(np.packbits(region).tobytes()).hexdigest(),
            "width_mm": self.width_mm,
        }
        return self._kept(settings, target, lambda: self._fit_effect(region, target, self.width_mm / spacing))

    def _target(self, shape: Sequence[int], spacing: float) -> VoxelGrid:
        """Returns a grid that begins at the first voxel of the cohort and has its axes."""
        affine = np.array(self.affine, float)
        affine[:3, :3] *= spacing / np.linalg.norm(affine[:3, :3], axis=0)
        return VoxelGrid(tuple(shape), affine)

    def _fit_subject(self, target: VoxelGrid) -> Modes:
        resample = resampler(self.fields.grid, target)
        sizes = [3 * int(np.prod(grid.shape)) for grid in (self.fields.grid, target)]
        needed = 4 * len(self.fields) * sum(sizes)
        if shutil.disk_usage(self.folder).free < 1.05 * needed:
            raise UserError(
                f"simba: fitting {len(self.fields)} velocity fields needs {needed / 2**30:.1f} GiB of disk for a while, "
                "more than is free where cohorts are kept: free some, or give another --data_dir"
            )
        with (
            tempfile.TemporaryFile(dir=self.folder) as first,
            tempfile.TemporaryFile(dir=self.folder) as second,
        ):
            whole, resampled = _MatrixOnDisk(first, sizes[0]), _MatrixOnDisk(second, sizes[1])
            for field in self._read_all("subjects"):
                whole.append(field)
                resampled.append(resample(field))
                del field  # before the next is read
            components = decompose(gram_matrix(block for _, block in whole.blocks()), self.share)
            scaled = (components.weights * np.sqrt(components.eigenvalues)).T
            mean = np.empty(sizes[1], np.float32)
            modes = np.empty((len(scaled), sizes[1]), np.float32)
            for columns, block in resampled.blocks():
                mean[columns] = block.mean(0)
                modes[:, columns] = scaled @ (block - block.mean(0))
        print(
            f"{len(self.fields)} velocity fields: {len(modes)} components hold {components.share:.1%} of their variance"
        )
        return Modes(mean.reshape(3, *target.shape), modes.reshape(-1, 3, *target.shape))

    def _fit_effect(self, region: np.ndarray, target: VoxelGrid, width: float) -> Modes:
        resample = resampler(self.fields.grid, target)
        inside = []
        for field in self._read_all("one region"):
            inside.append(resample(field)[:, region].ravel())
            del field  # before the next is read
        rows = np.stack(inside).astype(np.float64)
        components = decompose(gram_matrix([rows]))
        mean = rows.mean(0)
        first = np.sqrt(components.eigenvalues[0]) * components.weights[:, 0] @ (rows - mean)
        both = np.zeros((2, 3, *region.shape))
        both[:, :, region] = -np.stack([mean, first]).reshape(2, 3, -1)
        both = ndimage.gaussian_filter(both, width, axes=(2, 3, 4))
        both /= ndimage.gaussian_filter(region.astype(np.float64), width).max()
        sign = -1 if growth(both[1], region) < 0 else 1
        mean, mode = both.astype(np.float32)
        return Modes(mean, sign * mode[None])

    def _read_all(self, what: str) -> Iterator[Float[np.ndarray, "3 d h w"]]:
        indices = cache.tracked(range(len(self.fields)), f"velocity fields: {what}", len(self.fields))
        return map(self.fields.read, indices)

    def _kept(self, settings: dict[str, Any], target: VoxelGrid, fit: Callable[[], Modes]) -> Modes:
        identity = [_FORMAT, self.fields.fingerprint, self.fields.grid.identity, target.identity, settings]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        path = self.folder / f"{digest[:40]}.npz"
        kept = cache.read_arrays(path)
        if kept is not None:
            return Modes(kept["mean"], kept["modes"])
        self.folder.mkdir(parents=True, exist_ok=True)
        modes = fit()
        cache.write_arrays(path, mean=modes.mean, modes=modes.modes)
        return modes


class _MatrixOnDisk:
    """A matrix of float32 on disk, written by rows and read by blocks of columns."""

    def __init__(self, stream: BinaryIO, width: int):
        self._stream, self._width, self._count = stream, width, 0

    def append(self, row: np.ndarray) -> None:
        self._stream.write(np.ascontiguousarray(row, np.float32).data)
        self._count += 1

    def blocks(self) -> Iterator[tuple[slice, Float[np.ndarray, "n b"]]]:
        """Yields the columns of each block, and its values in float64."""
        step = max(_BLOCK // self._count, 1)
        for start in range(0, self._width, step):
            stop = min(start + step, self._width)
            block = np.empty((self._count, stop - start), np.float32)
            for index, row in enumerate(block):
                self._stream.seek(4 * (index * self._width + start))
                self._stream.readinto(row.data)
            yield slice(start, stop), block.astype(np.float64)
