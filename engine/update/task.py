"""What the engine must know of a task; the kinds of tasks live in ``tasks/kinds``."""

from typing import Any, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Array

from equipoise.engine import data
from equipoise.engine.config import Data
from equipoise.engine.metrics.table.table import Schema


class TaskKind(Protocol):
    """A task: what is predicted of an image, how the prediction is judged, and what the prediction table says of it.

    Every kind has every member.

    Attributes:
      num_outputs: channels of the model's output.
      classes: names of the classes; empty where the target is a number.
      needs_batch_sums: whether an example's loss in training depends on the whole batch.
    """

    num_outputs: int
    classes: tuple[str, ...]
    needs_batch_sums: bool

    def batch_sums(self, output: Array, batch: dict[str, Array]) -> Any:
        """Sums over the examples of (a part of) a batch that :meth:`loss` needs over the whole batch."""

    def loss(self, output: Array, batch: dict[str, Array], sums: Any = None) -> Array:
        """The loss of every example, [b].

        Args:
          output: the model's output.
          batch: the batch as the model saw it.
          sums: what :meth:`batch_sums` gives, over the global batch; None in evaluation, where no image's loss depends on others.
        """

    def scores(self, output: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """What leaves the devices for every image, [b, ...] each: made from the model's output."""

    def columns(self, scores: dict[str, np.ndarray]) -> pd.DataFrame:
        """The columns of the prediction table that hold the scores, one row per image."""

    def target(self, split: data.Split) -> np.ndarray | None:
        """[n] the column ``target`` of the prediction table: a class index or a number; None where no column can hold it."""

    def warn(self, split: data.Split, settings: Data) -> None:
        """Logs what of a split can be neither learnt nor scored under these settings, if anything."""

    def schema(self, split: data.Split) -> Schema:
        """What a reader of the prediction table of a split must know."""

    def choose_threshold(self, rule: str, validation: pd.DataFrame) -> tuple[float, str]:
        """The operating threshold, and the name of the split that it was chosen on."""

    def metrics(self, frame: pd.DataFrame) -> dict[str, float]:
        """What training reports of a stamped prediction table, by name."""
