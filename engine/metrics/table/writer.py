"""A writer of prediction tables for any evaluation loop: PyTorch, Lightning, MONAI or plain NumPy, none of which is imported.

  with PredictionWriter("preds.parquet") as table:
      for batch in loader:
          score = torch.sigmoid(model(batch["image"]))[:, 0]
          table.add(target=batch["label"], score=score, subject_id=batch["patient"], race=batch["race"])

``equipoise audit --table=preds.parquet --target=target --score=score --group=race`` then reports the table. Every keyword is a
column; several models have several score columns.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from equipoise.engine import files
from equipoise.engine.errors import UserError, did_you_mean


def _array(values: Any) -> np.ndarray:
    """Returns a tensor of any framework, on any device, as an array; half precisions become float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


class PredictionWriter:
    """Collects one row per image, batch by batch, and writes them when the ``with`` block ends without an error.

    A batch is a set of columns of equal length; a single value holds for the whole batch. A column of shape [n, k] becomes k
    columns ``NAME_CLASS``, one for each class.
    """

    def __init__(self, path: str | os.PathLike, classes: Sequence[str] = ()):
        """Begins a table.

        Args:
          path: path of the file, which ends in ``.parquet`` or ``.csv``.
          classes: names of the classes, along the second axis of columns of shape [n, k].

        Raises:
          UserError: for another ending.
        """
        self._path, self._classes = pathlib.Path(path), tuple(classes)
        if self._path.suffix not in (".parquet", ".csv"):
            raise UserError(f"{self._path.name}: a prediction table ends in .parquet or .csv")
        self._parts: list[pd.DataFrame] = []

    def add(self, **columns: Any) -> None:
        """Adds a batch.

        Args:
          **columns: name -> [n] or [n, k] array or tensor, list of text, or one value for all rows.

        Raises:
          UserError: if lengths differ, if the columns are not those of the first batch, or if a second axis has no class names.
        """
        arrays: dict[str, np.ndarray] = {}
        for name, values in columns.items():
            array = _array(values)
            if array.ndim < 2:
                arrays[name] = array
            elif array.ndim == 2 and array.shape[1] in (1, len(self._classes)):
                names = [name] if array.shape[1] == 1 else [f"{name}_{c}" for c in self._classes]
                arrays |= dict(zip(names, array.T, strict=True))
            else:
                raise UserError(
                    f"column {name!r} has shape {array.shape}: give [n], or [n, k] with PredictionWriter(..., classes=k names)"
                )
        lengths = {name: len(a) for name, a in arrays.items() if a.ndim}
        if len(set(lengths.values())) != 1:
            raise UserError(
                f"columns of one batch have different lengths: {', '.join(f'{k} {n}' for k, n in lengths.items())}"
            )
        if self._parts and list(self._parts[0]) != list(arrays):
            odd = sorted(set(self._parts[0]) ^ set(arrays)) or list(arrays)
            raise UserError(
                f"column {odd[0]!r} is not in every batch.{did_you_mean(odd[0], set(self._parts[0]) - {odd[0]})}"
            )
        self._parts.append(pd.DataFrame(arrays, index=range(next(iter(lengths.values())))))

    def close(self) -> None:
        """Writes the file; it appears whole or not at all.

        Raises:
          UserError: if no row was added.
        """
        if not self._parts:
            raise UserError(f"{self._path.name}: no row was added")
        frame = pd.concat(self._parts, ignore_index=True)
        with files.replacing(self._path) as temporary:
            if self._path.suffix == ".csv":
                frame.to_csv(temporary, index=False)
            else:
                frame.to_parquet(temporary, index=False)

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is None:
            self.close()
