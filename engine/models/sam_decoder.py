"""SAM's prompt encoder and mask decoder.

Kirillov et al. 2023, arXiv:2304.02643, appendix A. Normalisations have the epsilons of the released model: 1e-5 in the
transformer, 1e-6 over the channels of maps.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from equipoise.engine.models import resampling, transformer

_NORMAL = nn.initializers.normal(1.0)


class Prompts(nn.Module):
    """The prompt encoder: points, boxes and masks as embeddings.

    Attributes:
      width: channels of an embedding.
      hidden: channels inside the layers that embed a mask.
      dtype: the type of the computation.
    """

    width: int
    hidden: int = 16
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Declares the parameters of every kind of prompt: a model has all of them, whichever kinds it is used with."""
        # Fixed random frequencies: kept with the model, never trained.
        self.frequencies = self.variable(
            "batch_stats",
            "frequencies",
            lambda: _NORMAL(self.make_rng("params"), (2, self.width // 2), jnp.float32),
        )
        # not a point, background point, foreground point, first corner, second corner
        self.points = self.param("points", _NORMAL, (5, self.width), jnp.float32)
        self.no_mask = self.param("no_mask", _NORMAL, (self.width,), jnp.float32)
        self.mask1 = resampling.PatchConv(self.hidden // 4, 2, self.dtype)
        self.mask_norm1 = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype)
        self.mask2 = resampling.PatchConv(self.hidden, 2, self.dtype)
        self.mask_norm2 = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype)
        self.mask3 = resampling.PatchConv(self.width, 1, self.dtype)

    def _encode(self, place: Float[Array, "... 2"]) -> Float[Array, "... c"]:
        """Random Fourier features of (x, y) in [0, 1]."""
        angle = 2 * np.pi * ((2 * place - 1) @ self.frequencies.value)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)

    def positions(self, sizes: tuple[int, int]) -> Float[Array, "h w c"]:
        """The encoding of every cell's centre."""
        y, x = ((np.arange(n, dtype=np.float32) + 0.5) / n for n in sizes)
        return self._encode(jnp.stack(jnp.meshgrid(x, y), -1)).astype(self.dtype)

    def sparse(
        self,
        sizes: tuple[int, int],
        points: Float[Array, "b p 2"] | None,
        labels: Int[Array, "b p"] | None,
        boxes: Float[Array, "b 4"] | None,
    ) -> Float[Array, "b t c"]:
        """Embeds points and boxes.

        Args:
          sizes: height and width of the image in pixels.
          points: (x, y) in pixels.
          labels: 1 foreground, 0 background, -1 no point.
          boxes: (x, y) of two opposite corners in pixels.
        """
        scale = np.asarray(sizes[::-1], np.float32)
        embeddings = []
        if points is not None:
            if boxes is None:  # the released model was trained with a place kept for the box
                points = jnp.pad(points, ((0, 0), (0, 1), (0, 0)))
                labels = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=-1)
            place = self._encode((points + 0.5) / scale)
            embeddings.append(jnp.where(labels[..., None] == -1, 0, place) + self.points[labels + 1])
        if boxes is not None:
            corners = (boxes.reshape(len(boxes), 2, 2) + 0.5) / scale
            embeddings.append(self._encode(corners) + self.points[3:])
        return jnp.concatenate(embeddings, 1).astype(self.dtype)

    def dense(self, mask: Float[Array, "b h w 1"] | None) -> Float[Array, "..."]:
        """Embeds a mask of logits as [b, h/4, w/4, c]; without a mask the embedding is [c]."""
        if mask is None:
            return self.no_mask.astype(self.dtype)
        x = transformer.gelu(self.mask_norm1(self.mask1(mask)))
        return self.mask3(transformer.gelu(self.mask_norm2(self.mask2(x))))


class _Attention(nn.Module):
    """Attention from one set of tokens to another, in ``width`` channels."""

    width: int
    heads: int
    dense: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, q: Float[Array, "b t c"], k: Float[Array, "b s c"], v: Float[Array, "b s c"]
    ) -> Float[Array, "b t c"]:
        channels = q.shape[-1]
        q, k, v = (
            transformer.split_heads(self.dense(self.width, name=name)(x), self.heads)
            for name, x in (("q", q), ("k", k), ("v", v))
        )
        y = transformer.attend(q * np.asarray(q.shape[-1] ** -0.5, q.dtype), k, v)
        return self.dense(channels, name="out")(transformer.join_heads(y))


