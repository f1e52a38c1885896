"""What the transformers here share: attention, MLP, activation, normalisation."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equipoise.engine.errors import UserError, did_you_mean

ATTENTION = ("einsum", "cudnn")
_CUDNN_CHANNELS = 128


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x Phi(x)`` exactly, without the usual approximation by a hyperbolic tangent."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * np.asarray(np.sqrt(0.5), x.dtype)))


def attend(
    q: Float[Array, "b n t d"],
    k: Float[Array, "b n s d"],
    v: Float[Array, "b n s e"],
    attention: str = "einsum",
) -> Float[Array, "b n t e"]:
    """``softmax(q k^T) v`` for each of n heads. The caller puts a scale, and any bias that is linear in q, into q and k.

    Args:
      q: queries, scaled.
      k: keys.
      v: values.
      attention: ``einsum``, which works on every platform, or ``cudnn``, which keeps no weights of attention in memory but
        needs an NVIDIA GPU, bfloat16 and at most 128 channels.

    Raises:
      UserError: for another choice, or ``cudnn`` where it does not fit.
    """
    if attention not in ATTENTION:
        raise UserError(
            f"no attention {attention!r}.{did_you_mean(attention, ATTENTION)} There are: {', '.join(ATTENTION)}"
        )
    if attention == "einsum":
        logits = jnp.einsum("bntd,bnsd->bnts", q, k)
        wide = jnp.promote_types(logits.dtype, jnp.float32)
        weights = jax.nn.softmax(logits.astype(wide)).astype(v.dtype)
        return jnp.einsum("bnts,bnse->bnte", weights, v)
    width = q.shape[-1]
    if q.dtype != jnp.bfloat16 or width > _CUDNN_CHANNELS:
        raise UserError(
            f"attention='cudnn' needs bfloat16 and at most {_CUDNN_CHANNELS} channels a head; these are {width} in "
            f"{q.dtype} (a relative position takes a channel for each row and column): choose attention='einsum'"
        )
    q, k, v_wide = (
        jnp.pad(x, [(0, 0)] * 3 + [(0, -width % 8 + width - x.shape[-1])]).swapaxes(1, 2) for x in (q, k, v)
    )
    out = jax.nn.dot_product_attention(q, k, v_wide, scale=1.0, implementation="cudnn")
    return out.swapaxes(1, 2)[..., : v.shape[-1]]


def split_heads(x: Float[Array, "b t c"], heads: int) -> Float[Array, "b n t d"]:
    """Cuts the channels into heads, each of contiguous channels."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def join_heads(x: Float[Array, "b n t d"]) -> Float[Array, "b t c"]:
    """Puts the heads side by side as channels: the inverse of :func:`split_heads`."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


class Mlp(nn.Module):
    """Dense layers with an activation between them.

    Attributes:
      features: outputs of each layer.
      activation: the function between them.
      dense: makes a dense layer from (features, name=...).
    """

    features: tuple[int, ...]
    activation: Callable
    dense: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... k"]:
        """Applies the layer to a batch."""
        for number, width in enumerate(self.features, start=1):
            x = self.dense(width, name=f"dense{number}")(x)
            x = x if number == len(self.features) else self.activation(x)
        return x


def norm(epsilon: float, dtype: Any, name: str) -> nn.Module:
    """A layer that normalises the last axis."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, name=name)
