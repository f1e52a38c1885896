"""A residual U-Net for 2D and 3D images, the baseline of segmentation.

Ronneberger et al. 2015, arXiv:1505.04597, with the residual encoder and the plain decoder of nnU-Net (Isensee et al. 2024,
arXiv:2404.09556).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from equipoise.engine.errors import UserError
from equipoise.engine.models import layers, resampling

_NORMS = ("instance", "batch")


class InstanceNorm(nn.Module):
    """Normalisation of every image and channel over its positions (Ulyanov et al. 2016, arXiv:1607.08022)."""

    dtype: Any = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"], train: bool) -> Float[Array, "b *spatial c"]:
        """Normalises, in the same way in training and in evaluation."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        axes = tuple(range(1, x.ndim - 1))
        mean, var = wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True)
        return ((wide - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias).astype(self.dtype)


class Model(nn.Module):
    """The network: stages of residual blocks, each half the size of the one before, and back by transposed convolutions.

    Attributes:
      num_outputs: number of classes, background included.
      dtype: the type of the computation; parameters are float32, outputs at least that.
      axis_name: the mapped axis over which batch statistics are averaged, under ``pmap``.
      features: channels of each stage; there are as many stages.
      blocks: residual blocks in every stage of the encoder.
      norm: ``instance`` or ``batch``.
      dropout: the rate of dropout after the last stage of the encoder.
    """

    num_outputs: int
    dtype: Any = jnp.float32
    axis_name: str | None = None
    features: tuple[int, ...] = (32, 64, 128, 256, 320)
    blocks: int = 2
    norm: str = "instance"
    dropout: float = 0.0

    def _conv(self, x: Array, width: int, train: bool, name: str, stride: int = 1, size: int = 3) -> Array:
        x = layers.Conv(width, size, stride, dtype=self.dtype, name=name)(x)
        if self.norm == "instance":
            return InstanceNorm(self.dtype, name=f"{name}_norm")(x, train)
        return layers.BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name=f"{name}_norm")(x, train)

    def _residual(self, x: Array, width: int, train: bool, name: str, stride: int) -> Array:
        rest = layers.avg_pool(x) if stride > 1 else x
        if rest.shape[-1] != width:
            rest = self._conv(rest, width, train, f"{name}_skip", size=1)
        y = nn.leaky_relu(self._conv(x, width, train, f"{name}_conv1", stride))
        return nn.leaky_relu(self._conv(y, width, train, f"{name}_conv2") + rest)

    @nn.compact
    def __call__(
        self, image: Float[Array, "b *spatial c"], train: bool = False, keys: Key[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b *spatial k"], dict[str, Array]]:
        """Returns logits of the image's size, and the features ``block1`` ... ``blockN`` and ``decoder1`` ...

        Raises:
          UserError: for an unknown norm, or an image that cannot be halved so often.
        """
        layers.check_choice("norm", self.norm, _NORMS)
        sizes, step = image.shape[1:-1], 2 ** (len(self.features) - 1)
        if any(n % step for n in sizes):
            whole = "x".join(str(-(-n // step) * step) for n in sizes)
            raise UserError(
                f"an image of {'x'.join(map(str, sizes))} positions cannot be halved {len(self.features) - 1} times: "
                f"crop or pad it, e.g. to {whole}, with --config.data.shape, or name fewer features"
            )
        outputs, maps = {}, []
        x = nn.leaky_relu(self._conv(image, self.features[0], train, "stem"))
        for stage, width in enumerate(self.features, start=1):
            for block in range(1, self.blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                x = self._residual(x, width, train, f"block{stage}_{block}", stride)
            maps.append(x)
            outputs[f"block{stage}"] = x
        x = layers.Dropout(self.dropout, name="dropout")(x, train, keys)
        for stage, skip in enumerate(maps[-2::-1], start=1):
            x = resampling.UpConv(skip.shape[-1], self.dtype, name=f"up{stage}")(x)
            x = jnp.concatenate([x, skip], -1)
            for part in (1, 2):
                x = nn.leaky_relu(self._conv(x, skip.shape[-1], train, f"decoder{stage}_conv{part}"))
            outputs[f"decoder{stage}"] = x
        wide = layers.output_dtype(self.dtype)
        return layers.Dense(self.num_outputs, dtype=wide, name="head")(x), outputs
