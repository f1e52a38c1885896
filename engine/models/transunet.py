"""TransUNet: a vision transformer, on the output of a ResNet or on patches of the image, and a convolutional decoder.

Chen et al. 2021, arXiv:2102.04306. The default is ViT-B/16 without skips; ``HYBRID`` has the fields of R50-ViT-B/16 with three
skips, the paper's main form.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from equipoise.engine.errors import UserError
from equipoise.engine.models import layers, lora, resampling, transformer

HYBRID = {"stages": (3, 4, 9), "patch": 1, "skips": 3}  # ``args=transunet.HYBRID`` in a run file


class StandardConv(nn.Module):
    """A convolution without bias whose kernel has mean 0 and variance 1 for every output (Qiao et al. 2019, arXiv:1903.10520).

    Padding is SAME, with which the published ResNets were trained. PyTorch's ports of them pad otherwise where there is a
    stride: their windows lie one pixel beside ours.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 k"]:
        """Applies the layer to a batch."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", layers.KERNEL_INITS["he"], shape, jnp.float32)
        mean, var = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
        kernel = (kernel - mean) * jax.lax.rsqrt(var + 1e-5)
        return layers.convolution(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


def _group_norm(x: Array, name: str) -> Array:
    return nn.GroupNorm(num_groups=min(32, x.shape[-1]), epsilon=1e-6, dtype=x.dtype, name=name)(x)


class Unit(nn.Module):
    """A bottleneck of three standardised convolutions, the middle one with the stride."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 k"]:
        """Runs the unit."""
        wide, conv, rest = 4 * self.features, functools.partial(StandardConv, dtype=x.dtype), x
        if x.shape[-1] != wide or self.stride > 1:
            rest = _group_norm(conv(wide, 1, self.stride, name="conv_proj")(x), "gn_proj")
        x = nn.relu(_group_norm(conv(self.features, 1, name="conv1")(x), "gn1"))
        x = nn.relu(_group_norm(conv(self.features, 3, self.stride, name="conv2")(x), "gn2"))
        return nn.relu(rest + _group_norm(conv(wide, 1, name="conv3")(x), "gn3"))


class ResNet(nn.Module):
    """ResNet with group normalisation and standardised kernels (Kolesnikov et al. 2020, arXiv:1912.11370).

    Attributes:
      stages: units in each stage. The root quarters the image, and every stage but the first halves it.
      width: channels of the root.
      dtype: the type of the computation.
    """

    stages: tuple[int, ...]
    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> list[Float[Array, "b h2 w2 k"]]:
        """Returns the maps of the root and of every stage, at a half, a quarter, an eighth, ... of the image's size."""
        x = StandardConv(self.width, 7, 2, self.dtype, name="conv_root")(x)
        maps = [x := nn.relu(_group_norm(x, "gn_root"))]
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, units in enumerate(self.stages):
            for unit in range(units):
                stride = 2 if stage and not unit else 1
                x = Unit(self.width << stage, stride, name=f"block{stage + 1}_unit{unit + 1}")(x)
            maps.append(x)
        return maps


class Block(nn.Module):
    """Attention and an MLP, each after a normalisation and added to what came in.

    Attributes:
      heads: number of heads.
      hidden: channels inside the MLP.
      dropout: the rate of dropout after each layer of the MLP.
      dense: makes a dense layer from (features, name=...).
    """

    heads: int
    hidden: int
    dropout: float
    dense: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t c"], train: bool, keys: Key[Array, " b"] | None
    ) -> Float[Array, "b t c"]:
        """Runs the block."""
        c = x.shape[-1]
        drop = functools.partial(layers.Dropout, self.dropout)
        y = self.dense(3 * c, packed=True, name="qkv")(transformer.norm(1e-6, x.dtype, "norm1")(x))
        q, k, v = (transformer.split_heads(part, self.heads) for part in jnp.split(y, 3, -1))
        y = transformer.attend(q * np.asarray(q.shape[-1] ** -0.5, q.dtype), k, v)
        x += self.dense(c, name="out")(transformer.join_heads(y))
        y = self.dense(self.hidden, name="dense1")(transformer.norm(1e-6, x.dtype, "norm2")(x))
        y = drop(name="dropout1")(transformer.gelu(y), train, keys)
        return x + drop(name="dropout2")(self.dense(c, name="dense2")(y), train, keys)


