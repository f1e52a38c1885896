"""The layers that every network here is made of, for 2D and 3D images [b, *spatial, c].

On a CPU, XLA's own 3D convolution, windowed pooling and their gradients are several times slower than the forms used
here, which compute the same numbers: see ``benchmarks/conv3d.py``.
"""

import zlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from engine.config import UserError

KERNEL_INITS = {"he": nn.initializers.he_normal(), "glorot": nn.initializers.glorot_uniform()}

# The gradient of a kernel is fastest when the folded input fits the second-level caches; beyond eight slabs the copies
# and the compile time cost more than they save.
_SLAB_BYTES = 2 << 20
_MAX_SLABS = 8


def _dimension_numbers(num_spatial: int) -> tuple[str, str, str]:
    axes = "DHW"[-num_spatial:]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"


def plain_convolution(
    x: Float[Array, "b *spatial c"], kernel: Float[Array, "*window c k"], stride: int = 1
) -> Float[Array, "b *reduced k"]:
    """XLA's convolution with SAME padding: the form for accelerators, and for 2D everywhere."""
    num_spatial = x.ndim - 2
    strides = (stride,) * num_spatial
    return jax.lax.conv_general_dilated(
        x, kernel, strides, "SAME", dimension_numbers=_dimension_numbers(num_spatial)
    )


