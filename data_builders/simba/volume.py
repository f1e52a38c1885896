"""Effects that are given by the volume of their region: their amplitude is found for every subject.

As the volume-controlled local effects of SCAR, a follow-up of SimBA: velocities along the normal of the region's surface,
within a shell around it, are scaled until the region has the volume that the score asks for.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import ndimage

from equipoise.data_builders.simba.velocity import Modes, bounding_box
from equipoise.engine.transforms import deformation

TOLERANCE = 1e-4  # the search ends at this error of a volume, as a fraction of the subject's own volume
LIMIT = 1e-3  # an image with a larger error is refused
MOST_STEPS = 20  # of the search
REACH = 4 / 3  # half the thickness of the shell, in widths
LEAST_WIDTH = 1.5  # of an effect, voxels


def signed_distance(region: Bool[np.ndarray, "d h w"], spacing: float) -> Float[np.ndarray, "d h w"]:
    """Computes the distance from a region's surface, mm, negative inside; the surface lies halfway between voxels."""
    outside = ndimage.distance_transform_edt(~region, sampling=spacing)
    inside = ndimage.distance_transform_edt(region, sampling=spacing)
    return np.where(region, spacing / 2 - inside, outside - spacing / 2)


class Control(NamedTuple):
    """The volumes that the regions in a box should have.

    Attributes:
      regions: 1 inside the region of each effect, 0 outside.
      slopes: derivatives of the volumes, as fractions, by the amplitudes, at 0
        (:func:`equipoise.data_builders.simba.velocity.growth`).
      steps: the fraction of a subject's own volume by which it changes with each unit of an effect's score.
    """

    regions: Float[Array, "e d h w"]
    slopes: Float[Array, " e"]
    steps: Float[Array, " e"]


@dataclasses.dataclass(frozen=True)
class Shell:
    """The model of effects along the normal of a region's surface.

    Attributes:
      width_mm: standard deviation of the fall-off away from the surface.
    """

    width_mm: float

    def effect(self, region: Bool[np.ndarray, "d h w"], spacing: float) -> Modes:
        """Computes ``-n exp(-(phi / width)² / 2)`` mm where ``|phi|`` is at most 4/3 of the width.

        phi is the signed distance and n = ∇phi / |∇phi| its outward normal. Images are pulled back, so that the region
        grows with the amplitude. With a width of 1.5 mm the shell is 2 mm thick on either side, as in SCAR.

        Args:
          region: True inside the region.
          spacing: mm between voxels.
        """
        reach = REACH * self.width_mm
        margin = int(np.ceil(reach / spacing)) + 2
        box = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in bounding_box(region))
        phi = signed_distance(region[box], spacing)
        slope = np.stack(np.gradient(phi, spacing))
        length = np.linalg.norm(slope, axis=0)
        speed = np.where(np.abs(phi) <= reach, np.exp(-((phi / self.width_mm) ** 2) / 2), 0)
        # Halfway between two surfaces there is no normal.
        normal = np.divide(slope, length, out=np.zeros_like(slope), where=length > 1e-6)
        field = np.zeros((3, *region.shape), np.float32)
        field[(slice(None), *box)] = -speed * normal / spacing
        return Modes(np.zeros_like(field), field[None])


def find_amplitudes(
    modes: Float[Array, "e 3 d h w"],
    control: Control,
    scores: Float[Array, " e"],
    shown: Float[Array, " e"],
    points: list[Float[Array, "..."]],
    origin: deformation.Origin,
) -> tuple[Float[Array, " e"], Float[Array, ""]]:
    """Finds the amplitudes at which all regions together have their target volumes in one subject's image.

    The volume of a region is the sum of its image of 0 and 1, pulled back along the map of the subject and then of the
    effects. The search is that of Broyden (1965, doi 10.1090/S0025-5718-1965-0198670-6): for one effect the secant search,
    for several its generalisation, because each effect moves the region of the other where shells meet. It starts from the
    slopes at amplitude 0, and ends within :data:`TOLERANCE` or after :data:`MOST_STEPS` steps.

    Args:
      modes: velocity of each effect on a box, voxels, zero at the edge of the box.
      control: of the same box; targets are ``1 + steps scores`` of the subject's own volumes.
      scores: of the effects.
      shown: 1 for the effects that the subject has; the others keep amplitude 0.
      points: the place to which the map of the subject sends each voxel, along each axis.
      origin: index of the first voxel of the box.

    Returns:
      The amplitudes, and the largest distance of a volume from its target; NaN where the search failed.
    """
    near, missing = _choose(points, origin, control.regions.shape[1:])
    before = deformation.sample(control.regions, near, origin).sum(-1)
    targets = 1 + control.steps * scores

    def errors(amplitudes: Array) -> Array:
        effect = deformation.exponential(jnp.tensordot(amplitudes, modes, 1), origin=origin)
        moved = deformation.sample(effect, near, origin)
        looks = [place + u for place, u in zip(near, moved, strict=True)]
        volumes = deformation.sample(control.regions, looks, origin).sum(-1) / before
        return jnp.where(shown > 0, volumes - targets, 0)

    def unfinished(state: tuple) -> Array:
        count, _, error, _ = state
        return (count < MOST_STEPS) & (jnp.abs(error).max() > TOLERANCE)

    def step(state: tuple) -> tuple:
        count, amplitudes, error, slope = state
        move = jnp.linalg.solve(slope, -error)
        error = errors(amplitudes + move)
        return count + 1, amplitudes + move, error, slope + jnp.outer(error, move) / (move @ move)

    start = (0, 0 * targets, jnp.where(shown > 0, 1 - targets, 0), jnp.diag(control.slopes + 0 * targets))
    _, amplitudes, error, _ = jax.lax.while_loop(unfinished, step, start)
    return amplitudes, jnp.where(missing, jnp.nan, jnp.abs(error).max())


def _choose(
    points: list[Float[Array, "..."]], origin: deformation.Origin, shape: tuple[int, ...]
) -> tuple[list[Float[Array, " n"]], Bool[Array, ""]]:
    """Chooses the points inside a box, up to twice as many as its voxels; places that are left over lie at its corner.

    Returns:
      The points along each axis, and whether there are more points in the box than were chosen.
    """
    inside = jnp.array(True)
    for place, start, size in zip(points, origin, shape, strict=True):
        inside &= (place >= start) & (place <= start + size - 1)
    most = min(2 * int(np.prod(shape)), inside.size)
    (at,) = jnp.nonzero(inside.ravel(), size=most, fill_value=inside.size)
    chosen = [
        jnp.take(place.ravel(), at, mode="fill", fill_value=start)
        for place, start in zip(points, origin, strict=True)
    ]
    return chosen, inside.sum() > most
