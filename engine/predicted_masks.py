"""Masks of a split: those predicted, kept beside the table of their values, and what a crop takes from the references."""

import concurrent.futures
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from absl import logging
from jaxtyping import Float, Integer

from equipoise.engine import data, files, mesh
from equipoise.engine.config import Data, Run
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import segmentation
from equipoise.engine.transforms import masks, spatial
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


def count_cut(split: data.Split, shape: tuple[int, ...], threads: int = 2) -> tuple[int, int]:
    """How many images of a split lose foreground to a centre crop, and how many of them all of it."""
    source = split.builder.as_data_source(split=split.name, decoders={"image": tfds.decode.SkipDecoding()})

    def one(row: int) -> tuple[bool, bool]:
        mask = source[row]["mask"]
        before, after = (np.count_nonzero(m) for m in (mask, spatial.crop_or_pad(mask, shape)))
        return after < before, bool(before) and not after

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        cut = np.array(list(pool.map(one, range(len(split)))))
    return int(cut[:, 0].sum()), int(cut[:, 1].sum())


def warn_of_cut(split: data.Split, config: Data) -> None:
    """Says how many images of a split lose foreground to ``data.shape``; reads masks only where some may."""
    stored = split.image_shape[:-1]
    if not config.shape or all(n is not None and n <= m for n, m in zip(stored, config.shape, strict=False)):
        return
    if mesh.is_main():
        some, every = count_cut(split, config.shape, config.num_threads)
        if some:
            logging.warning(
                "--config.data.shape=%s cuts foreground away in %d of %d images of %s %s, all of it in %d: what is cut is "
                "neither learnt nor scored; a larger shape keeps it",
                tuple(config.shape), some, len(split), split.cohort, split.name, every,
            )  # fmt: skip
