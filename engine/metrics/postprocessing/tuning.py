"""What may be done to a model's scores after training: chosen on one split, judged on another.

A choice (:mod:`equipoise.engine.metrics.postprocessing.recalibration`, :mod:`equipoise.engine.metrics.postprocessing.parity`) is made on a table of the validation split and carries that
split's name. Applied to a table of another split it gives the same table with one more model, so that
:func:`equipoise.engine.metrics.frames.frame.evaluate_models` judges before and after from the same resamples.
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
LEAST = 20  # positives, and negatives, that a group needs for a choice of its own


@dataclasses.dataclass(frozen=True)
class TuningRows:
    """Scores on which a choice is made.

    Attributes:
      truth: whether each image is positive.
      score: probability of the positive class.
      split: name of these images.
      level: of each image; ``everyone`` without an attribute.
      levels: of the attribute that has images here, people of unknown group aside.
    """

    truth: Bool[np.ndarray, " n"] = dataclasses.field(repr=False)
    score: Float[np.ndarray, " n"] = dataclasses.field(repr=False)
    split: str
    level: np.ndarray = dataclasses.field(repr=False)
    levels: tuple[str, ...]

    def groups(self, least: int) -> tuple[dict[str, Bool[np.ndarray, " n"]], dict[str, str]]:
        """(level -> its images, level -> why it has no choice of its own and takes that of everyone)."""
        found, fallbacks = {}, {}
        for level in self.levels:
            rows = self.level == level
            positives = int(self.truth[rows].sum())
            negatives = int(rows.sum()) - positives
            if min(positives, negatives) < least:
                fallbacks[level] = (
                    f"{positives} positives and {negatives} negatives on {self.split!r}; {least} of each are needed"
                )
            else:
                found[level] = rows
        return found, fallbacks


def tuning_rows(table: Table, by: str | None, model: str | None) -> TuningRows:
    """The rows of one split that a choice is made on.

    Args:
      table: of one split, binary.
      by: attribute or intersection whose groups have choices of their own, or None.
      model: whose scores; by default the table's first.

    Raises:
      UserError: for a table of another task or of several splits, a missing score, or a single class.
    """
    schema = table.schema
    if schema.kind != "binary":
        raise UserError(f"scores of a {schema.kind} table are not post-processed: give a binary one")
    splits = sorted(table.frame["split"].unique())
    if len(splits) != 1:
        raise UserError(f"a choice is made on one split, and the table has: {', '.join(splits) or 'no row'}")
    columns = table.columns(model)
    missing = int((~np.isfinite(columns["score"])).sum())
    if missing:
        raise UserError(
            f"{missing} images of split {splits[0]!r} have no score: score them, or remove them knowingly"
        )
    truth = columns["truth"]
    if truth.all() or not truth.any():
        raise UserError(f"split {splits[0]!r} has {len(truth)} images of one class: a choice needs both")
    level, levels = group_of_rows(table, by)
    return TuningRows(truth, columns["score"], splits[0], level, levels)


def group_of_rows(table: Table, by: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """([n] level of each image, known levels that have images)."""
    if by is None:
        return np.full(len(table.frame), EVERYONE), ()
    grouping = groupings.grouping(table.frame, table.schema, by, ())
    known = tuple(grouping.levels[i] for i in grouping.compared.get("", ()) if grouping.filled[i])
    return np.array(grouping.levels, dtype=object)[grouping.code], known


def extended(
    table: Table, model: str | None, suffix: str, score: np.ndarray, threshold: np.ndarray, chosen: str, notes: Sequence[str]
) -> Table:  # fmt: skip
    """The table with one more model.

    Args:
      table: of a split that nothing was chosen on.
      model: that was post-processed; by default the table's first.
      suffix: names the new model, ``MODEL+SUFFIX``.
      score: [n] of the new model.
      threshold: [n] of the new model.
      chosen: split that it was chosen on.
      notes: for the report.

    Raises:
      UserError: when the table has such a model, or rows of the split that the choice was made on.
    """
    base = table.models[0] if model is None else model
    name = f"{base}+{suffix}"
    for split in table.frame["split"].unique():
        require_other(chosen, split, suffix, "a post-processing")
    schema, column = table.schema, f"{table.schema.models[base][0]}+{suffix}"
    if name in schema.models or column in table.frame:
        raise UserError(f"the table has a model {name!r} already: give another name")
    splits = table.frame["threshold_split"].map(
        lambda own: chosen if own in (FIXED, chosen) else f"{own}, {chosen}"
    )
    frame = table.frame.assign(**{column: score, f"threshold:{column}": threshold, "threshold_split": splits})
    models: Mapping[str, tuple[str, ...]] = {**schema.models, name: (column,)}
    schema = dataclasses.replace(schema, scores=(*schema.scores, column), models=models)
    return Table(frame, schema, (*table.notes, *notes))


def strangers(
    levels: Sequence[str], known: Mapping[str, object], fallbacks: Mapping[str, str], split: str
) -> list[str]:
    """Sentences on the levels that have no choice of their own."""
    found = dict(fallbacks) | {
        k: f"no image on {split!r}" for k in levels if k not in known and k not in fallbacks
    }
    return [
        f"{level} takes the choice of everyone ({why})." for level, why in found.items() if level != UNKNOWN
    ]
