"""Spatial operations on one image [*spatial, channel] or mask [*spatial, 1]: the same move for both.

An array of whole numbers is a mask. Where an operation looks between pixels, an image is interpolated, and a mask takes the
nearest code. Outside the image its edge is repeated, or there is 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from equipoise.engine.errors import UserError

_OUTSIDE = {"edge": "nearest", "zero": "constant"}
_INTERPOLATIONS = ("linear", "nearest")


def flip(image: Shaped[Array, "..."], key: Key[Array, ""], axis: int = 0) -> Shaped[Array, "..."]:
    """Mirrors along spatial ``axis`` with probability one half."""
    return jnp.where(jax.random.bernoulli(key), jnp.flip(image, axis), image)


def shift(image: Shaped[Array, "..."], key: Key[Array, ""], voxels: int = 2) -> Shaped[Array, "..."]:
    """Translates by a whole number of voxels, uniform in [-voxels, voxels] along each axis, edges repeated."""
    num_spatial = image.ndim - 1
    start = jax.random.randint(key, (num_spatial,), 0, 2 * voxels + 1)
    padded = jnp.pad(image, [(voxels, voxels)] * num_spatial + [(0, 0)], mode="edge")
    return jax.lax.dynamic_slice(padded, (*start, 0), image.shape)


def turned(
    image: Shaped[Array, "..."], quarters: int | Int[Array, ""], axes: tuple[int, int] = (0, 1)
) -> Shaped[Array, "..."]:
    """The image turned by ``quarters`` quarter turns from the first of ``axes`` towards the second, as by ``numpy.rot90``.

    Raises:
      UserError: for axes of different lengths.
    """
    if image.shape[axes[0]] != image.shape[axes[1]]:
        raise UserError(
            f"quarter turns need two axes of the same length, but axes {axes} have {image.shape[axes[0]]} and "
            f"{image.shape[axes[1]]}: set --config.data.shape, or augment by rotate instead"
        )
    return jax.lax.switch(quarters, [lambda x, k=k: jnp.rot90(x, k, axes) for k in range(4)], image)


def rot90(
    image: Shaped[Array, "..."], key: Key[Array, ""], axes: tuple[int, int] = (0, 1)
) -> Shaped[Array, "..."]:
    """Turns by 0, 1, 2 or 3 quarter turns, equally often, in the plane of two spatial axes."""
    return turned(image, jax.random.randint(key, (), 0, 4), axes)


def looked_up(
    image: Shaped[Array, "*old c"],
    points: list[Float[Array, "..."]],
    outside: str = "edge",
    interpolation: str = "linear",
) -> Shaped[Array, "... c"]:
    """Values at points between pixels: interpolated linearly, or those of the nearest pixel, which masks always take.

    Args:
      image: the image to look into.
      points: coordinates along each spatial axis, in pixels.
      outside: ``edge`` or ``zero``.
      interpolation: ``linear`` or ``nearest``.

    Raises:
      UserError: for another word.
    """
    for word, known in ((outside, _OUTSIDE), (interpolation, _INTERPOLATIONS)):
        if word not in known:
            raise UserError(f"transforms know no {word!r}: choose one of {', '.join(known)}")
    is_linear = interpolation == "linear" and jnp.issubdtype(image.dtype, jnp.floating)
    if not is_linear:  # a point in the middle of two pixels always takes the upper one
        points = [jnp.floor(p + 0.5) for p in points]

    def look_up(channel: Array) -> Array:
        return jax.scipy.ndimage.map_coordinates(channel, points, int(is_linear), _OUTSIDE[outside])

    # One gather per channel: on a CPU, gathering vectors is far slower.
    return jnp.stack([look_up(image[..., c]) for c in range(image.shape[-1])], axis=-1)


def _centred(shape: tuple[int, ...], dtype: jnp.dtype) -> list[Array]:
    """Coordinates of the pixels about the image's centre, shaped to broadcast."""
    return list(jnp.meshgrid(*(jnp.arange(n, dtype=dtype) - (n - 1) / 2 for n in shape), indexing="ij"))


def _about_centre(image: Array, places: list[Array], outside: str, interpolation: str) -> Array:
    middle = [(n - 1) / 2 for n in image.shape[:-1]]
    return looked_up(image, [p + m for p, m in zip(places, middle, strict=True)], outside, interpolation)


def rotated(
    image: Shaped[Array, "..."],
    degrees: float | Shaped[Array, ""],
    axes: tuple[int, int] = (0, 1),
    outside: str = "edge",
    interpolation: str = "linear",
) -> Shaped[Array, "..."]:
    """The image rotated about its centre, from the first of ``axes`` towards the second, as by ``scipy.ndimage.rotate``.

    The shape stays the same.
    """
    places = _centred(image.shape[:-1], jnp.result_type(float))
    angle = jnp.deg2rad(jnp.asarray(degrees, places[0].dtype))
    first, second = (places[a] for a in axes)
    places[axes[0]] = jnp.cos(angle) * first + jnp.sin(angle) * second
    places[axes[1]] = jnp.cos(angle) * second - jnp.sin(angle) * first
    return _about_centre(image, places, outside, interpolation)


def rotate(
    image: Shaped[Array, "..."],
    key: Key[Array, ""],
    degrees: float = 20.0,
    axes: tuple[int, int] = (0, 1),
    outside: str = "edge",
    interpolation: str = "linear",
) -> Shaped[Array, "..."]:
    """Rotates by an angle uniform in [-degrees, degrees], in the plane of two spatial axes."""
    angle = jax.random.uniform(key, (), minval=-degrees, maxval=degrees)
    return rotated(image, angle, axes, outside, interpolation)


