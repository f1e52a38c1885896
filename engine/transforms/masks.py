"""Masks and label maps as short JSON values, so that the metadata of a cohort can hold its regions."""

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Integer


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Packs a boolean array of any shape: ``{"shape": [...], "bits": base64(zlib(bits))}``."""
    packed = np.packbits(np.asarray(mask, bool).ravel())
    return {"shape": list(mask.shape), "bits": base64.b64encode(zlib.compress(packed.tobytes(), 9)).decode()}


def decode_mask(encoded: Mapping[str, Any]) -> np.ndarray:
    """The boolean array that :func:`encode_mask` has packed."""
    packed = np.frombuffer(zlib.decompress(base64.b64decode(encoded["bits"])), np.uint8)
    shape = tuple(encoded["shape"])
    return np.unpackbits(packed, count=int(np.prod(shape))).astype(bool).reshape(shape)


def encode_labels(labels: Integer[np.ndarray, "..."]) -> dict[str, Any]:
    """Packs whole numbers from 0, of any shape: ``{"shape": [...], "dtype": "<u2", "values": base64(zlib(values))}``.

    The type is the smallest that can hold them: a map of 83 brain regions takes 12 kB of text at 4 mm, 60 kB at 2 mm.

    Raises:
      ValueError: for a negative number.
    """
    if labels.size and labels.min() < 0:
        raise ValueError(f"labels run from 0, got {labels.min()}")
    dtype = np.min_scalar_type(labels.max(initial=0)).newbyteorder("<")
    packed = zlib.compress(labels.astype(dtype).tobytes(), 9)
    return {"shape": list(labels.shape), "dtype": dtype.str, "values": base64.b64encode(packed).decode()}


def decode_labels(encoded: Mapping[str, Any]) -> Integer[np.ndarray, "..."]:
    """The label map that :func:`encode_labels` has packed, as int64."""
    values = np.frombuffer(zlib.decompress(base64.b64decode(encoded["values"])), encoded["dtype"])
    return values.astype(np.int64).reshape(encoded["shape"])
