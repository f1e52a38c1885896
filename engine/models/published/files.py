"""Reading the arrays of a file that others wrote: PyTorch archives, safetensors, ``.npz``.

Nothing in a file is executed: a PyTorch file is read as the archive of raw arrays that it is, by an unpickler that knows
tensors and dictionaries and refuses the rest.
"""

import collections
import json
import math
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from equipoise.engine.errors import UserError

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
    "BOOL": "bool",
}


def _tensor(
    values: np.ndarray, offset: int, sizes: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    if min((offset, *sizes, *strides)) < 0 or (math.prod(sizes) and last >= len(values)):
        raise pickle.UnpicklingError("a tensor reaches beyond its data")
    steps = tuple(s * values.itemsize for s in strides)
    return np.lib.stride_tricks.as_strided(values[offset:], sizes, steps).copy()


class _Tensors(pickle.Unpickler):
    """Rebuilds tensors and dictionaries from a PyTorch archive; every other global is refused."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(archive.open(f"{folder}/data.pkl"))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        """The function or type that a name in the file stands for."""
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        } | {("torch", storage): dtype for storage, dtype in _STORAGES.items()}
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no tensor")
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The array of a storage."""
        _, dtype, key, *_ = pid
        return np.frombuffer(self._archive.read(f"{self._folder}/data/{key}"), jnp.dtype(dtype))


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is no PyTorch archive (torch.save has written those since version 1.6): "
            "load it where it is trusted, and save it again"
        )
    with zipfile.ZipFile(path) as archive:
        pickles = [n for n in archive.namelist() if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(pickles) != 1:
            raise UserError(f"{path} holds no tensors saved by PyTorch")
        content = _Tensors(archive, pickles[0].removesuffix("/data.pkl")).load()
    for name in ("model", "state_dict"):  # where a training checkpoint keeps the state dictionary
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(v, np.ndarray) for v in content.values()):
        raise UserError(f"{path} holds no state dictionary: save model.state_dict()")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    head = json.loads(content[8:start])
    head.pop("__metadata__", None)
    arrays = {}
    for name, entry in head.items():
        first, last = (start + offset for offset in entry["data_offsets"])
        values = np.frombuffer(content[first:last], jnp.dtype(_SAFETENSORS[entry["dtype"]]))
        arrays[name] = values.reshape(entry["shape"])
    return arrays


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


_READERS: dict[str, Callable[[pathlib.Path], dict[str, np.ndarray]]] = {
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
}


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file by their names in it.

    Raises:
      UserError: for a file that is missing, of another kind, damaged, or that would have to execute something.
    """
    if path.suffix not in _READERS:
        raise UserError(f"--config.model.weights={path}: files that can be read end in {', '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"--config.model.weights={path}: there is no such file")
    try:
        return _READERS[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # a foreign file may be wrong in any way
        raise UserError(f"--config.model.weights={path} does not read: {error}") from error
