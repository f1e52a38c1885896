"""Binary masks as short JSON values, so that a cohort's metadata can carry its regions."""

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Packs a boolean array of any shape: ``{"shape": [...], "bits": base64(zlib(bits))}``."""
    packed = np.packbits(np.asarray(mask, bool).ravel())
    return {"shape": list(mask.shape), "bits": base64.b64encode(zlib.compress(packed.tobytes(), 9)).decode()}


def decode_mask(encoded: Mapping[str, Any]) -> np.ndarray:
    """The inverse of :func:`encode_mask`."""
    packed = np.frombuffer(zlib.decompress(base64.b64decode(encoded["bits"])), np.uint8)
    shape = tuple(encoded["shape"])
    return np.unpackbits(packed, count=int(np.prod(shape))).astype(bool).reshape(shape)