class TwoWay(nn.Module):
    """Tokens and image attend to each other: two layers, and a last attention from tokens to image.

    Attributes:
      heads: number of heads.
      hidden: channels inside the MLP.
      dense: makes a dense layer from (features, name=...).
    """

    heads: int
    hidden: int
    dense: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b t c"], image: Float[Array, "b s c"], place: Float[Array, "s c"]
    ) -> tuple[Float[Array, "b t c"], Float[Array, "b s c"]]:
        """Returns the new tokens and image; keys of the image get ``place`` added, queries of tokens the first tokens."""
        width, dtype, query_place = tokens.shape[-1], tokens.dtype, tokens

        def attention(width: int, name: str) -> nn.Module:
            return _Attention(width, self.heads, self.dense, name=name)

        def norm(x: Array, name: str) -> Array:
            return transformer.norm(1e-5, dtype, name)(x)

        for number in (1, 2):
            attend = attention(width, f"self{number}")
            if number == 1:
                tokens = attend(tokens, tokens, tokens)
            else:
                q = tokens + query_place
                tokens += attend(q, q, tokens)
            tokens = norm(tokens, f"self{number}_norm")
            y = attention(width // 2, f"to_image{number}")(tokens + query_place, image + place, image)
            tokens = norm(tokens + y, f"to_image{number}_norm")
            y = transformer.Mlp((self.hidden, width), nn.relu, self.dense, name=f"mlp{number}")(tokens)
            tokens = norm(tokens + y, f"mlp{number}_norm")
            y = attention(width // 2, f"to_tokens{number}")(image + place, tokens + query_place, tokens)
            image = norm(image + y, f"to_tokens{number}_norm")
        y = attention(width // 2, "to_image3")(tokens + query_place, image + place, image)
        return norm(tokens + y, "to_image3_norm"), image


class Decoder(nn.Module):
    """The mask decoder.

    Attributes:
      num_masks: number of mask tokens.
      heads: heads of the transformer.
      hidden: channels inside its MLP.
      dense: makes a dense layer from (features, name=...).
    """

    num_masks: int
    heads: int
    hidden: int
    dense: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b h w c"],
        place: Float[Array, "h w c"],
        prompts: Float[Array, "b t c"] | None,
    ) -> tuple[Float[Array, "b h2 w2 k"], Float[Array, "b k"]]:
        """Decodes an embedding.

        Args:
          image: the embedding with the dense prompt added.
          place: the encoding of its cells.
          prompts: the sparse prompts; None: there are none.

        Returns:
          (logits of every mask, of four times the embedding's size; the intersection over union that each is expected to have).
        """
        b, h, w, width = image.shape
        dtype = image.dtype
        quality = self.param("quality_token", _NORMAL, (1, width), jnp.float32)
        learned = jnp.concatenate(
            [quality, self.param("mask_tokens", _NORMAL, (self.num_masks, width), jnp.float32)]
        )
        tokens = jnp.broadcast_to(learned.astype(dtype), (b, *learned.shape))
        tokens = tokens if prompts is None else jnp.concatenate([tokens, prompts], 1)
        two_way = TwoWay(self.heads, self.hidden, self.dense, name="transformer")
        tokens, image = two_way(tokens, image.reshape(b, h * w, width), place.reshape(h * w, width))
        x = resampling.UpConv(width // 4, dtype, name="up1")(image.reshape(b, h, w, width))
        x = transformer.gelu(transformer.norm(1e-6, dtype, "up_norm")(x))
        x = transformer.gelu(resampling.UpConv(width // 8, dtype, name="up2")(x))
        kernels = [
            transformer.Mlp((width, width, width // 8), nn.relu, self.dense, name=f"mask{n + 1}")(
                tokens[:, 1 + n]
            )
            for n in range(self.num_masks)
        ]
        masks = jnp.einsum("bhwc,bkc->bhwk", x, jnp.stack(kernels, 1))
        quality = transformer.Mlp((width, width, self.num_masks), nn.relu, self.dense, name="quality")
        return masks, quality(tokens[:, 0])
