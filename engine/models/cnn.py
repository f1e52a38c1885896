"""A plain convolutional network: blocks of convolution, BatchNorm, activation and max pooling, then a linear head.

With ``features=(32, 64, 128, 256, 512), activation="sigmoid", head="flatten", padding="SAME", dropout=0.2,
kernel_init="glorot"`` it is the network of the SimBA studies (Stanley et al. 2023, doi 10.1007/978-3-031-43895-0_46).
Its 4,742,850 parameters at 173 x 211 x 155 voxels, as Keras counts them, are 4,739,874 here and in addition 1,984
running statistics, which Keras includes, and 992 biases of the convolutions, which BatchNorm cancels and which we
therefore leave out.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from equipoise.engine.models import layers

ACTIVATIONS = {
    f.__name__: f
    for f in (nn.relu, nn.sigmoid, nn.tanh, nn.gelu, nn.silu, nn.elu, nn.leaky_relu, nn.softplus)
}
# Pooling the maximum first gives the same values and leaves an eighth of the positions (3D) to activate.
_NON_DECREASING = ("relu", "sigmoid", "tanh", "elu", "leaky_relu", "softplus")
_HEADS = ("gap", "flatten")


class Model(nn.Module):
    """The network.

    Attributes:
      num_outputs: outputs of the linear head.
      dtype: the type of the computation; parameters are float32, outputs at least that.
      axis_name: the mapped axis over which batch statistics are averaged, under ``pmap``.
      features: channels of each block.
      activation: a name in ``ACTIVATIONS``.
      head: ``gap``, the mean over all positions, or ``flatten``, means of 2 x 2 (x 2) positions side by side; the
        latter fixes the network to one image size.
      dropout: the rate of dropout before the linear head.
      padding: the padding of every pooling: ``VALID`` drops an odd last position, ``SAME`` keeps it.
      kernel_init: the initializer of the convolutions: ``he`` or ``glorot``.
    """

    num_outputs: int
    dtype: Any = jnp.float32
    axis_name: str | None = None
    features: tuple[int, ...] = (16, 32, 64, 64)
    activation: str = "relu"
    head: str = "gap"
    dropout: float = 0.0
    padding: str = "VALID"
    kernel_init: str = "he"

    @nn.compact
    def __call__(
        self, image: Float[Array, "b *spatial c"], train: bool = False, keys: Key[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        """Returns the output and the features ``block1`` ... ``blockN`` and ``pooled`` [b, n].

        Raises:
          UserError: for an unknown choice, or an image too small for so many blocks.
        """
        layers.check_choice("activation", self.activation, ACTIVATIONS)
        layers.check_choice("head", self.head, _HEADS)
        layers.check_choice("kernel_init", self.kernel_init, layers.KERNEL_INITS)
        activation = ACTIVATIONS[self.activation]
        init = layers.KERNEL_INITS[self.kernel_init]
        features = {}
        x = image
        for number, width in enumerate(self.features, start=1):
            x = layers.Conv(width, dtype=self.dtype, kernel_init=init, name=f"conv{number}")(x)
            norm = layers.BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name=f"norm{number}")
            x = norm(x, train)
            if self.activation in _NON_DECREASING:
                x = activation(layers.max_pool(x, padding=self.padding))
            else:
                x = layers.max_pool(activation(x), padding=self.padding)
            features[f"block{number}"] = x
        if self.head == "gap":
            x = layers.global_avg_pool(x)
        else:
            x = layers.avg_pool(x, padding=self.padding)
            x = x.reshape(x.shape[0], -1)
        features["pooled"] = x
        x = layers.Dropout(self.dropout, name="dropout")(x, train, keys)
        wide = layers.output_dtype(self.dtype)
        return layers.Dense(self.num_outputs, dtype=wide, name="head")(x), features
