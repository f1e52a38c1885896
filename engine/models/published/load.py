"""Parameters that others trained: SAM and MedSAM (PyTorch or safetensors), vision transformers (``.npz``).

Nothing in a file is executed: a PyTorch file is read as the archive of raw arrays that it is, by an unpickler that knows
tensors and dictionaries and refuses the rest.
"""

import collections
import json
import math
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from equipoise.engine.errors import UserError
from equipoise.engine.models import resampling

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
        """What a name in the file stands for."""
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        } | {("torch", storage): dtype for storage, dtype in _STORAGES.items()}
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no tensor")
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The numbers of a storage."""
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
        found = _Tensors(archive, pickles[0].removesuffix("/data.pkl")).load()
    for name in ("model", "state_dict"):  # a training checkpoint
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not all(isinstance(v, np.ndarray) for v in found.values()):
        raise UserError(f"{path} holds no state dictionary: save model.state_dict()")
    return {name.removeprefix("module."): value for name, value in found.items()}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    head = json.loads(content[8:start])
    head.pop("__metadata__", None)
    found = {}
    for name, entry in head.items():
        first, last = (start + n for n in entry["data_offsets"])
        found[name] = np.frombuffer(content[first:last], jnp.dtype(_SAFETENSORS[entry["dtype"]]))
        found[name] = found[name].reshape(entry["shape"])
    return found


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
        raise UserError(f"--config.model.weights={path}: a file of {', '.join(_READERS)} is read")
    if not path.is_file():
        raise UserError(f"--config.model.weights={path}: there is no such file")
    try:
        return _READERS[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # a foreign file may be wrong in any way
        raise UserError(f"--config.model.weights={path} does not read: {error}") from error


class Layout:
    """How a published model's names become ours.

    Attributes:
      mark: a pattern that one of its names matches.
      renames: (pattern, replacement), applied in this order; ``<3>`` in a result becomes 4, for we count from 1.
      left: a pattern of its names that have no place here.
      heads: a pattern of our paths that depend on the number of outputs.
      fresh: a pattern of our paths that it does not have.
    """

    def __init__(self, mark: str, renames: list[tuple[str, str]], left: str, heads: str, fresh: str):
        self.mark, self.renames, self.left, self.heads, self.fresh = mark, renames, left, heads, fresh

    def path(self, name: str) -> str:
        """Our path of a parameter, without the collection and the kind of leaf."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return re.sub(r"<(\d+)>", lambda match: str(int(match[1]) + 1), name)


SAM = Layout(
    r"^image_encoder\.",
    [
        (r"^image_encoder\.", "encoder."),
        (r"^prompt_encoder\.", "prompts."),
        (r"^mask_decoder\.", "decoder."),
        (r"pos_embed$", "position"),
        (r"patch_embed\.proj", "patch"),
        (r"blocks\.(\d+)", r"block<\1>"),
        (r"\.attn\.proj", ".attention.out"),
        (r"\.attn\.rel_pos_h$", ".attention.relative_row"),
        (r"\.attn\.rel_pos_w$", ".attention.relative_column"),
        (r"\.attn\.", ".attention."),
        (r"neck\.0", "neck_conv1"),
        (r"neck\.1", "neck_norm1"),
        (r"neck\.2", "neck_conv2"),
        (r"neck\.3", "neck_norm2"),
        (r"pe_layer\.positional_encoding_gaussian_matrix", "frequencies"),
        (r"not_a_point_embed\.weight", "points#0"),
        (r"point_embeddings\.(\d)\.weight", r"points#<\1>"),
        (r"no_mask_embed\.weight", "no_mask"),
        (r"mask_downscaling\.0", "mask1"),
        (r"mask_downscaling\.1", "mask_norm1"),
        (r"mask_downscaling\.3", "mask2"),
        (r"mask_downscaling\.4", "mask_norm2"),
        (r"mask_downscaling\.6", "mask3"),
        (r"iou_token\.weight", "quality_token"),
        (r"mask_tokens\.weight", "mask_tokens"),
        (r"output_upscaling\.0", "up1"),
        (r"output_upscaling\.1", "up_norm"),
        (r"output_upscaling\.3", "up2"),
        (r"output_hypernetworks_mlps\.(\d+)", r"mask<\1>"),
        (r"iou_prediction_head", "quality"),
        (r"transformer\.norm_final_attn", "transformer.to_image3_norm"),
        (r"transformer\.final_attn_token_to_image", "transformer.to_image3"),
        (r"layers\.(\d)\.self_attn", r"self<\1>"),
        (r"layers\.(\d)\.cross_attn_token_to_image", r"to_image<\1>"),
        (r"layers\.(\d)\.cross_attn_image_to_token", r"to_tokens<\1>"),
        (r"layers\.(\d)\.norm1", r"self<\1>_norm"),
        (r"layers\.(\d)\.norm2", r"to_image<\1>_norm"),
        (r"layers\.(\d)\.norm3", r"mlp<\1>_norm"),
        (r"layers\.(\d)\.norm4", r"to_tokens<\1>_norm"),
        (r"layers\.(\d)\.mlp", r"mlp<\1>"),
        (r"\.([qkv]|out)_proj", r".\1"),
        (r"\.lin(\d)", r".dense\1"),
        (r"\.layers\.(\d)", r".dense<\1>"),
        (r"\.", "/"),
    ],
    left=r"^pixel_(mean|std)$",
    heads=r"decoder/(mask_tokens$|mask\d+/|quality/)",
    fresh=r"/lora_",
)
VIT = Layout(
    r"^Transformer/",
    [
        (r"^Transformer/encoder_norm", "encoder/norm"),
        (r"^Transformer/posembed_input/pos_embedding", "encoder/position"),
        (r"^Transformer/encoderblock_(\d+)", r"encoder/block<\1>"),
        (r"^embedding", "encoder/patch"),
        (r"^(conv|gn)_root", r"encoder/resnet/\1_root"),
        (r"^block(\d+)/unit(\d+)", r"encoder/resnet/block\1_unit\2"),
        (r"LayerNorm_0", "norm1"),
        (r"LayerNorm_2", "norm2"),
        (r"MultiHeadDotProductAttention_1/query/(\w+)", r"qkv/\1#0"),
        (r"MultiHeadDotProductAttention_1/key/(\w+)", r"qkv/\1#1"),
        (r"MultiHeadDotProductAttention_1/value/(\w+)", r"qkv/\1#2"),
        (r"MultiHeadDotProductAttention_1/out", "out"),
        (r"MlpBlock_3/Dense_(\d)", r"dense<\1>"),
    ],
    left=r"^(cls$|head/|pre_logits/)",
    heads=r"$^",
    fresh=r"^(decoder|head)|/lora_",
)
LAYOUTS = (SAM, VIT)


