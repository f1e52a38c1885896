"""Low-rank adaptation: a frozen kernel W [m, n] becomes W + A B, and only A [m, r] and B [r, n] are trained.

Hu et al. 2021, arXiv:2106.09685, without the factor alpha/r, as in SAMed (arXiv:2304.13785). A lies beside the kernel that it
adapts, as ``lora_a``, or as ``lora_q_a`` for the columns of q in a packed kernel; so does B. A fresh B is zero, so that a
fresh adapter changes nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from equipoise.engine.errors import UserError
from equipoise.engine.models import layers

FREEZE = r"^encoder/(?!.*lora_)"  # for `--config.optimizer.freeze`: all of an encoder except its adapters
QUERY_AND_VALUE = r"^encoder/.*qkv/[qv]$"

# Uniform within 1/sqrt(m): what PyTorch calls kaiming uniform with a = sqrt(5).
_INIT_A = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_A = re.compile(r"lora_(?:(\w)_)?a")


def _names(part: str) -> tuple[str, str]:
    """The names of A and B for a part of a packed kernel, or for a whole kernel ("")."""
    return tuple("_".join(filter(None, ("lora", part, side))) for side in "ab")


def _factors(layer: Mapping[str, Array], parts: str) -> tuple[Float[Array, "m r"], Float[Array, "r n"]]:
    """A and B of all adapted parts of one layer's kernel, side by side; B is zero in the columns of other parts."""
    columns = layer["kernel"].shape[1]
    adapted = [part for part in parts or ("",) if _names(part)[0] in layer]
    a, b = zip(*(tuple(layer[name] for name in _names(part)) for part in adapted), strict=True)
    starts = [parts.index(part) * columns // len(parts) if part else 0 for part in adapted]
    wide = [jnp.pad(x, ((0, 0), (s, columns - s - x.shape[1]))) for x, s in zip(b, starts, strict=True)]
    return jnp.concatenate(a, 1), jnp.concatenate(wide, 0)


class Dense(layers.Dense):
    """:class:`equipoise.engine.models.layers.Dense` whose kernel can be adapted.

    Attributes:
      rank: the rank of the adapters; 0: none.
      targets: a pattern of the kernel paths to adapt, such as ``encoder/block1/mlp/dense1``, or
        ``encoder/block1/attention/qkv/q`` for a part of a packed kernel.
      packed: whether the module's name lists the parts of its kernel, each of one letter and of the same width.
    """

    rank: int = 0
    targets: str = QUERY_AND_VALUE
    packed: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... k"]:
        """Applies the layer to a batch."""
        y = super().__call__(x)
        parts = self.name if self.packed else ""
        layer = {"kernel": self.get_variable("params", "kernel")}
        for part in (parts or ("",)) if self.rank else ():
            if re.search(self.targets, "/".join(filter(None, (*self.path, part)))):
                a, b = _names(part)
                width = self.features // max(1, len(parts))
                layer[a] = self.param(a, _INIT_A, (x.shape[-1], self.rank), jnp.float32)
                layer[b] = self.param(b, nn.initializers.zeros, (self.rank, width), jnp.float32)
        if len(layer) == 1:
            return y
        a, b = (factor.astype(self.dtype) for factor in _factors(layer, parts))
        return y + x.astype(self.dtype) @ a @ b


def merge(params: Any) -> Any:
    """A copy of a parameter tree in which every adapter is added to its kernel: the tree of the same model with rank 0."""

    def fold(tree: Any, name: str) -> Any:
        if not isinstance(tree, Mapping):
            return tree
        tree = {key: fold(value, key) for key, value in tree.items()}
        matches = [match for key in tree if (match := _A.fullmatch(key))]
        if not matches:
            return tree
        a, b = _factors(tree, name if matches[0].group(1) else "")
        kept = {key: value for key, value in tree.items() if not key.startswith("lora_")}
        return kept | {"kernel": tree["kernel"] + a @ b}

    return fold(params, "")


def check(params: Any, rank: int, targets: str) -> None:
    """Checks that a fresh model has the adapters that it should have.

    Raises:
      UserError: when ``rank`` is above 0 and ``targets`` matches no kernel.
    """
    paths = [
        jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree.leaves_with_path(params)
    ]
    if rank and not any("/lora_" in path for path in paths):
        kernels = ", ".join(p.removesuffix("/kernel") for p in paths if p.endswith("qkv/kernel"))
        raise UserError(
            f"lora_targets={targets!r} matches no kernel; there are, with /q, /k or /v after them: {kernels}"
        )
