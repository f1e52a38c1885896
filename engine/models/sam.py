"""SAM, the segment anything model, and SAMed, which is SAM without prompts and with a mask for every class.

Kirillov et al. 2023, arXiv:2304.02643; Zhang and Liu 2023, arXiv:2304.13785; MedSAM (Ma et al. 2024, Nature
Communications 15:654) has the parameters of SAM with ViT-B. As SAMed a run sets ``lora_rank`` 4 and freezes what
:data:`equipoise.engine.models.lora.FREEZE` matches; its 3 masks then leave 147,456 weights of adapters, 6,220 of the prompt encoder
and 3,918,019 of the decoder to be trained.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from equipoise.engine.errors import UserError
from equipoise.engine.models import layers, lora
from equipoise.engine.models.sam_decoder import Decoder, Prompts
from equipoise.engine.models.sam_encoder import Encoder

SIZES = {  # fields of the published models: ``args=sam.SIZES["l"]`` in a run file
    "b": {"width": 768, "depth": 12, "heads": 12, "global_blocks": (2, 5, 8, 11)},
    "l": {"width": 1024, "depth": 24, "heads": 16, "global_blocks": (5, 11, 17, 23)},
    "h": {"width": 1280, "depth": 32, "heads": 16, "global_blocks": (7, 15, 23, 31)},
}


class Model(nn.Module):
    """The network; by default with the encoder ViT-B.

    Attributes:
      num_outputs: masks: the classes of a segmentation, background included. SAM itself has 4: one mask, and three for
        prompts that leave open what is meant.
      dtype: of the computation; parameters are float32, outputs at least that.
      axis_name: unused, as nothing here has batch statistics.
      width: channels of the encoder.
      depth: its blocks.
      heads: of each block.
      window: side of the windows that attend by themselves, in patches.
      global_blocks: blocks, from 0, that attend over the whole image.
      patch: side of a patch in pixels.
      out_width: channels of embedding and decoder.
      decoder_heads: of the decoder's attention.
      decoder_hidden: of the decoder's MLP.
      lora_rank: of the adapters (:mod:`equipoise.engine.models.lora`); 0: none.
      lora_targets: a pattern of the kernels that have one; by default queries and values of the encoder.
      remat: recompute each block's activations in the backward pass: a third more arithmetic, far less memory.
      attention: ``einsum`` or ``cudnn`` (:func:`equipoise.engine.models.transformer.attend`), of the encoder.
    """

    num_outputs: int
    dtype: Any = jnp.float32
    axis_name: str | None = None
    width: int = 768
    depth: int = 12
    heads: int = 12
    window: int = 14
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    patch: int = 16
    out_width: int = 256
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    lora_rank: int = 0
    lora_targets: str = lora.QUERY_AND_VALUE
    remat: bool = False
    attention: str = "einsum"

    def setup(self) -> None:
        """Makes encoder, prompt encoder and decoder."""
        dense = functools.partial(
            lora.Dense, dtype=self.dtype, rank=self.lora_rank, targets=self.lora_targets
        )
        self.encoder = Encoder(
            self.width, self.depth, self.heads, self.window, self.global_blocks, self.patch, self.out_width,
            dense, self.dtype, self.remat, self.attention,
        )  # fmt: skip
        self.prompts = Prompts(self.out_width, dtype=self.dtype)
        self.decoder = Decoder(self.num_outputs, self.decoder_heads, self.decoder_hidden, dense)

    def encode(self, image: Float[Array, "b *spatial c"]) -> dict[str, Array]:
        """The features ``block1`` ... ``blockN`` and ``neck`` [b, h/16, w/16, 256], the embedding that is decoded.

        Raises:
          UserError: for images that are not 2D with one or three channels, or whose sides 16 does not divide.
        """
        if image.ndim != 4 or image.shape[-1] not in (1, 3):
            raise UserError(f"SAM takes 2D images of 1 or 3 channels, [b, h, w, c]; these are {image.shape}")
        return self.encoder(jnp.broadcast_to(image, (*image.shape[:-1], 3)))

    def decode(
        self,
        embedding: Float[Array, "b h w c"],
        points: Float[Array, "b p 2"] | None = None,
        labels: Int[Array, "b p"] | None = None,
        boxes: Float[Array, "b 4"] | None = None,
        masks: Float[Array, "b h4 w4 1"] | None = None,
    ) -> tuple[Float[Array, "b h4 w4 k"], Float[Array, "b k"]]:
        """Masks for one set of prompts per image; an image with several sets has its embedding repeated.

        Args:
          embedding: ``neck`` of :meth:`encode`.
          points: (x, y) in pixels of the image.
          labels: of the points: 1 foreground, 0 background, -1 no point.
          boxes: (x0, y0, x1, y1) in pixels.
          masks: logits of an earlier mask, four times the embedding's size.

        Returns:
          Logits of all masks, and the intersection over union that the model expects of each.
        """
        sizes = embedding.shape[1:3]
        pixels = tuple(self.patch * n for n in sizes)
        sparse = None
        if points is not None or boxes is not None:
            sparse = self.prompts.sparse(pixels, points, labels, boxes)
        image = embedding + self.prompts.dense(masks)
        found, quality = self.decoder(image, self.prompts.positions(sizes), sparse)
        wide = layers.output_dtype(self.dtype)
        return found.astype(wide), quality.astype(wide)

    def segment(
        self, image: Float[Array, "b *spatial c"], multimask: bool = True, **prompts: Array
    ) -> tuple[Float[Array, "b h4 w4 k"], Float[Array, "b k"]]:
        """What SAM answers to prompts: ``model.apply(variables, image, boxes=..., method="segment")``.

        Args:
          image: preprocessed as the weights were trained.
          multimask: every mask but the first, for a prompt that leaves open what is meant; else the first alone.
          **prompts: of :meth:`decode`.

        Returns:
          Logits of the masks, a quarter of the image's size, and their expected intersection over union.
        """
        found, quality = self.decode(self.encode(image)["neck"], **prompts)
        return (found[..., 1:], quality[:, 1:]) if multimask else (found[..., :1], quality[:, :1])

    def __call__(
        self, image: Float[Array, "b *spatial c"], train: bool = False, keys: Key[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b h4 w4 k"], dict[str, Array]]:
        """Returns logits of all masks without prompts, a quarter of the image's size, and the encoder's features."""
        features = self.encode(image)
        if self.is_initializing():  # what other prompts need is part of the model too
            b, h, w = (1, *features["neck"].shape[1:3])
            self.prompts.dense(jnp.zeros((b, 4 * h, 4 * w, 1), self.dtype))
        output, _ = self.decode(features["neck"])
        if self.is_initializing():
            lora.check(self.variables["params"], self.lora_rank, self.lora_targets)
        return output, features
