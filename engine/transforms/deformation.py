"""Deformations of 3D volumes: displacements in voxels, stationary velocity fields, and operations on them.

A displacement ``u`` [3, d, h, w] stands for the map x -> x + u(x); an image is pulled back along it. Values between voxels
are interpolated linearly; outside the grid they are those of its edge. A displacement that is zero outside a box may be
stored for that box alone, with the index of the box's first voxel as ``origin``.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Origin = tuple[int, int, int]
_WHOLE = (0, 0, 0)


def _grid(shape: tuple[int, ...], dtype: jnp.dtype, origin: Origin = _WHOLE) -> list[Array]:
    """Voxel coordinates along each axis, shaped to broadcast."""
    return [
        jnp.arange(start, start + n, dtype=dtype).reshape([-1 if i == axis else 1 for i in range(3)])
        for axis, (n, start) in enumerate(zip(shape, origin, strict=True))
    ]


def looks_at(displacement: Float[Array, "3 d h w"], origin: Origin = _WHOLE) -> list[Float[Array, "d h w"]]:
    """Coordinates x + u(x) along d, h and w, in voxels.

    Args:
      displacement: for a whole grid, or for a box of it that begins at ``origin``.
      origin: index of the first voxel.
    """
    grid = _grid(displacement.shape[1:], displacement.dtype, origin)
    return [g + u for g, u in zip(grid, displacement, strict=True)]


def sample(
    volumes: Float[Array, "c d h w"], points: list[Float[Array, "..."]], origin: Origin = _WHOLE
) -> Float[Array, "c ..."]:
    """Linear interpolation of several volumes at the same points.

    There is one gather from flat memory per corner and volume: on a CPU, gathering vectors is thirty times slower.

    Args:
      volumes: volumes on the same grid.
      points: coordinates along d, h and w, in voxels of the grid in which ``origin`` is the volumes' first voxel.
      origin: not zero where the volumes are a box of a larger grid; beyond the box they continue with their edge.
    """
    shape = volumes.shape[1:]
    points = [p - start for p, start in zip(points, origin, strict=True)] if any(origin) else points
    clipped = [jnp.clip(p, 0, n - 1) for p, n in zip(points, shape, strict=True)]
    low = [jnp.clip(c.astype(jnp.int32), 0, max(n - 2, 0)) for c, n in zip(clipped, shape, strict=True)]
    above = [c - i for c, i in zip(clipped, low, strict=True)]
    base = (low[0] * shape[1] + low[1]) * shape[2] + low[2]
    steps = (shape[1] * shape[2], shape[2], 1)
    corners = []
    for corner in np.ndindex(2, 2, 2):
        weight, offset = 1.0, 0
        for axis, bit in enumerate(corner):
            weight = weight * (above[axis] if bit else 1 - above[axis])
            offset += steps[axis] * bit
        corners.append((weight, base + offset))
    flat = volumes.reshape(volumes.shape[0], -1)
    return jnp.stack([sum(w * jnp.take(v, at, mode="clip") for w, at in corners) for v in flat])


def warp(image: Float[Array, "d h w"], displacement: Float[Array, "3 d h w"]) -> Float[Array, "d h w"]:
    """``image`` pulled back: out(x) = image(x + u(x))."""
    return sample(image[None], looks_at(displacement))[0]


def compose(
    outer: Float[Array, "3 d h w"], inner: Float[Array, "3 d h w"], origin: Origin = _WHOLE
) -> Float[Array, "3 d h w"]:
    """The displacement of ``outer ∘ inner``: inner(x) + outer(x + inner(x)).

    Args:
      outer: the displacement that is applied last to a point, and first to an image.
      inner: the other displacement, on the same grid or box.
      origin: index of the first voxel of both.
    """
    return inner + sample(outer, looks_at(inner, origin), origin)


def exponential(
    velocity: Float[Array, "3 d h w"], num_squarings: int = 6, origin: Origin = _WHOLE
) -> Float[Array, "3 d h w"]:
    """The displacement of exp(v), by scaling and squaring (Arsigny et al. 2006, doi 10.1007/11866565_113).

    The inverse is ``exponential(-velocity)``. The squarings are a compiled loop: if they were unrolled, XLA would fuse each
    gather into the next and compute it over and over.

    Args:
      velocity: stationary velocity, in voxels per unit of time.
      num_squarings: v is first divided by 2 to this power; a step should then move less than half a voxel.
      origin: index of the first voxel, where the velocity is given for a box with zeros all around it.
    """
    start = velocity / 2**num_squarings
    return jax.lax.fori_loop(0, num_squarings, lambda _, u: compose(u, u, origin), start)


def control_shape(shape: tuple[int, ...], every: int) -> tuple[int, ...]:
    """The smallest grid with one point per ``every`` voxels, from voxel 0 on, that covers ``shape``."""
    return tuple(-(-(n - 1) // every) + 1 for n in shape)


def upsample(
    coarse: Float[Array, "3 i j k"], shape: tuple[int, int, int], every: int
) -> Float[Array, "3 d h w"]:
    """Brings a displacement from the grid of :func:`control_shape`, in steps of that grid, to the full grid, in voxels.

    The exponential of a smooth velocity is equally smooth, so it can be taken on a coarse grid and brought to the full one.
    Along an axis, linear interpolation errs by at most (every voxels)² / 8 times the second derivative. It is computed as
    products with one small matrix per axis, without gathers.

    Args:
      coarse: sampled at voxels 0, every, 2 every, ...
      shape: [d, h, w] of the full grid.
      every: voxels between control points; with 1 the field is returned as it is.
    """
    if every == 1:
        return coarse
    fine = coarse * every
    for axis, size in enumerate(shape):
        place = np.arange(size)[:, None] / every - np.arange(coarse.shape[1 + axis])
        weights = jnp.asarray(np.maximum(1 - np.abs(place), 0), coarse.dtype)
        fine = jnp.moveaxis(
            jnp.tensordot(weights, fine, ((1,), (1 + axis,)), precision="highest"), 0, 1 + axis
        )
    return fine


def jacobian_determinant(displacement: Float[Array, "3 d h w"]) -> Float[Array, "d h w"]:
    """The local change of volume under x + u(x), by central differences; a value of 0 or below shows a fold.

    It is a compiled loop over planes. In one expression XLA would fuse the computation of the field into it, and repeat it for
    each of the neighbours that a difference takes.
    """
    count = displacement.shape[1]
    identity = jnp.eye(3, dtype=displacement.dtype)[..., None, None]

    def plane(index: Array) -> Float[Array, "h w"]:
        ends = jnp.clip(index + jnp.array([-1, 1]), 0, count - 1)
        before, here, after = (displacement[:, place] for place in (ends[0], index, ends[1]))
        columns = [(after - before) / (ends[1] - ends[0]), *jnp.gradient(here, axis=(1, 2))]
        (a, d, g), (b, e, h), (c, f, i) = (u + unit for u, unit in zip(columns, identity, strict=True))
        return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)

    return jax.lax.map(plane, jnp.arange(count), batch_size=16)
