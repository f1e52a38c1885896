"""The images whose masks a model predicts worst, group by group."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float, Integer

from equipoise.engine import data
from equipoise.engine.config import Run
from equipoise.engine.metrics.formulas import segmentation
from equipoise.engine.update.preprocess import make_preprocess
from equipoise.engine.vocabulary import UNKNOWN


@dataclasses.dataclass(frozen=True, eq=False)
class WorstCase:
    """One image of a group with the predicted mask; of a volume, the plane in which the masks differ most.

    Attributes:
      attribute: that forms the group.
      level: of the group.
      metric: that the image was chosen by.
      value: of the metric.
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


def find(
    split: data.Split,
    config: Run,
    frame: pd.DataFrame,
    predicted: Mapping[str, Integer[np.ndarray, "*spatial"]],
    attributes: Sequence[str],
    count: int,
    metric: str = "dice",
) -> list[WorstCase]:
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
    preprocess, cases = jax.jit(make_preprocess(config)), []
    for attribute in attributes:
        for level, inside in value.groupby(frame[attribute]):
            chosen = inside.dropna().nsmallest(count) if level != UNKNOWN else inside[:0]
            for place, number in chosen.items():
                scan = frame["scan_id"][place]
                seen = preprocess(data.read(split, [rows[scan]], config.data, data.MASK))
                planes = _plane(*(np.asarray(seen[k])[0] for k in ("image", "mask")), predicted[scan])
                cases.append(WorstCase(attribute, str(level), metric, float(number), *planes))
    return cases


def _plane(image: np.ndarray, reference: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, ...]:
    """The plane of a volume in which the masks differ most; a picture as it is."""
    if reference.ndim == 2:
        return image, reference, prediction
    differ = (reference != prediction).sum(axis=tuple(range(1, reference.ndim)))
    return tuple(x[differ.argmax()] for x in (image, reference, prediction))
