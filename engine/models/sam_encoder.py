"""SAM's image encoder: a vision transformer with attention in windows, and in a few blocks over the whole image.

Li et al. 2022, arXiv:2203.16527 (the backbone); Kirillov et al. 2023, arXiv:2304.02643.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equipoise.engine.models import layers, resampling, transformer


def _windows(x: Array, side: int, fill: Array) -> Array:
    """Cuts [b, h, w, c] into windows [b * number, side, side, c]; ``fill`` completes the last ones."""
    b, h, w, c = x.shape
    rows, columns = -(-h // side), -(-w // side)
    if (rows * side, columns * side) != (h, w):
        inside = np.zeros((rows * side, columns * side, 1), bool)
        inside[:h, :w] = True
        x = jnp.pad(x, ((0, 0), (0, rows * side - h), (0, columns * side - w), (0, 0)))
        x = jnp.where(inside, x, fill)
    return x.reshape(b, rows, side, columns, side, c).swapaxes(2, 3).reshape(-1, side, side, c)


def _join_windows(x: Array, h: int, w: int) -> Array:
    """Puts windows together again, without what was filled in: the inverse of :func:`_windows`."""
    side, c = x.shape[1], x.shape[-1]
    rows, columns = -(-h // side), -(-w // side)
    x = x.reshape(-1, rows, columns, side, side, c).swapaxes(2, 3)
    return x.reshape(-1, rows * side, columns * side, c)[:, :h, :w]


class Attention(nn.Module):
    """Self-attention with relative positions, separately for rows and columns.

    The logit of a query at (i, j) for a key at (k, l) is ``s q.k + q.H[i - k] + q.W[j - l]``, where s is the inverse root of
    the number of a head's channels. It is computed as one product of [s q, q.H[i - .], q.W[j - .]] and [k, row of k, column
    of l], the last two as indicators: so no bias of size tokens x tokens is ever made.

    Attributes:
      heads: number of heads.
      window: side of the windows within which patches attend to each other; 0: attention over the whole image.
      dense: makes a dense layer from (features, name=...).
      attention: see :func:`equipoise.engine.models.transformer.attend`.
    """

    heads: int
    window: int
    dense: Callable[..., nn.Module]
    attention: str = "einsum"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Applies the layer to a batch.

        A window that reaches beyond the image is filled with positions that are zero before the projection. They are keys
        like others; their projection is the same for all, and computed once.
        """
        _, h, w, c = x.shape
        project = self.dense(3 * c, packed=True, name="qkv")
        qkv = project(x)
        if self.window:
            qkv = _windows(qkv, self.window, project(jnp.zeros((1, c), x.dtype)))
        rows, columns = qkv.shape[1:3]
        tokens = rows * columns
        split = qkv.reshape(-1, tokens, 3, self.heads, c // self.heads)
        q, k, v = split.transpose(2, 0, 3, 1, 4)  # each [b, heads, tokens, d]
        d = q.shape[-1]
        grid = q.reshape(*q.shape[:2], rows, columns, d)
        by_row = jnp.einsum("bnhwd,hkd->bnhwk", grid, self._table("row", rows, d).astype(q.dtype))
        by_column = jnp.einsum("bnhwd,wkd->bnhwk", grid, self._table("column", columns, d).astype(q.dtype))
        place = np.indices((rows, columns)).reshape(2, tokens)
        where = np.concatenate([np.eye(rows)[place[0]], np.eye(columns)[place[1]]], -1)
        where = jnp.broadcast_to(jnp.asarray(where, q.dtype), (*q.shape[:3], rows + columns))
        biases = [bias.reshape(*q.shape[:3], -1) for bias in (by_row, by_column)]
        q = jnp.concatenate([q * np.asarray(d**-0.5, q.dtype), *biases], -1)
        k = jnp.concatenate([k, where], -1)
        y = transformer.join_heads(transformer.attend(q, k, v, self.attention)).reshape(-1, rows, columns, c)
        return self.dense(c, name="out")(_join_windows(y, h, w) if self.window else y)

    def _table(self, axis: str, size: int, d: int) -> Float[Array, "query key d"]:
        table = self.param(f"relative_{axis}", nn.initializers.zeros, (2 * size - 1, d), jnp.float32)
        return table[np.arange(size)[:, None] - np.arange(size) + size - 1]


class Block(nn.Module):
    """Attention and an MLP, each after a normalisation and added to its input; the attributes are those of :class:`Attention`."""

    heads: int
    window: int
    dense: Callable[..., nn.Module]
    attention: str = "einsum"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Runs the block."""
        width = x.shape[-1]
        y = transformer.norm(1e-6, x.dtype, "norm1")(x)
        x += Attention(self.heads, self.window, self.dense, self.attention, name="attention")(y)
        y = transformer.norm(1e-6, x.dtype, "norm2")(x)
        return x + transformer.Mlp((4 * width, width), transformer.gelu, self.dense, name="mlp")(y)


class Encoder(nn.Module):
    """The image encoder.

    Attributes:
      width: channels of the transformer.
      depth: number of blocks.
      heads: heads of each block.
      window: side of the windows in patches.
      global_blocks: the blocks, from 0, that attend over the whole image.
      patch: side of a patch in pixels.
      out_width: channels of the embedding.
      dense: makes a dense layer from (features, name=...).
      dtype: the type of the computation.
      remat: whether to recompute each block's activations in the backward pass, so that they need no memory.
      attention: see :func:`equipoise.engine.models.transformer.attend`.
    """

    width: int
    depth: int
    heads: int
    window: int
    global_blocks: tuple[int, ...]
    patch: int
    out_width: int
    dense: Callable[..., nn.Module]
    dtype: Any = jnp.float32
    remat: bool = False
    attention: str = "einsum"

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"]) -> dict[str, Array]:
        """Returns the features ``block1`` ... ``blockN`` [b, h/patch, w/patch, width] and ``neck`` [..., out_width].

        Raises:
          UserError: when patches do not fill the image.
        """
        x = resampling.PatchConv(self.width, self.patch, self.dtype, name="patch")(image)
        position = self.param("position", nn.initializers.zeros, x.shape[1:], jnp.float32)
        x += position.astype(self.dtype)
        features = {}
        make = nn.remat(Block) if self.remat else Block
        for number in range(self.depth):
            window = 0 if number in self.global_blocks else self.window
            block = make(self.heads, window, self.dense, self.attention, name=f"block{number + 1}")
            x = features[f"block{number + 1}"] = block(x)
        for number, size in ((1, 1), (2, 3)):
            x = layers.Conv(self.out_width, size, dtype=self.dtype, name=f"neck_conv{number}")(x)
            x = transformer.norm(1e-6, self.dtype, f"neck_norm{number}")(x)
        return features | {"neck": x}