def _convert(layout: Layout, arrays: Mapping[str, np.ndarray], ours: Mapping[str, Any]) -> tuple[dict, list]:
    """The file's arrays under our paths and in our axes, and its names that have no place."""
    found: dict[str, Any] = {}
    unexpected = []
    for name, value in arrays.items():
        if re.search(layout.left, name):
            continue
        path, _, number = layout.path(name).partition("#")
        if path.endswith("/weight"):
            path = path.removesuffix("weight") + ("scale" if value.ndim == 1 else "kernel")
            if value.ndim == 2:
                value = value.T
            elif value.ndim > 2:  # [out, in, *window], or [in, out, *window] of a transposed convolution
                is_up = re.search(r"/up\d+/kernel$", path)
                value = np.moveaxis(value, (0, 1), (-2, -1) if is_up else (-1, -2))
        if number and path in ours:
            flat = value.reshape(ours[path].shape[0] if path.endswith("/kernel") else 1, -1)
            found.setdefault(path, {})[int(number)] = flat
        elif path in ours:
            found[path] = value
        else:
            unexpected.append(name)
    for path, rows in found.items():
        if isinstance(rows, dict):
            axis = 0 if path.endswith("/points") else -1
            found[path] = np.concatenate([rows[i] for i in sorted(rows)], axis)
    return found, unexpected


def _fit(path: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array in our shape: tables of positions are resized, axes of size 1 and heads of their own flattened."""
    if path.endswith("/position"):
        if value.ndim == 3:  # [1, 1 + n * n, c], a class token first
            side = math.isqrt(value.shape[1])
            value = value[:, -side * side :].reshape(1, side, side, -1)
        rows, columns = (
            resampling.interpolation(n, new, False) for n, new in zip(value.shape[1:3], shape, strict=False)
        )
        return np.einsum("hH,wW,HWc->hwc", rows, columns, value[0])
    if re.search(r"/relative_(row|column)$", path):
        return resampling.interpolation(len(value), shape[0], False) @ value
    return value.reshape(shape) if value.size == math.prod(shape) and value.ndim != len(shape) else value


def load(path: str | pathlib.Path, variables: Any) -> Any:
    """Fresh variables with the parameters of a file in their places.

    Tables of positions are resized bilinearly, as PyTorch does it with align_corners=False and without smoothing. Layers
    that depend on the number of outputs stay fresh where the file has another number, and adapters always; both are said.

    Args:
      path: ``.pth`` or ``.safetensors`` of SAM or MedSAM, or ``.npz`` of a vision transformer.
      variables: ``{"params": ..., "batch_stats": ...}`` of the model.

    Raises:
      UserError: for a file that does not read or is of no known model, with every parameter that it lacks, that has no
        place in the model, or has another shape.
    """
    path = pathlib.Path(path)
    arrays = read(path)
    layout = next((x for x in LAYOUTS if any(re.search(x.mark, name) for name in arrays)), None)
    if layout is None:
        raise UserError(
            f"{path} is neither SAM nor a vision transformer; it begins with {', '.join([*arrays][:3])}"
        )

    def name(at: Any) -> str:
        return jax.tree_util.keystr(at[1:], simple=True, separator="/")

    ours = {name(at): leaf for at, leaf in jax.tree.leaves_with_path(variables)}
    found, unexpected = _convert(layout, arrays, ours)
    found = {at: _fit(at, value, ours[at].shape) for at, value in found.items()}
    heads = [at for at in ours if re.search(layout.heads, at)]
    if any(at in found and found[at].shape != ours[at].shape for at in heads):
        found = {at: value for at, value in found.items() if at not in heads}
        unexpected = [word for word in unexpected if not re.search(layout.heads, layout.path(word))]
    else:
        heads = [at for at in heads if re.search(layout.fresh, at)]
    missing = [at for at in ours if at not in found and at not in heads and not re.search(layout.fresh, at)]
    other = [
        f"{at} {value.shape} there, {ours[at].shape} here"
        for at, value in found.items()
        if value.shape != ours[at].shape
    ]
    complaints = {"lacks": missing, "has what the model does not": unexpected, "differs in": other}
    if any(complaints.values()):
        lines = "\n".join(f"  {what}: {', '.join(names)}" for what, names in complaints.items() if names)
        raise UserError(f"{path} does not fit the model:\n{lines}\nCheck --config.model.name and its args.")
    if fresh := [at for at in ours if at not in found]:
        logging.info("%s has no parameters of %d arrays, which stay fresh: %s", path.name, len(fresh), ", ".join(fresh))  # fmt: skip
    return jax.tree.map_with_path(
        lambda at, leaf: jnp.asarray(found[name(at)], leaf.dtype) if name(at) in found else leaf, variables
    )
