"""From the arrays of a published file to the parameters of one of our models."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from equipoise.engine.errors import UserError
from equipoise.engine.models import resampling


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the names and axes of a publisher's parameters become ours.

    A name that ends in ``weight`` is PyTorch's: its axes are brought to our order. ``#2`` at the end of a renamed path says
    that the array is part 2 (from 0) of ours; ``<3>`` in it becomes 4, since our layers count from 1.

    Attributes:
      publisher: what error messages call the model.
      mark: a pattern that at least one name in its files matches.
      renames: (pattern, replacement), applied to a name in this order.
      left: a pattern of names in the file that our model has no use for.
      heads: a pattern of our paths whose shape depends on the number of outputs; None: there are none.
      fresh: a pattern of our paths that the file does not have.
      positions: a pattern of our paths that hold a table of positions, [row, column, channel].
      offsets: a pattern of our paths that hold a table of relative positions along one axis, [offset, channel].
      transposed: a pattern of our paths that hold the kernel of a transposed convolution.
      rows: a pattern of our paths whose parts are put together along the first axis, not along the last.
    """

    publisher: str
    mark: str
    renames: Sequence[tuple[str, str]]
    left: str
    fresh: str
    heads: str | None = None
    positions: str | None = None
    offsets: str | None = None
    transposed: str | None = None
    rows: str | None = None

    def is_of(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether the arrays of a file are this publisher's."""
        return any(re.search(self.mark, name) for name in arrays)

    def path(self, name: str) -> str:
        """Our path of a parameter, without the collection and the kind of leaf."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return re.sub(r"<(\d+)>", lambda match: str(int(match[1]) + 1), name)


def _matches(pattern: str | None, path: str) -> bool:
    return pattern is not None and re.search(pattern, path) is not None


def _convert(
    layout: Layout, arrays: Mapping[str, np.ndarray], ours: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The file's arrays under our paths and in our axes, and its names that have no place."""
    placed: dict[str, np.ndarray] = {}
    parts: dict[str, dict[int, np.ndarray]] = {}
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
                ends = (-2, -1) if _matches(layout.transposed, path) else (-1, -2)
                value = np.moveaxis(value, (0, 1), ends)
        if path not in ours:
            unexpected.append(name)
        elif number:
            height = ours[path].shape[0] if path.endswith("/kernel") else 1
            parts.setdefault(path, {})[int(number)] = value.reshape(height, -1)
        else:
            placed[path] = value
    for path, pieces in parts.items():
        axis = 0 if _matches(layout.rows, path) else -1
        placed[path] = np.concatenate([pieces[number] for number in sorted(pieces)], axis)
    return placed, unexpected


def _fit(layout: Layout, path: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array in our shape: tables of positions are resized, axes of size 1 and heads of attention flattened."""
    if _matches(layout.positions, path):
        if value.ndim == 3:  # [1, 1 + n * n, c], a class token first
            side = math.isqrt(value.shape[1])
            value = value[:, -side * side :].reshape(1, side, side, -1)
        rows, columns = (
            resampling.interpolation(size, new, False)
            for size, new in zip(value.shape[1:3], shape, strict=False)
        )
        return np.einsum("hH,wW,HWc->hwc", rows, columns, value[0])
    if _matches(layout.offsets, path):
        return resampling.interpolation(len(value), shape[0], False) @ value
    return value.reshape(shape) if value.size == math.prod(shape) and value.ndim != len(shape) else value


def fill(layout: Layout, arrays: Mapping[str, np.ndarray], variables: Any, source: str) -> Any:
    """Fresh variables with the parameters of a file in their places.

    Tables of positions are resized bilinearly, as PyTorch does it with align_corners=False and without smoothing. Layers
    that depend on the number of outputs stay fresh where the file has another number, and adapters always; both are logged.

    Args:
      layout: the layout of the file's publisher.
      arrays: the file's arrays by name.
      variables: ``{"params": ..., "batch_stats": ...}`` of the model.
      source: what messages call the file.

    Raises:
      UserError: with every parameter that the file lacks, that has no place in the model, or has another shape.
    """

    def name(keys: Any) -> str:
        return jax.tree_util.keystr(keys[1:], simple=True, separator="/")

    ours = {name(keys): leaf for keys, leaf in jax.tree.leaves_with_path(variables)}
    placed, unexpected = _convert(layout, arrays, ours)
    placed = {path: _fit(layout, path, value, ours[path].shape) for path, value in placed.items()}
    heads = [path for path in ours if _matches(layout.heads, path)]
    if any(path in placed and placed[path].shape != ours[path].shape for path in heads):
        placed = {path: value for path, value in placed.items() if path not in heads}
        unexpected = [word for word in unexpected if not _matches(layout.heads, layout.path(word))]
        may_lack = set(heads)
    else:
        may_lack = set()
    missing = [
        path
        for path in ours
        if path not in placed and path not in may_lack and not re.search(layout.fresh, path)
    ]
    differing = [
        f"{path} {value.shape} there, {ours[path].shape} here"
        for path, value in placed.items()
        if value.shape != ours[path].shape
    ]
    complaints = {"lacks": missing, "has what the model does not": unexpected, "differs in": differing}
    if any(complaints.values()):
        lines = "\n".join(f"  {what}: {', '.join(names)}" for what, names in complaints.items() if names)
        raise UserError(f"{source} does not fit the model:\n{lines}\nCheck --config.model.name and its args.")
    if fresh := [path for path in ours if path not in placed]:
        logging.info(
            "%s has no parameters of %d arrays, which stay fresh: %s", source, len(fresh), ", ".join(fresh)
        )
    return jax.tree.map_with_path(
        lambda keys, leaf: jnp.asarray(placed[name(keys)], leaf.dtype) if name(keys) in placed else leaf,
        variables,
    )
