"""The layers that every network here is made of, for 2D and 3D images [b, *spatial, c].

On a CPU, XLA's own 3D convolution, windowed pooling and their gradients are several times slower than the forms used
here, which compute the same numbers: see ``benchmarks/conv3d.py``.
"""

import functools
import math
import zlib
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from equipoise.engine.errors import UserError, did_you_mean

KERNEL_INITS = {"he": nn.initializers.he_normal(), "glorot": nn.initializers.glorot_uniform()}

# Convolutions are cut into slabs that touch about this many bytes, which is near what second-level caches hold. The gradient
# of a kernel gains most, and is cut finest; with more slabs than this, copies and compile time cost more than they save.
_SLAB_BYTES = 2 << 20
_MAX_SLABS = 8
_MAX_KERNEL_SLABS = {2: 16, 3: 32}
# Few channels do not fill a vector register: this many neighbours are taken together.
_BLOCK = 4
_MAX_THIN = 4


def _dimension_numbers(num_spatial: int) -> tuple[str, str, str]:
    axes = "DHW"[-num_spatial:]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"


def plain_convolution(
    x: Float[Array, "b *spatial c"], kernel: Float[Array, "*window c k"], stride: int = 1
) -> Float[Array, "b *reduced k"]:
    """XLA's convolution with SAME padding: the form for accelerators."""
    num_spatial = x.ndim - 2
    strides = (stride,) * num_spatial
    return jax.lax.conv_general_dilated(
        x, kernel, strides, "SAME", dimension_numbers=_dimension_numbers(num_spatial)
    )


def _slabs(x: Array, kernel: Array, stride: int, most: int) -> list[tuple[int, int]]:
    """Cuts the first spatial axis of the output into at most ``most`` slabs, as (first, size)."""
    length, taps = -(-x.shape[1] // stride), kernel.shape[0] if x.ndim == 5 else 1
    touched = math.prod(x.shape[:-1]) // stride * (taps * x.shape[-1] + kernel.shape[-1]) * x.dtype.itemsize
    thickness = -(-length // max(1, min(most, length, touched // _SLAB_BYTES)))
    return [(first, min(thickness, length - first)) for first in range(0, length, thickness)]


def folded_convolution(
    x: Float[Array, "b d h w c"],
    kernel: Float[Array, "kd kh kw c k"],
    stride: int = 1,
    max_slabs: int = _MAX_SLABS,
) -> Float[Array, "b e f g k"]:
    """A 3D convolution with SAME padding as 2D convolutions: the depth taps become channels.

    [b, d, h, w, c] is gathered to [b * e, h, w, kd * c], where e counts the output's depths, and convolved in 2D with
    the kernel [kh, kw, kd * c, k], in slabs of depths. The slabs are unrolled because XLA's convolution on a CPU is an
    order of magnitude slower inside a loop.

    Args:
      x: images.
      kernel: with a depth of any size.
      stride: along all three axes.
      max_slabs: into which the depths are cut.
    """
    b, d, h, w, c = x.shape
    kd, kh, kw, _, k = kernel.shape
    depth_pad, *plane_pads = jax.lax.padtype_to_pads((d, h, w), (kd, kh, kw), (stride,) * 3, "SAME")
    padded = jnp.pad(x, ((0, 0), depth_pad, (0, 0), (0, 0), (0, 0)))
    plane_kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kd * c, k)
    slabs = []
    for first, size in _slabs(x, kernel, stride, max_slabs):
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


def row_convolution(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c k"],
    stride: int = 1,
    max_slabs: int = _MAX_SLABS,
) -> Float[Array, "b f g k"]:
    """A 2D convolution with SAME padding, one slab of rows after the other."""
    height_pad, width_pad = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride,) * 2, "SAME")
    padded = jnp.pad(x, ((0, 0), height_pad, (0, 0), (0, 0)))
    slabs = []
    for first, size in _slabs(x, kernel, stride, max_slabs):
        start, span = first * stride, (size - 1) * stride + kernel.shape[0]
        rows, pads = padded[:, start : start + span], ((0, 0), width_pad)
        slabs.append(
            jax.lax.conv_general_dilated(
                rows, kernel, (stride,) * 2, pads, dimension_numbers=_dimension_numbers(2)
            )
        )
    return slabs[0] if len(slabs) == 1 else jnp.concatenate(slabs, 1)