def scaled(
    image: Shaped[Array, "..."], factor: float | Float[Array, ""], outside: str = "edge"
) -> Shaped[Array, "..."]:
    """The image magnified about its centre by ``factor``; the shape stays the same."""
    places = _centred(image.shape[:-1], jnp.result_type(float))
    return _about_centre(image, [p / factor for p in places], outside, "linear")


def scale(
    image: Shaped[Array, "..."],
    key: Key[Array, ""],
    low: float = 0.9,
    high: float = 1.1,
    outside: str = "edge",
) -> Shaped[Array, "..."]:
    """Magnifies about the centre by a factor uniform in [low, high], the same along every axis."""
    return scaled(image, jax.random.uniform(key, (), minval=low, maxval=high), outside)


def crop(
    image: Shaped[Array, "..."], key: Key[Array, ""], shape: tuple[int, ...] = ()
) -> Shaped[Array, "..."]:
    """Cuts a box of ``shape`` out of the image, at a place drawn uniformly.

    Raises:
      UserError: for a shape that does not fit into the image.
    """
    have = image.shape[:-1]
    if len(shape) != len(have) or any(want > size for want, size in zip(shape, have, strict=True)):
        raise UserError(
            f"transform crop: shape={shape} does not lie within images of {have}: choose a smaller one"
        )
    limits = jnp.array([size - want + 1 for want, size in zip(shape, have, strict=True)])
    start = jax.random.randint(key, (len(shape),), 0, limits)
    return jax.lax.dynamic_slice(image, (*start, 0), (*shape, image.shape[-1]))


def transunet(image: Shaped[Array, "..."], key: Key[Array, ""], degrees: int = 20) -> Shaped[Array, "..."]:
    """Augments a 2D image as TransUNet and SAMed do (Chen et al. 2021, arXiv:2102.04306; their published programs).

    With probability 1/2: quarter turns, then a mirror image along one of the axes. With probability 1/4: a rotation by a whole
    number of degrees in [-degrees, degrees), in which the image too takes the nearest pixel, with zeros outside. Otherwise
    nothing.
    """
    which, quarters, axis, angle = (jax.random.fold_in(key, i) for i in range(4))
    drawn = jax.random.uniform(which)
    flipped = turned(image, jax.random.randint(quarters, (), 0, 4))
    flipped = jnp.where(jax.random.bernoulli(axis), jnp.flip(flipped, 0), jnp.flip(flipped, 1))
    degrees = jax.random.randint(angle, (), -degrees, degrees)
    tilted = rotated(image, degrees, (0, 1), "zero", "nearest")
    return jnp.where(drawn < 0.5, flipped, jnp.where(drawn < 0.75, tilted, image))


def resize(image: Shaped[Array, "*old c"], shape: tuple[int, ...] = ()) -> Shaped[Array, "*new c"]:
    """Brings an image to another grid over the same extent; masks take the nearest code.

    Images are interpolated linearly between pixel centres (``align_corners=False``).

    Raises:
      UserError: for a shape of another number of axes.
    """
    if len(shape) != image.ndim - 1:
        raise UserError(f"transform resize: shape={shape} for images of {image.ndim - 1} dimensions")
    if jnp.issubdtype(image.dtype, jnp.floating):
        return jax.image.resize(image, (*shape, image.shape[-1]), "linear", antialias=False)
    return nearest(image, shape)


def nearest(image: Shaped[Array, "*old c"], shape: tuple[int, ...]) -> Shaped[Array, "*new c"]:
    """An image on another grid over the same extent, each new pixel taking the old pixel in which its centre lies."""
    for axis, (have, want) in enumerate(zip(image.shape[:-1], shape, strict=True)):
        image = jnp.take(image, np.floor((np.arange(want) + 0.5) * have / want).astype(int), axis=axis)
    return image


def nearest_by_corners(mask: Shaped[Array, "b *old"], shape: tuple[int, ...]) -> Shaped[Array, "b *new"]:
    """Masks on another grid whose first and last pixels are those of the old one: pixel i takes ``round(i (n-1)/(m-1))``.

    ``scipy.ndimage.zoom`` of order 0 does the same; SAMed and TransUNet bring masks to a smaller grid with it.
    """
    for axis, (have, want) in enumerate(zip(mask.shape[1:], shape, strict=True), start=1):
        if have != want:
            step = (have - 1) / max(want - 1, 1)
            mask = jnp.take(mask, np.rint(np.arange(want) * step).astype(int), axis=axis)
    return mask


def crop_or_pad(image: np.ndarray, shape: tuple[int, ...], value: float = 0) -> np.ndarray:
    """Crops about the centre, or pads around it, to ``shape``, on the host.

    Args:
      image: [*spatial] or [*spatial, channel].
      shape: the wanted size of the spatial axes; with an odd difference the extra voxel goes to the far end.
      value: what padding is filled with, in stored units.
    """
    source, widths = [], []
    for have, want in zip(image.shape, shape, strict=False):
        start = max((have - want) // 2, 0)
        source.append(slice(start, start + min(have, want)))
        before = max((want - have) // 2, 0)
        widths.append((before, max(want - have, 0) - before))
    widths += [(0, 0)] * (image.ndim - len(widths))
    return np.pad(image[tuple(source)], widths, constant_values=value)
