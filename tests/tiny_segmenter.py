"""A network that learns the tiny masks in a few steps: two convolutions, and logits on every second pixel."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from equipoise.engine.models import layers


class Model(nn.Module):
    """The network, with the feature ``hidden``."""

    num_outputs: int
    dtype: Any = jnp.float32
    axis_name: str | None = None
    width: int = 4
    stride: int = 2
    dropout: float = 0.1
    use_norm: bool = True

    @nn.compact
    def __call__(self, image, train=False, keys=None):
        conv = lambda width, name, **more: layers.Conv(width, dtype=self.dtype, name=name, **more)  # noqa: E731
        x = conv(self.width, "first", stride=self.stride)(image.astype(self.dtype))
        if self.use_norm:
            x = layers.BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name="norm")(x, train)
        hidden = layers.Dropout(self.dropout, name="dropout")(nn.relu(x), train, keys)
        wide = layers.output_dtype(self.dtype)
        return conv(self.num_outputs, "head", use_bias=True)(hidden).astype(wide), {"hidden": hidden}
