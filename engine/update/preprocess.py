"""From stored integers to the images that a model sees: real units, then the run's deterministic transforms."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from equipoise.engine import transforms
from equipoise.engine.config import Run


def transformed(
    chain: transforms.Chain, batch: dict[str, Array], keys: Array | None = None
) -> dict[str, Array]:
    """The batch with its images, and their masks where it has any, transformed.

    Args:
      chain: the transforms.
      batch: the batch, with ``image`` [b, *spatial, c] and perhaps ``mask`` [b, *spatial].
      keys: one per image, for what is random.
    """
    images, masks = chain.with_masks(batch["image"], batch.get("mask"), keys)
    return batch | {"image": images} | ({} if masks is None else {"mask": masks})


def make_preprocess(config: Run) -> Callable[[dict[str, Array]], dict[str, Array]]:
    """A function of a batch that turns stored integers into real units, and applies the run's deterministic transforms.

    Masks move with their images. ``spacing`` [b, axes] is scaled where a transform changes the grid, which keeps its extent.
    """
    chain = transforms.chain(config.data.preprocess, allow_random=False)
    dtype = jnp.promote_types(config.model.dtype, jnp.float32)

    def preprocess(batch: dict[str, Array]) -> dict[str, Array]:
        scale = batch["scale"].astype(dtype).reshape(-1, 2, *(1,) * (batch["image"].ndim - 1))
        real = batch | {"image": batch["image"].astype(dtype) * scale[:, 0] + scale[:, 1]}
        seen = transformed(chain, real)
        if "spacing" in batch:
            grids = (np.array(x["image"].shape[1:-1], np.float32) for x in (batch, seen))
            seen["spacing"] = batch["spacing"] * np.divide(*grids)
        return seen

    return preprocess


def preprocessed_shape(config: Run, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """[*spatial, channel] that an image of this shape has after preprocessing."""
    chain = transforms.chain(config.data.preprocess, allow_random=False)
    return jax.eval_shape(chain, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)).shape[1:]
