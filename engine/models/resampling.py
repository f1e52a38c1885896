"""Layers that change how many positions an image has, as matrix products.

A convolution whose windows do not overlap is a dense layer on the windows; its transpose is a dense layer that makes the
windows; linear interpolation along one axis is a product with a small matrix. These forms are fast on every platform.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equipoise.engine.errors import UserError
from equipoise.engine.models import layers


class PatchConv(nn.Module):
    """A convolution with bias over windows that do not overlap.

    Attributes:
      features: output channels.
      window: the side of the windows, which is also their distance.
      dtype: the type of the computation; parameters are float32.
    """

    features: int
    window: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"]) -> Float[Array, "b *reduced k"]:
        """Turns every window into one position.

        Raises:
          UserError: when windows do not fill the image.
        """
        sizes, n = x.shape[1:-1], self.window
        if any(size % n for size in sizes):
            whole = "x".join(str(-(-size // n) * n) for size in sizes)
            raise UserError(
                f"an image of {'x'.join(map(str, sizes))} positions is not made of windows of {n}: crop or pad it, "
                f"e.g. to {whole}, with --config.data.shape"
            )
        kernel = self.param(
            "kernel", layers.KERNEL_INITS["he"], (*(n,) * len(sizes), x.shape[-1], self.features), jnp.float32
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        split = [part for size in sizes for part in (size // n, n)]
        order = (0, *range(1, 2 * len(sizes), 2), *range(2, 2 * len(sizes) + 1, 2), 2 * len(sizes) + 1)
        patches = x.astype(self.dtype).reshape(len(x), *split, x.shape[-1]).transpose(order)
        patches = patches.reshape(len(x), *(size // n for size in sizes), -1)
        return patches @ kernel.reshape(-1, self.features).astype(self.dtype) + bias.astype(self.dtype)


class UpConv(nn.Module):
    """A transposed convolution with bias whose windows, of side 2, do not overlap: every position becomes a window.

    Attributes:
      features: output channels.
      dtype: the type of the computation; parameters are float32.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"]) -> Float[Array, "b *doubled k"]:
        """Doubles every spatial axis."""
        sizes, channels = x.shape[1:-1], x.shape[-1]
        rank = len(sizes)
        init = nn.initializers.he_normal(in_axis=-2, out_axis=-1, batch_axis=tuple(range(rank)))
        kernel = self.param("kernel", init, (*(2,) * rank, channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        columns = jnp.moveaxis(kernel, -2, 0).reshape(channels, -1).astype(self.dtype)
        y = (x.astype(self.dtype) @ columns).reshape(len(x), *sizes, *(2,) * rank, self.features)
        order = (0, *(axis for i in range(rank) for axis in (1 + i, 1 + rank + i)), 2 * rank + 1)
        y = y.transpose(order).reshape(len(x), *(2 * size for size in sizes), self.features)
        return y + bias.astype(self.dtype)


def interpolation(size: int, new: int, align_corners: bool) -> Float[np.ndarray, "new size"]:
    """The matrix that interpolates ``size`` values linearly at ``new`` places, without smoothing, as PyTorch does.

    Args:
      size: how many values there are.
      new: how many values are wanted.
      align_corners: whether the first and the last place are those of the first and the last value. Otherwise both rows span
        the same length, and each value lies in the middle of its share.
    """
    places = np.arange(new)
    if align_corners:
        at = places * ((size - 1) / max(new - 1, 1))
    else:
        at = np.clip((places + 0.5) * (size / new) - 0.5, 0, None)
    low = np.minimum(at.astype(int), size - 1)
    high = np.minimum(low + 1, size - 1)
    matrix = np.zeros((new, size))
    np.add.at(matrix, (places, low), 1 - (at - low))
    np.add.at(matrix, (places, high), at - low)
    return matrix.astype(np.float32)


def resize(
    x: Float[Array, "b *spatial c"], sizes: tuple[int, ...], align_corners: bool = False
) -> Float[Array, "b *resized c"]:
    """Linear interpolation of every spatial axis to ``sizes``; see :func:`interpolation`."""
    for axis, new in enumerate(sizes, start=1):
        if x.shape[axis] != new:
            matrix = jnp.asarray(interpolation(x.shape[axis], new, align_corners), x.dtype)
            lead, tail = x.shape[:axis], x.shape[axis + 1 :]
            y = x.reshape(int(np.prod(lead)), x.shape[axis], int(np.prod(tail)))
            y = jax.lax.dot_general(matrix, y, (((1,), (1,)), ((), ())))  # [new, lead, tail]
            x = y.swapaxes(0, 1).reshape(*lead, new, *tail)
    return x
