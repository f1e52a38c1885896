"""Predicted masks of a split, kept beside the table of their values."""

import json
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Integer

from equipoise.engine import files
from equipoise.engine.errors import UserError
from equipoise.engine.rundir import masks_beside
from equipoise.engine.transforms import masks

COLUMN = "predicted_mask"


def encode(codes: Integer[np.ndarray, "*spatial"]) -> str:
    """Turns a mask into text: a few kB for a picture of 512 x 512."""
    return json.dumps(masks.encode_labels(codes))


def decode(text: str) -> Integer[np.ndarray, "*spatial"]:
    """The inverse of :func:`encode`."""
    return masks.decode_labels(json.loads(text))


def split_off(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Parts a table into (the table without predicted masks, the masks with their scan_id); the latter is None where there are none."""
    if COLUMN not in frame:
        return frame, None
    return frame.drop(columns=COLUMN), frame[["scan_id", COLUMN]]


def write(table: pathlib.Path, predicted: pd.DataFrame) -> None:
    """Writes the masks from :func:`split_off` beside their table. The file appears whole or not at all."""
    with files.replacing(masks_beside(table)) as temporary:
        predicted.to_parquet(temporary, index=False)


class Predicted(Mapping[str, Integer[np.ndarray, "*spatial"]]):
    """scan_id -> predicted mask on the grid of the image; a mask is decoded when it is asked for."""

    def __init__(self, table: pathlib.Path):
        """Opens the masks beside a prediction table.

        Raises:
          UserError: where there are none.
        """
        kept = masks_beside(pathlib.Path(table))
        if not kept.exists():
            raise UserError(f"no predicted masks {kept}: write them with `equipoise evaluate`")
        self._texts = pd.read_parquet(kept).set_index("scan_id")[COLUMN]

    def __getitem__(self, scan_id: str) -> Integer[np.ndarray, "*spatial"]:
        return decode(self._texts[scan_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts.index)

    def __len__(self) -> int:
        return len(self._texts)


def note(tolerance: float) -> str:
    """Says, for a report, how masks were compared."""
    return (
        f"Surface Dice (nsd) counts surfaces as equal within {tolerance:g}. Lengths are in mm where the cohort knows the spacing of its pixels, "
        "otherwise in pixels. A structure that is in neither mask has no value; one that is missing in either mask has no distance."
    )
