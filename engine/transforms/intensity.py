"""Intensity operations on one image [*spatial, channel] in real (float) units."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def minmax(image: Float[Array, "..."], low: float = 0.0, high: float = 1.0) -> Float[Array, "..."]:
    """Maps the image's own range to [low, high]; a constant image becomes ``low``."""
    least, most = image.min(), image.max()
    unit = (image - least) / jnp.where(most > least, most - least, 1)
    return low + (high - low) * unit


def standardise(image: Float[Array, "..."], foreground: bool = False) -> Float[Array, "..."]:
    """Subtracts the mean and divides by the standard deviation; a constant image becomes 0.

    Args:
      image: any shape.
      foreground: whether to take both only over voxels above 0, as for skull-stripped brains, and to leave the rest at 0.
    """
    inside = (image > 0) if foreground else jnp.ones_like(image, bool)
    count = jnp.maximum(inside.sum(), 1)
    mean = jnp.where(inside, image, 0).sum() / count
    variance = jnp.where(inside, (image - mean) ** 2, 0).sum() / count
    scaled = (image - mean) / jnp.sqrt(jnp.where(variance > 0, variance, 1))
    return jnp.where(inside, scaled, 0)


def rescale(image: Float[Array, "..."], factor: float = 1.0, offset: float = 0.0) -> Float[Array, "..."]:
    """``factor · image + offset``, the same for every image."""
    return factor * image + offset


def contrast(image: Float[Array, "..."], factor: float = 1.2) -> Float[Array, "..."]:
    """Stretches contrast (flattens it, below 1) about the middle of the image's own range; values stay within that range."""
    least, most = image.min(), image.max()
    middle = (least + most) / 2
    return jnp.clip(middle + factor * (image - middle), least, most)


def noise(image: Float[Array, "..."], key: Key[Array, ""], sd: float = 0.05) -> Float[Array, "..."]:
    """Adds Gaussian noise of standard deviation ``sd`` (in the image's units at that point)."""
    return image + sd * jax.random.normal(key, image.shape, image.dtype)


def gain(image: Float[Array, "..."], key: Key[Array, ""], spread: float = 0.1) -> Float[Array, "..."]:
    """Multiplies by a factor drawn uniformly from [1 - spread, 1 + spread]."""
    return image * jax.random.uniform(key, (), image.dtype, 1 - spread, 1 + spread)


def brightness(image: Float[Array, "..."], key: Key[Array, ""], spread: float = 0.1) -> Float[Array, "..."]:
    """Adds a number drawn uniformly from [-spread, spread] (in the image's units at that point)."""
    return image + jax.random.uniform(key, (), image.dtype, -spread, spread)


def stretch(image: Float[Array, "..."], key: Key[Array, ""], spread: float = 0.2) -> Float[Array, "..."]:
    """Changes :func:`contrast` by a factor drawn uniformly from [1 - spread, 1 + spread]."""
    return contrast(image, jax.random.uniform(key, (), image.dtype, 1 - spread, 1 + spread))


def gamma(image: Float[Array, "..."], key: Key[Array, ""], spread: float = 0.3) -> Float[Array, "..."]:
    """Applies :func:`power` with a random exponent, whose logarithm is uniform in [-spread, spread]."""
    return power(image, jnp.exp(jax.random.uniform(key, (), image.dtype, -spread, spread)))


def power(image: Float[Array, "..."], exponent: float | Float[Array, ""]) -> Float[Array, "..."]:
    """``least + (most - least) ((image - least) / (most - least))^exponent``; a constant image stays as it is."""
    least, most = image.min(), image.max()
    return least + (most - least) * minmax(image) ** exponent