def folded_convolution(
    x: Float[Array, "b d h w c"], kernel: Float[Array, "kd kh kw c k"], stride: int = 1
) -> Float[Array, "b e f g k"]:
    """A 3D convolution with SAME padding as 2D convolutions: the depth taps become channels.

    [b, d, h, w, c] is gathered to [b * e, h, w, kd * c], where e counts the output's depths, and convolved in 2D with
    the kernel [kh, kw, kd * c, k]. The depths are cut into slabs whose folded input stays near the cache: the kernel's
    gradient, one product over every position of a slab, gains most. The slabs are unrolled because XLA's convolution
    on a CPU is an order of magnitude slower inside a loop.

    Args:
      x: images.
      kernel: with a depth of any size.
      stride: along all three axes.
    """
    b, d, h, w, c = x.shape
    kd, kh, kw, _, k = kernel.shape
    depth_pad, *plane_pads = jax.lax.padtype_to_pads((d, h, w), (kd, kh, kw), (stride,) * 3, "SAME")
    depth_out = -(-d // stride)
    padded = jnp.pad(x, ((0, 0), depth_pad, (0, 0), (0, 0), (0, 0)))
    plane_kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kd * c, k)
    folded_bytes = b * depth_out * h * w * kd * c * x.dtype.itemsize
    num_slabs = max(1, min(_MAX_SLABS, depth_out, -(-folded_bytes // _SLAB_BYTES)))
    thickness = -(-depth_out // num_slabs)
    slabs = []
    for first in range(0, depth_out, thickness):
        size = min(thickness, depth_out - first)
        start, span = first * stride, (size - 1) * stride + 1
        taps = [padded[:, start + i : start + i + span : stride] for i in range(kd)]
        slab = jax.lax.conv_general_dilated(
            jnp.concatenate(taps, -1).reshape(b * size, h, w, kd * c),
            plane_kernel,
            (stride, stride),
            plane_pads,
            dimension_numbers=_dimension_numbers(2),
        )
        slabs.append(slab.reshape(b, size, *slab.shape[1:]))
    return slabs[0] if len(slabs) == 1 else jnp.concatenate(slabs, 1)


def convolution(
    x: Float[Array, "b *spatial c"], kernel: Float[Array, "*window c k"], stride: int = 1
) -> Float[Array, "b *reduced k"]:
    """A 2D or 3D convolution with SAME padding, in the fastest form for the platform it is compiled for."""
    if x.ndim != 5 or kernel.shape[0] == 1:
        return plain_convolution(x, kernel, stride)
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: folded_convolution(x, kernel, stride),
        default=lambda x, kernel: plain_convolution(x, kernel, stride),
    )


class Conv(nn.Module):
    """Convolution with SAME padding in as many spatial dimensions as its input has.

    Attributes:
      features: output channels.
      kernel_size: along every spatial axis.
      stride: along every spatial axis.
      use_bias: off before a normalisation, which would cancel it.
      dtype: of the computation; parameters are float32.
      kernel_init: initializer.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable = KERNEL_INITS["he"]

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"]) -> Float[Array, "b *reduced k"]:
        """Convolves a batch.

        Raises:
          UserError: when the images are neither 2D nor 3D.
        """
        if x.ndim not in (4, 5):
            raise UserError(
                f"images are [b, *spatial, c] with two or three spatial axes; these have shape {x.shape}"
            )
        window = (self.kernel_size,) * (x.ndim - 2)
        kernel = self.param("kernel", self.kernel_init, (*window, x.shape[-1], self.features), jnp.float32)
        y = convolution(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        return y


def _windows(x: Array, window: int, padding: str, fill: float) -> tuple[Array, tuple[int, ...]]:
    """Views [b, *spatial, c] as [b, n, window, m, window, ..., c]; returns it and the axes that lie in a window."""
    sizes = x.shape[1:-1]
    if padding == "SAME":
        x = jnp.pad(x, [(0, 0), *((0, -n % window) for n in sizes), (0, 0)], constant_values=fill)
    elif padding != "VALID":
        raise UserError(f"pooling has no padding {padding!r}: choose VALID (drop the rest) or SAME (keep it)")
    elif min(sizes) < window:
        raise UserError(
            f"an image of {'x'.join(map(str, sizes))} positions cannot be pooled by {window}: "
            "use fewer blocks, larger images or padding='SAME'"
        )
    else:
        x = x[(slice(None), *(slice(n // window * window) for n in sizes))]
    split = [part for n in x.shape[1:-1] for part in (n // window, window)]
    axes = tuple(range(2, 2 + 2 * len(sizes), 2))
    return x.reshape(x.shape[0], *split, x.shape[-1]), axes


def max_pool(
    x: Float[Array, "b *spatial c"], window: int = 2, padding: str = "VALID"
) -> Float[Array, "b *reduced c"]:
    """Maximum of windows that do not overlap.

    Equal maxima of a window share its gradient evenly (``flax.linen.max_pool`` gives all of it to the first).

    Args:
      x: images.
      window: side, and distance, of the windows.
      padding: an incomplete window at the far end is dropped (``VALID``) or reduced over what it has (``SAME``).

    Raises:
      UserError: when an axis is shorter than the window under ``VALID``.
    """
    view, axes = _windows(x, window, padding, -jnp.inf)
    return view.max(axes)


def avg_pool(
    x: Float[Array, "b *spatial c"], window: int = 2, padding: str = "VALID"
) -> Float[Array, "b *reduced c"]:
    """Mean of windows that do not overlap, taken over positions inside the image only; see :func:`max_pool`."""
    view, axes = _windows(x, window, padding, 0.0)
    if padding == "VALID":
        return view.mean(axes)
    inside, _ = _windows(jnp.ones((1, *x.shape[1:-1], 1), x.dtype), window, padding, 0.0)
    return view.sum(axes) / inside.sum(axes)


def global_avg_pool(x: Float[Array, "b *spatial c"]) -> Float[Array, "b c"]:
    """Mean over every position, accumulated in at least float32."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return x.mean(tuple(range(1, x.ndim - 1)), dtype=wide).astype(x.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) over all axes but the last.

    Batch statistics come from per-channel sums of ``x - running mean`` and of its square, in one pass and at least
    float32; subtracting the running mean first keeps the variance exact where the mean is far from zero. The variance
    is the biased one, in the batch and in ``batch_stats``, as in flax and Keras.

    Attributes:
      momentum: share of the old running statistics that an update keeps.
      epsilon: added to the variance.
      dtype: of the output; statistics and parameters are float32 or wider.
      axis_name: mapped axis over which statistics are averaged (``pmap``); its shards must be of equal size. Under
        ``jit`` with a sharded batch they are global as they stand.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"], train: bool) -> Float[Array, "b *spatial c"]:
        """Normalises with the batch's statistics (``train``), updating the running ones, or with the running ones."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        wide = jnp.promote_types(jnp.promote_types(x.dtype, self.dtype), jnp.float32)
        centred = x.astype(wide) - running_mean.value.astype(wide)
        if train:
            axes = tuple(range(x.ndim - 1))
            moments = jnp.stack([centred.mean(axes), jnp.square(centred).mean(axes)])
            if self.axis_name is not None and not self.is_initializing():
                moments = jax.lax.pmean(moments, self.axis_name)
            offset = moments[0]
            var = jnp.maximum(moments[1] - jnp.square(offset), 0)
            if not self.is_initializing():
                mean, keep = running_mean.value + offset, self.momentum
                for variable, value in ((running_mean, mean), (running_var, var)):
                    updated = keep * variable.value + (1 - keep) * value
                    variable.value = updated.astype(variable.value.dtype)
        else:
            offset, var = jnp.zeros((channels,), wide), running_var.value.astype(wide)
        slope = scale * jax.lax.rsqrt(var + self.epsilon)
        return (centred * slope + (bias - offset * slope)).astype(self.dtype)


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) whose draws belong to the examples.

    The mask of an example is a function of its key and of this layer's path in the model alone: neither its place in
    the batch nor the way the batch is split over devices can change it.

    Attributes:
      rate: probability that a value is dropped; the others are divided by ``1 - rate``.
    """

    rate: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "b ..."], train: bool, keys: Key[Array, " b"] | None
    ) -> Float[Array, "b ..."]:
        """Drops values in training.

        Raises:
          ValueError: for a rate outside [0, 1), or for training without keys.
        """
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout rate {self.rate} is outside [0, 1)")
        if not train or self.rate == 0:
            return x
        if keys is None:
            raise ValueError(
                "dropout in training needs keys, one per example: apply(..., train=True, keys=keys)"
            )
        layer = zlib.crc32("/".join(self.path).encode())
        keep = jnp.float32(1 - self.rate)  # a fixed width: the draws stay the same under enable_x64

        def draw(key: Array) -> Array:
            return jax.random.bernoulli(jax.random.fold_in(key, layer), keep, x.shape[1:])

        return jnp.where(jax.vmap(draw)(keys), x / (1 - self.rate), 0).astype(x.dtype)


class Dense(nn.Module):
    """Affine map of the last axis, with float32 parameters.

    Attributes:
      features: outputs.
      dtype: of the computation.
      kernel_init: initializer.
    """

    features: int
    dtype: Any = jnp.float32
    kernel_init: Callable = KERNEL_INITS["glorot"]

    @nn.compact
    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... k"]:
        """Maps a batch."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


def output_dtype(dtype: Any) -> jnp.dtype:
    """The type of a model's output for a computation in ``dtype``: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)
