"""NPZ files, read without running anything that a file may hold."""

import io
import math
import pathlib
import pickle
import zipfile
from collections.abc import Collection
from typing import Any, BinaryIO

import numpy as np

from equipoise.data_builders.base.readers.pixels import UnreadableScan

# All names that pickles of NumPy's arrays and scalars hold; a pickle with any other name is refused before it is looked up.
_PLAIN = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {("numpy", "dtype"), ("numpy", "ndarray")}


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that builds arrays, numbers, text and containers of them, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # the oldest protocols write bytes with it
            return lambda text, _: text.encode("latin1")
        if (module, name) not in _PLAIN:
            raise UnreadableScan(
                f"holds a pickle that names {module}.{name}, which is no array; it was not run"
            )
        return super().find_class(module, name)


def _read_npy(stream: BinaryIO) -> np.ndarray:
    """Reads one array of the NPY format; pickled objects must be plain values, and become an array of them."""
    version = np.lib.format.read_magic(stream)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:
        raise UnreadableScan(f"array of NPY version {version[0]}.{version[1]}, expected 1.0 or 2.0")
    shape, by_columns, dtype = headers[version](stream)
    content = stream.read()
    if dtype.hasobject:
        pickled = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
        if not isinstance(pickled, np.ndarray) or pickled.shape != shape:
            raise UnreadableScan("a pickle is not the array that its header says")
        return np.asarray(pickled.tolist())
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise UnreadableScan("an array is shorter or longer than its header says")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")


def read_npz(path: pathlib.Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Reads arrays of an NPZ file without running code from it: only pickles of plain values are read.

    Args:
      path: of the file.
      names: of the arrays to read; others are never opened.

    Returns:
      Name -> array, for those names that the file has; pickled numbers and texts become arrays of them.

    Raises:
      UnreadableScan: for a file that is missing, truncated or no NPZ file, and for a pickle that holds more than plain
        values.
    """
    if not pathlib.Path(path).exists():
        raise UnreadableScan("file is missing")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.removesuffix(".npy"): member for member in archive.namelist()}
            arrays = {}
            for name in names:
                if name in members:
                    with archive.open(members[name]) as stream:
                        arrays[name] = _read_npy(stream)
            return arrays
    except UnreadableScan:
        raise
    except Exception as error:
        raise UnreadableScan(f"NPZ file is truncated or damaged ({type(error).__name__})") from error
