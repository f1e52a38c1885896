"""Masks of a split: those predicted, kept beside the table of their values, and what a crop takes from the references."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float, Integer

from equipoise.engine import data, files
from equipoise.engine.config import Run
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import segmentation
from equipoise.engine.transforms import masks
from equipoise.engine.update.preprocess import make_preprocess
from equipoise.engine.vocabulary import UNKNOWN

COLUMN = "predicted_mask"


def encode(codes: Integer[np.ndarray, "*spatial"]) -> str:
    """A mask as text: some kB for a picture of 512 x 512."""
    return json.dumps(masks.encode_labels(codes))


def decode(text: str) -> Integer[np.ndarray, "*spatial"]:
    """The inverse of :func:`encode`."""
    return masks.decode_labels(json.loads(text))


def path(table: pathlib.Path) -> pathlib.Path:
    """Where the masks of a prediction table are kept."""
    return table.with_suffix(".masks.parquet")


def split_off(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """A table without predicted masks, and these with the scans they are of; None where it has none."""
    if COLUMN not in frame:
        return frame, None
    return frame.drop(columns=COLUMN), frame[["scan_id", COLUMN]]


def write(table: pathlib.Path, predicted: pd.DataFrame) -> None:
    """Keeps what :func:`split_off` gave beside its table; the file appears whole or not at all."""
    with files.replacing(path(table)) as temporary:
        predicted.to_parquet(temporary, index=False)


class Predicted(Mapping[str, Integer[np.ndarray, "*spatial"]]):
    """scan_id -> predicted mask on the image's grid, decoded when asked for."""

    def __init__(self, table: pathlib.Path):
        """Opens the masks of a prediction table.

        Raises:
          UserError: where there are none.
        """
        kept = path(pathlib.Path(table))
        if not kept.exists():
            raise UserError(f"no predicted masks {kept}: write them with `equipoise evaluate`")
        self._texts = pd.read_parquet(kept).set_index("scan_id")[COLUMN]

    def __getitem__(self, scan_id: str) -> Integer[np.ndarray, "*spatial"]:
        return decode(self._texts[scan_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts.index)

    def __len__(self) -> int:
        return len(self._texts)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One image of a group with what was predicted, of a volume the plane in which the masks differ most.

    Attributes:
      attribute: that forms the group.
      level: of the group.
      metric: what it was chosen by.
      value: of that.
      image: [h, w, channel] as the model saw it.
      reference: [h, w] codes.
      prediction: [h, w] codes.
    """

    attribute: str
    level: str
    metric: str
    value: float
    image: Float[np.ndarray, "h w c"]
    reference: Integer[np.ndarray, "h w"]
    prediction: Integer[np.ndarray, "h w"]


def worst(
    split: data.Split,
    config: Run,
    frame: pd.DataFrame,
    predicted: Mapping[str, Integer[np.ndarray, "*spatial"]],
    attributes: Sequence[str],
    count: int,
    metric: str = "dice",
) -> list[Case]:
    """The images of every known level with the lowest mean of a metric over structures.

    Args:
      split: that was scored.
      config: of the run.
      frame: its table.
      predicted: scan -> mask.
      attributes: whose levels are the groups.
      count: images of each.
      metric: the higher the better.
    """
    columns = [c for c in frame if segmentation.is_value(c, metric)]
    value = frame[columns].mean(axis=1)
    rows = {scan: row for row, scan in enumerate(split.columns["scan_id"])}
    preprocess, found = jax.jit(make_preprocess(config)), []
    for attribute in attributes:
        for level, inside in value.groupby(frame[attribute]):
            chosen = inside.dropna().nsmallest(count) if level != UNKNOWN else inside[:0]
            for place, number in chosen.items():
                scan = frame["scan_id"][place]
                seen = preprocess(data.read(split, [rows[scan]], config.data, data.MASK))
                planes = _plane(*(np.asarray(seen[k])[0] for k in ("image", "mask")), predicted[scan])
                found.append(Case(attribute, str(level), metric, float(number), *planes))
    return found


def _plane(image: np.ndarray, reference: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, ...]:
    if reference.ndim == 2:
        return image, reference, prediction
    differ = (reference != prediction).sum(axis=tuple(range(1, reference.ndim)))
    return tuple(x[differ.argmax()] for x in (image, reference, prediction))


def note(tolerance: float) -> str:
    """What a reader of a report must know of how masks were compared."""
    return (
        f"Surfaces agree (nsd) within {tolerance:g}; lengths are in mm where the cohort knows its pixels' spacing, else in pixels. "
        "A structure that is in neither mask has no value, and one that either mask lacks has no distance."
    )
