"""Spatial operations on one image [*spatial, channel] or mask [*spatial, 1]: the same move for both."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, Shaped


def flip(image: Shaped[Array, "..."], key: Key[Array, ""], axis: int = 0) -> Shaped[Array, "..."]:
    """Mirrors along spatial ``axis`` with probability one half."""
    return jnp.where(jax.random.bernoulli(key), jnp.flip(image, axis), image)


def shift(image: Shaped[Array, "..."], key: Key[Array, ""], voxels: int = 2) -> Shaped[Array, "..."]:
    """Translates by a whole number of voxels, uniform in [-voxels, voxels] along each axis, edges repeated."""
    num_spatial = image.ndim - 1
    start = jax.random.randint(key, (num_spatial,), 0, 2 * voxels + 1)
    padded = jnp.pad(image, [(voxels, voxels)] * num_spatial + [(0, 0)], mode="edge")
    return jax.lax.dynamic_slice(padded, (*start, 0), image.shape)


def crop_or_pad(image: np.ndarray, shape: tuple[int, ...], value: float = 0) -> np.ndarray:
    """Centre-crops or pads (on the host) the leading axes to ``shape``.

    Args:
      image: [*spatial] or [*spatial, channel].
      shape: wanted size of the spatial axes; with an odd difference the extra voxel goes to the far end.
      value: fill, in stored units.
    """
    source, widths = [], []
    for have, want in zip(image.shape, shape, strict=False):
        start = max((have - want) // 2, 0)
        source.append(slice(start, start + min(have, want)))
        before = max((want - have) // 2, 0)
        widths.append((before, max(want - have, 0) - before))
    widths += [(0, 0)] * (image.ndim - len(widths))
    return np.pad(image[tuple(source)], widths, constant_values=value)
