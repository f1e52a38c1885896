"""Random streams by name: a key is a pure function of (seed, stream, step), so that no key has to be passed through calls."""

import zlib

import jax
import numpy as np
from jaxtyping import Array, Int, Key


def key(seed: int, name: str, step: int | Int[Array, ""] = 0) -> Key[Array, ""]:
    """The key of a stream at a step of a run.

    Args:
      seed: the run's seed.
      name: the stream's name, such as ``"dropout"``.
      step: updates made so far; may be traced.
    """
    stream = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(stream, step)


def example_keys(stream: Key[Array, ""], positions: Int[Array, " b"]) -> Key[Array, " b"]:
    """One key per example, from its position in the global batch.

    So randomness does not depend on which device or host holds the example.
    """
    return jax.vmap(lambda i: jax.random.fold_in(stream, i))(positions)


def generator(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """A NumPy generator for draws on the host; generators with different names or indices are independent.

    Args:
      seed: the seed of all draws.
      name: the stream's name.
      index: number within the stream, for instance of a subject, whose draws then do not depend on who else there is.
    """
    key = np.array([seed, zlib.crc32(name.encode())], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, index], np.uint64)))
