"""The deformation model of SimBA: how subjects differ, and how an effect changes one region.

All deformations are stationary velocity fields on the template's grid, made by a :class:`VelocityModel`. The default is a
Gaussian-process morphable model (Lüthi et al. 2018, doi 10.1109/TPAMI.2017.2739743), which needs only the grid: velocities
are a Gaussian process with independent components and a squared-exponential covariance. Principal components of a user's
velocity fields have the same form (:mod:`equipoise.data_builders.simba.pca`), and effects may be given by the volume of
their region (:mod:`equipoise.data_builders.simba.volume`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.sparse import linalg

LOCAL_MODELS = ("expansion", "mode")


@dataclasses.dataclass(frozen=True)
class Modes:
    """A distribution of velocity fields ``mean + sum_k a_k modes[k]`` with independent amplitudes a_k of N(0, 1).

    Attributes:
      mean: [3, d, h, w], voxels of the grid.
      modes: [k, 3, d, h, w], voxels, the one with the largest variance first.
    """

    mean: Float[np.ndarray, "3 d h w"]
    modes: Float[np.ndarray, "k 3 d h w"]


class SubjectModel(Protocol):
    """The source of a cohort's subjects."""

    def subject(self, shape: Sequence[int], spacing: float) -> Modes:
        """Returns the modes by which subjects differ, everywhere in the brain.

        Args:
          shape: of the grid.
          spacing: mm between its points.
        """
        ...


class EffectModel(Protocol):
    """The source of a cohort's effects."""

    def effect(self, region: Bool[np.ndarray, "d h w"], spacing: float) -> Modes:
        """Returns the mode by which a region changes; its amplitude is the effect's score. It is 0 far from the region.

        Args:
          region: True inside the region.
          spacing: mm between voxels.
        """
        ...


class VelocityModel(SubjectModel, EffectModel, Protocol):
    """The source of a cohort's subjects and effects."""


@dataclasses.dataclass(frozen=True)
class Pairing:
    """A velocity model that takes subjects from one model and effects from another."""

    subjects: SubjectModel
    effects: EffectModel

    def subject(self, shape: Sequence[int], spacing: float) -> Modes:
        """Returns the modes of :attr:`subjects`."""
        return self.subjects.subject(shape, spacing)

    def effect(self, region: Bool[np.ndarray, "d h w"], spacing: float) -> Modes:
        """Returns the mode of :attr:`effects`."""
        return self.effects.effect(region, spacing)


