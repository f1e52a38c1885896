"""A network that compiles in a moment: pixels through one affine map, batch statistics, dropout and a linear head."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from equipoise.engine.models import layers


class Model(nn.Module):
    """The network, with the features ``hidden`` and ``pooled``."""

    num_outputs: int
    dtype: Any = jnp.float32
    axis_name: str | None = None
    width: int = 3
    dropout: float = 0.3
    use_norm: bool = True

    @nn.compact
    def __call__(self, image, train=False, keys=None):
        hidden = layers.Dense(self.width, dtype=self.dtype, name="hidden")(image.reshape(len(image), -1))
        norm = layers.BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name="norm")
        pooled = norm(hidden, train) if self.use_norm else hidden
        x = layers.Dropout(self.dropout, name="dropout")(pooled, train, keys)
        wide = layers.output_dtype(self.dtype)
        return layers.Dense(self.num_outputs, dtype=wide, name="head")(x), {
            "hidden": hidden,
            "pooled": pooled,
        }