def blocked_convolution(
    x: Float[Array, "b *outer w c"], kernel: Float[Array, "*window 3 c k"]
) -> Float[Array, "b *outer w k"]:
    """A 2D or 3D convolution of few channels with SAME padding: blocks along the last axis become channels.

    [b, *outer, w, c] is gathered to [b, *outer, w / n, (n + 2) * c], every block of n positions with a neighbour on
    each side, and convolved with a kernel [*window, 1, (n + 2) * c, n * k] that holds the given one n times, shifted.
    That is (n + 2) / 3 times the arithmetic, in a form that fills vector registers.
    """
    *lead, w, c = x.shape
    *window, _, _, k = kernel.shape
    n = _BLOCK
    sides = jnp.pad(x, [(0, 0)] * len(lead) + [(1, 1), (0, 0)])
    blocks = x.reshape(*lead, w // n, n * c)
    blocks = jnp.concatenate([sides[..., :w:n, :], blocks, sides[..., n + 1 :: n, :]], -1)
    still = [(0, 0)] * len(window)
    shifted = [jnp.pad(kernel, [*still, (j, n - 1 - j), (0, 0), (0, 0)]) for j in range(n)]
    wide = jnp.stack(shifted, -2).reshape(*window, 1, (n + 2) * c, n * k)
    y = plain_convolution(blocks, wide) if x.ndim == 4 else folded_convolution(blocks, wide, max_slabs=1)
    return y.reshape(*lead, w, k)


def _value(x: Array, kernel: Array, stride: int, max_slabs: int = _MAX_SLABS) -> Array:
    """The convolution in the form that is fastest on a CPU."""
    if x.shape[-1] <= _MAX_THIN and kernel.shape[-3] == 3 and x.shape[-2] % _BLOCK == 0 and stride == 1:
        return blocked_convolution(x, kernel)
    if x.ndim == 4:
        return plain_convolution(x, kernel, stride)
    return folded_convolution(x, kernel, stride, max_slabs)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def cpu_convolution(
    x: Float[Array, "b *spatial c"], kernel: Float[Array, "*window c k"], stride: int = 1
) -> Float[Array, "b *reduced k"]:
    """A convolution with SAME padding whose value and two gradients each have the form that is fastest on a CPU.

    The form of a tangent decides that of its transpose, the gradient.
    """
    return _value(x, kernel, stride)


def _cpu_convolution_jvp(stride: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    slabs = _MAX_KERNEL_SLABS[x.ndim - 2]
    y = _value(x, kernel, stride, slabs)  # the kernel's slabs, so that they are gathered once
    tangent = jnp.zeros_like(y)
    if not isinstance(dx, jax.custom_derivatives.SymbolicZero):
        tangent += (
            plain_convolution(dx, kernel, stride)
            if x.ndim == 4
            else folded_convolution(dx, kernel, stride, max_slabs=1)
        )
    if not isinstance(dkernel, jax.custom_derivatives.SymbolicZero):
        form = row_convolution if x.ndim == 4 else folded_convolution
        tangent += form(x, dkernel, stride, slabs)
    return y, tangent


cpu_convolution.defjvp(_cpu_convolution_jvp, symbolic_zeros=True)


def convolution(
    x: Float[Array, "b *spatial c"], kernel: Float[Array, "*window c k"], stride: int = 1
) -> Float[Array, "b *reduced k"]:
    """A 2D or 3D convolution with SAME padding, in the fastest form for the platform it is compiled for."""
    if kernel.shape[0] == 1:
        return plain_convolution(x, kernel, stride)
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: cpu_convolution(x, kernel, stride),
        default=lambda x, kernel: plain_convolution(x, kernel, stride),
    )


class Conv(nn.Module):
    """Convolution with SAME padding in as many spatial dimensions as its input has.

    Attributes:
      features: output channels.
      kernel_size: along every spatial axis.
      stride: along every spatial axis.
      use_bias: off before a normalisation, which would cancel it.
      dtype: the type of the computation; parameters are float32.
      kernel_init: the initializer of the kernel.
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
    """Mean of windows that do not overlap, over positions inside the image only; arguments as in :func:`max_pool`."""
    view, axes = _windows(x, window, padding, 0.0)
    if padding == "VALID":
        return view.mean(axes)
    inside, _ = _windows(jnp.ones((1, *x.shape[1:-1], 1), x.dtype), window, padding, 0.0)
    return view.sum(axes) / inside.sum(axes)


def global_avg_pool(x: Float[Array, "b *spatial c"]) -> Float[Array, "b c"]:
    """Mean over all positions, accumulated in at least float32."""
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
      dtype: the type of the output; statistics and parameters are float32 or wider.
      axis_name: the mapped axis over which statistics are averaged (``pmap``); its shards must be of equal size. Under
        ``jit`` with a sharded batch they are global as they stand.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"], train: bool) -> Float[Array, "b *spatial c"]:
        """Normalises: in training with the batch's statistics, which update the running ones; else with the running ones."""
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

    The mask of an example is a function only of its key and of this layer's path in the model: neither its place in the
    batch nor the way the batch is split over devices can change it.

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
      dtype: the type of the computation.
      kernel_init: the initializer of the kernel.
    """

    features: int
    dtype: Any = jnp.float32
    kernel_init: Callable = KERNEL_INITS["glorot"]

    @nn.compact
    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... k"]:
        """Applies the layer to a batch."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


def check_choice(what: str, name: str, known: Collection[str]) -> None:
    """Raises UserError, with a suggestion, when ``name`` is not one of ``known``; ``what`` says what is chosen."""
    if name not in known:
        raise UserError(f"no {what} {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}")


def output_dtype(dtype: Any) -> jnp.dtype:
    """The type of a model's output for a computation in ``dtype``: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)