@dataclasses.dataclass(frozen=True)
class GaussianProcess:
    """The default model, which the docstring of this module describes.

    Attributes:
      subject_mm: standard deviation of a subject's velocity along each axis.
      length_mm: length scale of the covariance between places.
      num_modes: number of independent modes of a subject.
      width_mm: standard deviation of the Gaussian that smooths a region into its effect.
      local_model: "expansion" or "mode", see :meth:`effect`.
    """

    subject_mm: float = 1.5
    length_mm: float = 40.0
    num_modes: int = 24
    width_mm: float = 6.0
    local_model: str = "expansion"

    def subject(self, shape: Sequence[int], spacing: float) -> Modes:
        """Computes the leading Karhunen-Loève modes of the process on the grid.

        The kernel is a product over the axes, so the modes are products of the eigenvectors of three small matrices. A
        field drawn from all modes would have standard deviation ``subject_mm`` at every voxel; the leading ``num_modes``
        are scaled so that they have it on average.

        Args:
          shape: of the grid.
          spacing: mm between its points.
        """
        axes = []
        for size in shape:
            values, vectors = np.linalg.eigh(_covariance(size, spacing, self.length_mm))
            signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(size)])
            axes.append((values[::-1][:12], (vectors * signs)[:, ::-1][:, :12]))
        spectrum = np.einsum("i,j,k->ijk", *(values for values, _ in axes))
        order = np.argsort(-spectrum.ravel(), kind="stable")[: -(-self.num_modes // 3)]
        modes = []
        for index in order:
            i, j, k = np.unravel_index(index, spectrum.shape)
            product = np.einsum("a,b,c->abc", axes[0][1][:, i], axes[1][1][:, j], axes[2][1][:, k])
            for component in range(3):
                field = np.zeros((3, *shape))
                field[component] = np.sqrt(spectrum[i, j, k]) * product
                modes.append(field)
        leading = np.stack(modes[: self.num_modes])
        variance = (leading**2).sum(0).mean()
        scaled = (leading * (self.subject_mm / spacing) / np.sqrt(variance)).astype(np.float32)
        return Modes(np.zeros((3, *shape), np.float32), scaled)

    def effect(self, region: Bool[np.ndarray, "d h w"], spacing: float) -> Modes:
        """Computes one mode around the region, with a largest velocity of 1 mm. It ends four ``width_mm`` from the region.

        Images are pulled back, so a velocity points to the place from which a voxel takes its content.

        ``expansion``, the default: the region swells (at negative scores it shrinks). This is the field that the process
        expects, given how much the region grows: for any process with independent components and kernel k, the covariance
        of v(x) with the growth of the region ``∫_R div v`` is -∇(k * 1_R)(x), the gradient of the smoothed mask; here with
        the length scale ``width_mm``. Among all fields that grow the region as much, it is the smoothest (it has the least
        norm in the space of the kernel), and it needs no choice of a direction.

        ``mode``: the region moves. This is the first Karhunen-Loève mode of the subjects' covariance windowed by the
        smoothed mask, ``w(x) k(x - y) w(y)``. Because components are independent, its direction is a choice: it is the one
        along which the region is thinnest, and at positive scores the region moves away from the middle of the grid.

        Args:
          region: True inside the region.
          spacing: mm between voxels.
        """
        smooth = ndimage.gaussian_filter(region.astype(np.float64), self.width_mm / spacing)
        if self.local_model == "expansion":
            field = np.stack(np.gradient(smooth))
        else:
            direction = _thin_direction(region)
            field = direction[:, None, None, None] * self._windowed_mode(smooth, spacing)
        field = (field / np.linalg.norm(field, axis=0).max() / spacing).astype(np.float32)
        return Modes(np.zeros_like(field), field[None])

    def _windowed_mode(
        self, window: Float[np.ndarray, "d h w"], spacing: float
    ) -> Float[np.ndarray, "d h w"]:
        """Computes the leading eigenvector of ``w k w``, positive where it is largest in absolute value.

        It is found by Lanczos iterations; the kernel is applied along one axis after the other, in the box of the window.
        """
        box = bounding_box(window != 0)
        inside = window[box]
        kernels = [_covariance(n, spacing, self.length_mm) for n in inside.shape]

        def apply(values: np.ndarray) -> np.ndarray:
            field = inside * values.reshape(inside.shape)
            for axis, kernel in enumerate(kernels):
                field = np.moveaxis(np.tensordot(kernel, field, (1, axis)), 0, axis)
            return (inside * field).ravel()

        operator = linalg.LinearOperator((inside.size, inside.size), matvec=apply, dtype=np.float64)
        _, vectors = linalg.eigsh(operator, k=1, v0=inside.ravel(), tol=1e-8)
        mode = np.zeros(window.shape)
        mode[box] = vectors[:, 0].reshape(inside.shape)
        return mode * np.sign(mode.ravel()[np.abs(mode).argmax()])


def bounding_box(inside: Bool[np.ndarray, "d h w"]) -> tuple[slice, slice, slice]:
    """Returns the smallest box that holds every True voxel."""
    return ndimage.find_objects(inside.astype(np.int8))[0]


def growth(field: Float[np.ndarray, "3 d h w"], region: Bool[np.ndarray, "d h w"]) -> float:
    """Computes how fast the volume of a region changes along a velocity field at the beginning, as a fraction of the volume.

    It is the derivative at a = 0 of ``Σ m(x + a v(x)) / Σ m(x)``, which is ``Σ v·∇m / Σ m``, with m the region as an image of
    0 and 1. Images are pulled back, so that the region grows where the field points inward.

    Args:
      field: v, voxels.
      region: True inside the region.
    """
    slope = np.stack(np.gradient(region.astype(np.float64)))
    return float((slope * field).sum() / region.sum())


def _covariance(size: int, spacing: float, length_mm: float) -> Float[np.ndarray, "n n"]:
    """Computes the squared-exponential kernel between the points of one axis."""
    x = np.arange(size) * spacing
    return np.exp(-((x[:, None] - x) ** 2) / (2 * length_mm**2))


def _thin_direction(region: Bool[np.ndarray, "d h w"]) -> Float[np.ndarray, "3"]:
    """Computes the unit vector along which the voxels of a region vary least; it points towards the middle of the grid."""
    voxels = np.argwhere(region)
    home = (np.array(region.shape) - 1) / 2 - voxels.mean(0)
    spread = np.linalg.eigh(np.cov(voxels.T) if len(voxels) > 1 else np.eye(3))[1][:, 0]
    return spread if spread @ home >= 0 else -spread
