"""What all changes of scores after training share: the rows that a choice is made on, and the table with one more model.

A choice (:mod:`equipoise.engine.metrics.postprocessing.recalibration`, :mod:`equipoise.engine.metrics.postprocessing.parity`) is made on
a table of the validation split and carries the name of that split. Applied to a table of another split it returns the same table with
one more model, so that :func:`equipoise.engine.metrics.frames.frame.evaluate_models` judges both models from the same resamples.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.table import groupings
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.metrics.table.thresholds import FIXED, require_other
from equipoise.engine.vocabulary import UNKNOWN

EVERYONE = "everyone"
LEAST = 20  # a group needs this many positives and this many negatives for a choice of its own


@dataclasses.dataclass(frozen=True)
class TuningRows:
    """The rows that a choice is made on.

    Attributes:
      truth: whether each image is positive.
      score: probability of the positive class.
      split: name of the split that the images are from.
      level: level of each image; ``everyone`` without an attribute.
      levels: known levels of the attribute that have images here.
    """

    truth: Bool[np.ndarray, " n"] = dataclasses.field(repr=False)
    score: Float[np.ndarray, " n"] = dataclasses.field(repr=False)
    split: str
    level: np.ndarray = dataclasses.field(repr=False)
    levels: tuple[str, ...]

    def groups(self, least: int) -> tuple[dict[str, Bool[np.ndarray, " n"]], dict[str, str]]:
        """Returns (level -> its images, level -> why it takes the choice of everyone instead of its own).

        Args:
          least: number of positives, and of negatives, that a group needs for a choice of its own.
        """
        large_enough, fallbacks = {}, {}
        for level in self.levels:
            rows = self.level == level
            positives = int(self.truth[rows].sum())
            negatives = int(rows.sum()) - positives
            if min(positives, negatives) < least:
                fallbacks[level] = (
                    f"{positives} positives and {negatives} negatives on {self.split!r}; {least} of each are needed"
                )
            else:
                large_enough[level] = rows
        return large_enough, fallbacks


def tuning_rows(table: Table, by: str | None, model: str | None) -> TuningRows:
    """Returns the rows that a choice is made on.

    Args:
      table: predictions of one split and of a binary task.
      by: attribute or intersection whose groups have choices of their own, or None.
      model: name of the model; by default the first of the table.

    Raises:
      UserError: for a table of another task or of several splits, a missing score, or a single class.
    """
    schema = table.schema
    if schema.kind != "binary":
        raise UserError(
            f"this table has a {schema.kind} task, but only scores of a binary task can be post-processed"
        )
    splits = sorted(table.frame["split"].unique())
    if len(splits) != 1:
        raise UserError(
            f"a choice is made on one split, but the table has rows of: {', '.join(splits) or 'no split'}"
        )
    columns = table.columns(model)
    missing = int((~np.isfinite(columns["score"])).sum())
    if missing:
        raise UserError(
            f"{missing} images of split {splits[0]!r} have no score: score them, or remove them knowingly"
        )
    truth = columns["truth"]
    if truth.all() or not truth.any():
        raise UserError(
            f"all {len(truth)} images of split {splits[0]!r} are of one class, but a choice needs both classes"
        )
    level, levels = group_of_rows(table, by)
    return TuningRows(truth, columns["score"], splits[0], level, levels)


def group_of_rows(table: Table, by: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns ([n] level of each image, known levels that have images)."""
    if by is None:
        return np.full(len(table.frame), EVERYONE), ()
    grouping = groupings.grouping(table.frame, table.schema, by, ())
    known = tuple(grouping.levels[i] for i in grouping.compared.get("", ()) if grouping.filled[i])
    return np.array(grouping.levels, dtype=object)[grouping.code], known


def extended(
    table: Table, model: str | None, suffix: str, score: np.ndarray, threshold: np.ndarray, chosen: str, notes: Sequence[str]
) -> Table:  # fmt: skip
    """Returns the table with one more model.

    Args:
      table: predictions of a split that the choice was not made on.
      model: name of the model that was post-processed; by default the first of the table.
      suffix: end of the new model's name, ``MODEL+SUFFIX``.
      score: [n] scores of the new model.
      threshold: [n] thresholds of the new model.
      chosen: name of the split that the choice was made on.
      notes: sentences for the reader of a report.

    Raises:
      UserError: if the table has such a model already, or rows of the split that the choice was made on.
    """
    base = table.models[0] if model is None else model
    name = f"{base}+{suffix}"
    for split in table.frame["split"].unique():
        require_other(chosen, split, suffix, "a post-processing")
    schema, column = table.schema, f"{table.schema.models[base][0]}+{suffix}"
    if name in schema.models or column in table.frame:
        raise UserError(f"the table has a model {name!r} already: give another name")
    splits = table.frame["threshold_split"].map(
        lambda before: chosen if before in (FIXED, chosen) else f"{before}, {chosen}"
    )
    frame = table.frame.assign(**{column: score, f"threshold:{column}": threshold, "threshold_split": splits})
    models: Mapping[str, tuple[str, ...]] = {**schema.models, name: (column,)}
    schema = dataclasses.replace(schema, scores=(*schema.scores, column), models=models)
    return Table(frame, schema, (*table.notes, *notes))


def notes_on_fallbacks(
    levels: Sequence[str], known: Mapping[str, object], fallbacks: Mapping[str, str], split: str
) -> list[str]:
    """Returns a sentence for each known level that has no choice of its own.

    Args:
      levels: levels of the table that the choice is applied to.
      known: levels that have a choice of their own.
      fallbacks: level -> why it has none.
      split: name of the split that the choice was made on.
    """
    reasons = dict(fallbacks)
    reasons |= {
        level: f"no image on {split!r}" for level in levels if level not in known and level not in fallbacks
    }
    return [
        f"{level} takes the choice of everyone ({why})." for level, why in reasons.items() if level != UNKNOWN
    ]
