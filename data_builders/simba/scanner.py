"""What a scanner does to an image in the scenario ``sites``: it blurs, bends the grey scale, shades, and darkens.

A scanner's signature is six-tenths its vendor's and four-tenths its own, so that both can be told from an image. Nothing
of it says anything about disease, and no voxel leaves the range of the grey scale.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equipoise.data_builders.simba.sites import SCANNERS, VENDORS, scanned

_OF_VENDOR = 0.6
_BLUR_MM, _LOG_GAMMA, _LOG_SHADE, _LOG_GAIN = 3.0, 0.3, 0.15, 0.2  # largest, at strength 1


def signatures(generator: np.random.Generator, strength: float) -> dict[str, np.ndarray]:
    """What every scanner does.

    Args:
      generator: of the draws, which are the same at any strength.
      strength: factor of every effect; 0 leaves images as they are.

    Returns:
      Of each scanner: ``blur_mm`` (standard deviation of a Gaussian), ``gamma`` (power of the brightness), ``shade`` [3] (log
      brightness gained from the middle of the grid to its end along each axis), ``log_gain`` (never above 0).
    """
    drawn = generator.uniform(-1, 1, (len(VENDORS) + len(SCANNERS), 6))
    vendor = [VENDORS.index(scanned(scanner)["vendor"]) for scanner in SCANNERS]
    unit = _OF_VENDOR * drawn[vendor] + (1 - _OF_VENDOR) * drawn[len(VENDORS) :]
    found = {
        "blur_mm": strength * _BLUR_MM * (1 + unit[:, 0]) / 2,
        "gamma": np.exp(strength * _LOG_GAMMA * unit[:, 1]),
        "shade": strength * _LOG_SHADE * unit[:, 2:5],
        "log_gain": -strength * _LOG_GAIN * (1 + unit[:, 5]) / 2,
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


def scan(
    image: Float[Array, "d h w"], signature: Mapping[str, Float[Array, "..."]], spacing: float
) -> Float[Array, "d h w"]:
    """An image in [0, 1] as a scanner shows it, in [0, 1].

    Args:
      image: before.
      signature: of one scanner, as in :func:`signatures`.
      spacing: mm between voxels.
    """
    width, shade = jnp.maximum(signature["blur_mm"], 1e-3), -jnp.abs(signature["shade"]).sum()
    for axis, size in enumerate(image.shape):
        place = np.arange(size, dtype=np.float32)
        apart = np.float32(spacing) * (place[:, None] - place)
        weights = jnp.exp(-(apart**2) / (2 * width**2))
        weights = weights / weights.sum(axis=1, keepdims=True)
        blurred = jnp.tensordot(weights, image, ((1,), (axis,)), precision="highest")
        image = jnp.moveaxis(blurred, 0, axis)
        along = np.linspace(-1, 1, size, dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        shade = shade + signature["shade"][axis] * along
    return image ** signature["gamma"] * jnp.exp(shade + signature["log_gain"])
