"""SAM, the segment anything model, and SAMed, which is SAM without prompts and with a mask for every class.

Kirillov et al. 2023, arXiv:2304.02643; Zhang and Liu 2023, arXiv:2304.13785; MedSAM (Ma et al. 2024, Nature
Communications 15:654) is SAM with ViT-B and parameters of its own. For SAMed, a run sets ``lora_rank`` to 4 and freezes what
:data:`equipoise.engine.models.lora.FREEZE` matches: with 3 masks, 147,456 weights of adapters, 6,220 of the prompt encoder and
3,918,019 of the decoder are then trained.
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
    """SAM; by default with the encoder ViT-B.

    Attributes:
      num_outputs: number of masks: one for each class of a segmentation, background included. SAM itself has 4: one mask, and
        three more for prompts that can mean several things.
      dtype: the type of the computation; parameters are float32, outputs at least that.
      axis_name: not used, since nothing here has batch statistics.
      width: channels of the encoder.
      depth: number of its blocks.
      heads: heads of attention in each block.
      window: side in patches of the windows within which patches attend to each other.
      global_blocks: the blocks, from 0, that attend over the whole image instead.
      patch: side of a patch in pixels.
      out_width: channels of the embedding and of the decoder.
      decoder_heads: heads of the decoder's attention.
      decoder_hidden: channels inside the decoder's MLP.
      lora_rank: the rank of the adapters (:mod:`equipoise.engine.models.lora`); 0: none.
      lora_targets: a pattern of the kernels that have an adapter; by default queries and values of the encoder.
      remat: whether to recompute each block's activations in the backward pass: a third more arithmetic, far less memory.
      attention: the encoder's attention, ``einsum`` or ``cudnn`` (:func:`equipoise.engine.models.transformer.attend`).
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
        """Masks for one set of prompts per image; repeat the embedding of an image that has several sets.

        Args:
          embedding: ``neck`` of :meth:`encode`.
          points: (x, y) in pixels of the image.
          labels: what each point marks: 1 foreground, 0 background, -1 no point.
          boxes: (x0, y0, x1, y1) in pixels.
          masks: logits of an earlier mask, of four times the embedding's size.

        Returns:
          (logits of all masks, the intersection over union that the model expects each of them to have).
        """
        sizes = embedding.shape[1:3]
        pixels = tuple(self.patch * n for n in sizes)
        sparse = None
        if points is not None or boxes is not None:
            sparse = self.prompts.sparse(pixels, points, labels, boxes)
        image = embedding + self.prompts.dense(masks)
        logits, quality = self.decoder(image, self.prompts.positions(sizes), sparse)
        wide = layers.output_dtype(self.dtype)
        return logits.astype(wide), quality.astype(wide)

    def segment(
        self, image: Float[Array, "b *spatial c"], multimask: bool = True, **prompts: Array
    ) -> tuple[Float[Array, "b h4 w4 k"], Float[Array, "b k"]]:
        """What SAM answers to prompts: ``model.apply(variables, image, boxes=..., method="segment")``.

        Args:
          image: preprocessed in the way in which the weights were trained.
          multimask: whether to return every mask but the first, for prompts that can mean several things; else only the first.
          **prompts: as in :meth:`decode`.

        Returns:
          (logits of the masks, of a quarter of the image's size; their expected intersection over union).
        """
        logits, quality = self.decode(self.encode(image)["neck"], **prompts)
        return (logits[..., 1:], quality[:, 1:]) if multimask else (logits[..., :1], quality[:, :1])

    def __call__(
        self, image: Float[Array, "b *spatial c"], train: bool = False, keys: Key[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b h4 w4 k"], dict[str, Array]]:
        """Returns logits of all masks without prompts, of a quarter of the image's size, and the encoder's features."""
        features = self.encode(image)
        if self.is_initializing():  # what other prompts need is part of the model too
            b, h, w = (1, *features["neck"].shape[1:3])
            self.prompts.dense(jnp.zeros((b, 4 * h, 4 * w, 1), self.dtype))
        output, _ = self.decode(features["neck"])
        if self.is_initializing():
            lora.check(self.variables["params"], self.lora_rank, self.lora_targets)
        return output, features
