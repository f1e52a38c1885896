"""SFCN, the simple fully convolutional network for brain MRI.

Peng et al. 2021, Medical Image Analysis 68:101871, doi 10.1016/j.media.2020.101871.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from equipoise.engine.models import layers


class Model(nn.Module):
    """SFCN: blocks of 3-wide convolution, BatchNorm, max pooling and ReLU; one 1-wide block; a head on the mean.

    The paper pools the mean over 5 x 6 x 5 positions, which are all that 160 x 192 x 160 voxels leave; here the mean
    is over all that any image leaves, so that the head does not depend on the image's size.

    Attributes:
      num_outputs: outputs of the head, a 1-wide convolution.
      dtype: the type of the computation; parameters are float32, outputs at least that.
      axis_name: the mapped axis over which batch statistics are averaged, under ``pmap``.
      features: channels of the pooled blocks and, last, of the 1-wide block.
      dropout: the rate of dropout before the head.
    """

    num_outputs: int
    dtype: Any = jnp.float32
    axis_name: str | None = None
    features: tuple[int, ...] = (32, 64, 128, 256, 256, 64)
    dropout: float = 0.5

    @nn.compact
    def __call__(
        self, image: Float[Array, "b *spatial c"], train: bool = False, keys: Key[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        """Returns the output and the features ``block1`` ... ``block6`` and ``pooled`` [b, c].

        Raises:
          UserError: for an image too small for so many blocks.
        """
        features = {}
        x = image
        for number, width in enumerate(self.features, start=1):
            is_last = number == len(self.features)
            x = layers.Conv(width, kernel_size=1 if is_last else 3, dtype=self.dtype, name=f"conv{number}")(x)
            norm = layers.BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name=f"norm{number}")
            x = norm(x, train)
            x = nn.relu(x if is_last else layers.max_pool(x))
            features[f"block{number}"] = x
        x = features["pooled"] = layers.global_avg_pool(x)
        x = layers.Dropout(self.dropout, name="dropout")(x, train, keys)
        # A 1-wide convolution of the one position that is left is an affine map of its channels.
        wide = layers.output_dtype(self.dtype)
        return layers.Dense(self.num_outputs, dtype=wide, name="head")(x), features