class Encoder(nn.Module):
    """A vision transformer, after a ResNet where there is one; the attributes are those of :class:`Model`."""

    stages: tuple[int, ...]
    stem: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    dropout: float
    dense: Callable[..., nn.Module]
    dtype: Any
    remat: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool, keys: Key[Array, " b"] | None
    ) -> tuple[dict[str, Array], list[Array]]:
        """Returns the features ``block1`` ... ``blockN`` and ``encoded`` [b, h/16, w/16, width], and the ResNet's maps."""
        maps = ResNet(self.stages, self.stem, self.dtype, name="resnet")(x) if self.stages else [x]
        x = resampling.PatchConv(self.width, self.patch, self.dtype, name="patch")(maps[-1])
        position = self.param("position", nn.initializers.zeros, x.shape[1:], jnp.float32)
        x += position.astype(self.dtype)
        grid = x.shape
        x = layers.Dropout(self.dropout, name="dropout")(x.reshape(len(x), -1, self.width), train, keys)
        make = nn.remat(Block, static_argnums=2) if self.remat else Block
        features = {}
        for number in range(1, self.depth + 1):
            block = make(self.heads, self.hidden, self.dropout, self.dense, name=f"block{number}")
            x = block(x, train, keys)
            features[f"block{number}"] = x.reshape(grid)
        features["encoded"] = transformer.norm(1e-6, self.dtype, "norm")(x).reshape(grid)
        return features, maps[:-1]


class Model(nn.Module):
    """TransUNet; by default ViT-B/16 without skips.

    Attributes:
      num_outputs: number of classes, background included.
      dtype: the type of the computation; parameters are float32, outputs at least that.
      axis_name: the mapped axis over which batch statistics are averaged, under ``pmap``.
      stages: units in each stage of a ResNet before the transformer; (): no ResNet.
      stem: channels of the ResNet's root.
      patch: side of a patch of the image, or of the ResNet's last map.
      width: channels of the transformer.
      depth: number of its blocks.
      heads: heads of attention in each block.
      hidden: channels inside each block's MLP.
      dropout: the rate of dropout in the transformer.
      head: channels of the decoder's first convolution.
      decoder: channels of the decoder's blocks, each of which doubles the image's size.
      skips: how many of these blocks also take the ResNet's map of their size.
      lora_rank: the rank of the transformer's adapters (:mod:`equipoise.engine.models.lora`); 0: none.
      lora_targets: a pattern of the kernels that have an adapter.
      remat: whether to recompute each block's activations in the backward pass, which saves memory.
    """

    num_outputs: int
    dtype: Any = jnp.float32
    axis_name: str | None = None
    stages: tuple[int, ...] = ()
    stem: int = 64
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    dropout: float = 0.1
    head: int = 512
    decoder: tuple[int, ...] = (256, 128, 64, 16)
    skips: int = 0
    lora_rank: int = 0
    lora_targets: str = lora.QUERY_AND_VALUE
    remat: bool = False

    def _conv(self, x: Array, width: int, train: bool, name: str) -> Array:
        x = layers.Conv(width, dtype=self.dtype, name=name)(x)
        return nn.relu(
            layers.BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name=f"{name}_norm")(x, train)
        )

    @nn.compact
    def __call__(
        self, image: Float[Array, "b *spatial c"], train: bool = False, keys: Key[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b h w k"], dict[str, Array]]:
        """Returns logits of the image's size, and the features ``block1`` ..., ``encoded``, ``decoder1`` ...

        Raises:
          UserError: for images that are not 2D with one or three channels or not made of whole patches, and for more
            skips than the ResNet has maps.
        """
        if image.ndim != 4 or image.shape[-1] not in (1, 3):
            raise UserError(
                f"TransUNet takes 2D images of 1 or 3 channels, [b, h, w, c]; these are {image.shape}"
            )
        if self.skips > len(self.stages):
            raise UserError(
                f"skips={self.skips}: a ResNet with {len(self.stages)} stages has {len(self.stages)} maps to take"
            )
        sizes = image.shape[1:3]
        step = self.patch * (2 << len(self.stages) if self.stages else 1)
        if any(n % step for n in sizes):
            whole = "x".join(str(-(-n // step) * step) for n in sizes)
            raise UserError(
                f"an image of {sizes[0]}x{sizes[1]} pixels is not made of patches of {step}: crop or pad it, e.g. to "
                f"{whole}, with --config.data.shape"
            )
        dense = functools.partial(
            lora.Dense, dtype=self.dtype, rank=self.lora_rank, targets=self.lora_targets
        )
        encoder = Encoder(
            self.stages, self.stem, self.patch, self.width, self.depth, self.heads, self.hidden, self.dropout,
            dense, self.dtype, self.remat, name="encoder",
        )  # fmt: skip
        features, maps = encoder(jnp.broadcast_to(image, (*image.shape[:-1], 3)), train, keys)
        x = self._conv(features["encoded"], self.head, train, "decoder_head")
        for number, width in enumerate(self.decoder, start=1):
            x = resampling.resize(x, tuple(2 * n for n in x.shape[1:3]), align_corners=True)
            if number <= self.skips:
                x = jnp.concatenate([x, maps[-number]], -1)
            for part in (1, 2):
                x = self._conv(x, width, train, f"decoder{number}_conv{part}")
            features[f"decoder{number}"] = x
        wide = layers.output_dtype(self.dtype)
        if self.is_initializing():
            lora.check(self.variables["params"], self.lora_rank, self.lora_targets)
        return layers.Conv(self.num_outputs, use_bias=True, dtype=wide, name="head")(x), features
