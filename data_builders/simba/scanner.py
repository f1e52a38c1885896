"""The effect of scanners on images in the scenario ``sites``: they blur, bend the grey scale, shade, and darken.

The signature of a scanner is six tenths that of its vendor and four tenths its own, so that an image shows both. It says
nothing about disease, and no voxel leaves the range of the grey scale.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equipoise.data_builders.simba.sites import SCANNERS, VENDORS, scanned

_OF_VENDOR = 0.6
_BLUR_MM, _LOG_GAMMA, _LOG_SHADE, _LOG_GAIN = 3.0, 0.3, 0.15, 0.2  # largest, at strength 1


def signatures(generator: np.random.Generator, strength: float) -> dict[str, np.ndarray]:
    """Draws the signature of every scanner.

    Args:
      generator: of the draws, which are the same at any strength.
      strength: factor of every effect; 0 leaves images as they are.

    Returns:
      For each scanner, along the first axis: ``blur_mm`` (standard deviation of a Gaussian), ``gamma`` (power of the
      brightness), ``shade`` [scanner, 3] (log brightness gained from the middle of the grid to its end along each axis),
      ``log_gain`` (never above 0).
    """
    drawn = generator.uniform(-1, 1, (len(VENDORS) + len(SCANNERS), 6))
    vendor = [VENDORS.index(scanned(scanner)["vendor"]) for scanner in SCANNERS]
    unit = _OF_VENDOR * drawn[vendor] + (1 - _OF_VENDOR) * drawn[len(VENDORS) :]
    signature = {
        "blur_mm": strength * _BLUR_MM * (1 + unit[:, 0]) / 2,
        "gamma": np.exp(strength * _LOG_GAMMA * unit[:, 1]),
        "shade": strength * _LOG_SHADE * unit[:, 2:5],
        "log_gain": -strength * _LOG_GAIN * (1 + unit[:, 5]) / 2,
    }
    return {name: values.astype(np.float32) for name, values in signature.items()}


def scan(
    image: Float[Array, "d h w"], signature: Mapping[str, Float[Array, "..."]], spacing: float
) -> Float[Array, "d h w"]:
    """Changes an image in [0, 1] to what a scanner shows, in [0, 1].

    Args:
      image: before the change.
      signature: of one scanner, as :func:`signatures` returns them.
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
