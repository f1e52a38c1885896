"""Random streams by name: a key is a pure function of (seed, stream, step), so none is threaded through calls."""

import zlib

import jax
import numpy as np
from jaxtyping import Array, Int, Key


def key(seed: int, name: str, step: int | Int[Array, ""] = 0) -> Key[Array, ""]:
    """The key of stream ``name`` at ``step`` of the run with this ``seed``.

    Args:
      seed: of the run.
      name: of the stream, e.g. ``"dropout"``.
      step: may be traced.
    """
    stream = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(stream, step)


def example_keys(stream: Key[Array, ""], positions: Int[Array, " b"]) -> Key[Array, " b"]:
    """One key per example, from its position in the global batch.

    Keyed so, randomness does not depend on which device or host holds the example.
    """
    return jax.vmap(lambda i: jax.random.fold_in(stream, i))(positions)


def generator(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """NumPy's generator of stream ``name``, on the host: streams are independent, and so are the ``index`` of one.

    Args:
      seed: of the draws.
      name: of the stream.
      index: e.g. of a subject, whose draws then do not depend on who else there is.
    """
    key = np.array([seed, zlib.crc32(name.encode())], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, index], np.uint64)))
