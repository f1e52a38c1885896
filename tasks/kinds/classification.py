"""Classification: one of several exclusive classes per image, by softmax and cross-entropy."""

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np
import pandas as pd
from jaxtyping import Array, Float

from equipoise.engine import data
from equipoise.engine.config import Data, Run
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.table import thresholds
from equipoise.engine.metrics.table.table import Schema
from equipoise.engine.update import losses


@dataclasses.dataclass(frozen=True)
class Classification:
    """A classification task on one label of a cohort.

    Attributes:
      label: the label's name.
      classes: its levels, in the cohort's order.
      positive: the class whose probability is the score of a binary task; None with more than two classes.
      needs_batch_sums: no: each example has a loss of its own.
    """

    label: str
    classes: tuple[str, ...]
    positive: str | None
    needs_batch_sums: ClassVar[bool] = False

    @property
    def num_outputs(self) -> int:
        """One logit per class."""
        return len(self.classes)

    @property
    def score_columns(self) -> tuple[str, ...]:
        """The columns of the prediction table that hold scores."""
        return ("score",) if self.positive else tuple(f"score_{i}" for i in range(len(self.classes)))

    def batch_sums(self, output: Float[Array, "b k"], batch: dict[str, Array]) -> tuple[()]:
        """Nothing: every example has a loss of its own."""
        return ()

    def loss(
        self, output: Float[Array, "b k"], batch: dict[str, Array], sums: Any = None
    ) -> Float[Array, " b"]:
        """Cross-entropy of each example."""
        return losses.softmax_cross_entropy(output, batch["target"])

    def scores(self, output: Float[Array, "b k"], batch: dict[str, Array]) -> dict[str, Array]:
        """``score``: the positive class's probability [b], or every class's [b, k]."""
        probabilities = jax.nn.softmax(output)
        return {
            "score": probabilities[:, self.classes.index(self.positive)] if self.positive else probabilities
        }

    def columns(self, scores: dict[str, np.ndarray]) -> pd.DataFrame:
        """One column, or one for each class, in float64."""
        score = scores["score"].astype(np.float64)
        return pd.DataFrame(score.reshape(len(score), -1), columns=list(self.score_columns))

    def target(self, split: data.Split) -> np.ndarray:
        """[n] the class index of every image."""
        return split.target(self.label)

    def warn(self, split: data.Split, settings: Data) -> None:
        """Says nothing: every image is learnt and scored."""

    def schema(self, split: data.Split) -> Schema:
        """The schema of this task, with the attributes of the split."""
        return Schema(
            task="classification",
            label=self.label,
            classes=self.classes,
            positive=self.positive,
            attributes=split.vocabulary("attributes"),
            scores=self.score_columns,
        )

    def choose_threshold(self, rule: str, validation: pd.DataFrame) -> tuple[float, str]:
        """The operating threshold and the split it was chosen on; NaN with more than two classes, where argmax decides."""
        if not self.positive:
            return float("nan"), "argmax"
        chosen = thresholds.choose(rule, self.outcome(validation), validation["score"], "validation")
        return chosen.value, chosen.split

    def outcome(self, frame: pd.DataFrame) -> np.ndarray:
        """Whether each row's target is the positive class."""
        return frame["target"].to_numpy() == self.classes.index(self.positive)

    def decide(self, frame: pd.DataFrame) -> np.ndarray:
        """The class index that each row of a stamped table is called."""
        if not self.positive:
            return frame[list(self.score_columns)].to_numpy().argmax(1)
        positive = self.classes.index(self.positive)
        return np.where(frame["score"] >= frame["threshold"], positive, 1 - positive)

    def metrics(self, frame: pd.DataFrame) -> dict[str, float]:
        """What training reports of the validation split."""
        if not self.positive:
            return {"accuracy": float((self.decide(frame) == frame["target"]).mean())}
        score = frame["score"].to_numpy(np.float64)
        columns = {
            "truth": self.outcome(frame),
            "score": score,
            "called": score >= frame["threshold"].to_numpy(),
        }
        names = ("auroc", "accuracy", "sensitivity", "specificity")
        return {name: registry.compute(name, columns) for name in names}


def make(config: Run, split: data.Split) -> Classification:
    """The task that a configuration asks of a cohort.

    Raises:
      UserError: when the label is a number or does not exist.
    """
    data.check_label(split, config.task.label)
    classes = split.vocabulary("labels")[config.task.label]
    if classes is None:
        raise UserError(
            f"label {config.task.label!r} of {split.cohort!r} is a number: classification needs classes"
        )
    positive = split.metadata.get("positive", {}).get(config.task.label)
    if len(classes) == 2 and positive is None:
        positive = classes[1]
    return Classification(config.task.label, tuple(classes), positive if len(classes) == 2 else None)
