"""What the engine must know of a task; the kinds themselves live in ``tasks/``."""

from typing import Any, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Array

from equipoise.engine import data
from equipoise.engine.metrics.table.table import Schema


class TaskKind(Protocol):
    """What the engine must know of a task; the kinds live in ``tasks/``.

    Attributes:
      num_outputs: of the model.
      classes: names of the classes; empty where the target is a number.
      measures: whether an example's loss in training depends on the whole batch.
    """

    num_outputs: int
    classes: tuple[str, ...]
    measures: bool

    def measure(self, output: Array, batch: dict[str, Array]) -> Any:
        """Sums over the examples of (a part of) a batch that :meth:`loss` needs of the whole one."""

    def loss(self, output: Array, batch: dict[str, Array], whole: Any = None) -> Array:
        """Per-example loss [b] of the model's output.

        Args:
          output: of the model.
          batch: as the model saw it.
          whole: what was measured over the global batch; None in evaluation, where no image's loss depends on others.
        """

    def scores(self, output: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """What leaves the devices of every image [b, ...], from the model's output."""

    def columns(self, scores: dict[str, np.ndarray]) -> pd.DataFrame:
        """What the prediction table says of the images, a row for each."""

    def schema(self, split: data.Split) -> Schema:
        """What a reader must know of the table of a split."""

    def choose_threshold(self, rule: str, validation: pd.DataFrame) -> tuple[float, str]:
        """The operating threshold and the name of the split it was chosen on."""

    def decide(self, frame: pd.DataFrame) -> np.ndarray:
        """The class index that each row of a stamped table is called."""

    def metrics(self, frame: pd.DataFrame) -> dict[str, float]:
        """What training reports of a stamped table."""
