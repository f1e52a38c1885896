"""Operating thresholds that remember the rows they were chosen on, so that nobody reports them on the same rows."""

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.formulas.classification import SLACK
from equipoise.engine.metrics.table.table import Table

FIXED = "fixed"
RULES = ("fixed:0.5", "youden", "max_accuracy", "sens0.9", "spec0.9")
_TARGET = re.compile(r"(sens|spec)(\d*\.?\d+)")

Counts = Int[np.ndarray, " cuts"]
Gain = Callable[[Counts, Counts, int, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A score at or above ``value`` is called positive.

    Attributes:
      value: the threshold, in float64.
      rule: rule by which it was chosen: one of :data:`RULES`, with any number.
      split: name of the split that it was chosen on, or ``"fixed"`` if it was given as a number.
    """

    value: float
    rule: str
    split: str = FIXED

    def call(self, score: Float[np.ndarray, "*n"], split: str) -> Bool[np.ndarray, "*n"]:
        """Returns which rows of a split are called positive, for a report; scores are compared in float64.

        Raises:
          UserError: if the threshold was chosen on this split.
        """
        require_other(self.split, split, self.rule)
        return np.asarray(score, np.float64) >= self.value


def require_other(chosen: str, split: str, rule: str, what: str = "a threshold") -> None:
    """Refuses to judge a threshold, or another choice, on the rows that it was made on.

    Args:
      chosen: name of the split that the choice was made on, or ``"fixed"``.
      split: name of the split that is reported.
      rule: rule of the choice.
      what: name of what was chosen, for the message.

    Raises:
      UserError: if the two splits are the same.
    """
    if split == chosen != FIXED:
        raise UserError(
            f"{what} chosen on {chosen!r} by {rule} would be judged on the same images; "
            "choose it on another split, or give a number"
        )


def choose(rule: str, truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], split: str) -> Threshold:
    """Chooses a threshold by a rule, among the scores of a split and a value above all of them.

    Of equally good thresholds the lowest is taken, which is the most sensitive.

    Args:
      rule: ``fixed:0.5``; ``youden``, the largest sensitivity + specificity − 1 (Youden, Cancer 1950;3:32); ``max_accuracy``;
        ``sens0.9``, the largest specificity with a sensitivity of at least .9; or ``spec0.9``, the largest sensitivity with a
        specificity of at least .9. Other numbers may be given.
      truth: whether each image of the split is positive.
      score: probability of the positive class.
      split: name of the split.

    Raises:
      UserError: for an unknown rule, or a split without both classes.
    """
    kind, _, value = rule.partition(":")
    if kind == FIXED:
        try:
            return Threshold(float(value), rule)
        except ValueError as error:
            raise UserError(f"threshold rule {rule!r}: write fixed:NUMBER, such as fixed:0.5") from error
    gain = _gain(rule)
    truth, score = np.asarray(truth, bool), np.asarray(score, np.float64)
    if truth.all() or not truth.any():
        raise UserError(
            f"threshold rule {rule!r} needs both classes, but all {len(truth)} images of split {split!r} are of one class"
        )
    cuts, place = np.unique(score, return_inverse=True)
    cuts = np.append(cuts, np.nextafter(cuts[-1], np.inf))  # the last calls nobody positive
    tp, fp = (np.bincount(place[rows], minlength=len(cuts))[::-1].cumsum()[::-1] for rows in (truth, ~truth))
    return Threshold(float(cuts[int(np.argmax(gain(tp, fp, int(tp[0]), int(fp[0]))))]), rule, split)


def _gain(rule: str) -> Gain:
    """Returns the function that a rule makes largest: (true positives, false positives, all positives, all negatives) -> gain.

    It is computed in whole numbers, so that equally good thresholds are exactly equal.
    """
    if rule == "youden":
        return lambda tp, fp, positives, negatives: tp * negatives - fp * positives
    if rule == "max_accuracy":
        return lambda tp, fp, positives, negatives: tp - fp
    match = _TARGET.fullmatch(rule)
    if not match:
        raise UserError(
            f"no threshold rule {rule!r}.{did_you_mean(rule, RULES)} There are: {', '.join(RULES)}, with any number"
        )
    least = float(match[2]) * (1 - SLACK)
    if not 0 < least < 1:
        raise UserError(f"threshold rule {rule!r}: the number must be between 0 and 1, such as 0.9")
    if match[1] == "sens":
        return lambda tp, fp, positives, negatives: np.where(tp >= least * positives, negatives - fp, -1)
    return lambda tp, fp, positives, negatives: np.where(negatives - fp >= least * negatives, tp, -1)


def reported(table: Table, split: str, rule: str) -> Table:
    """Returns the rows of the split that a report judges, with their thresholds.

    Args:
      table: predictions of all splits.
      split: name of the split that is reported.
      rule: a number, or ``RULE:SPLIT`` such as ``youden:val`` or ``sens0.9:val``. The threshold of each score column is then chosen
        on that split.

    Raises:
      UserError: for an unknown split or rule, a threshold chosen on the split that is reported, or one that cannot be chosen.
    """
    frame, schema = table.frame, table.schema
    rows = frame["split"] == _known(
        split, frame, f"{frame['cohort'].iloc[0]}", "say which to report with --report_split"
    )
    kept = frame[rows.to_numpy()].reset_index(drop=True)
    if schema.kind == "binary" and kept["target"].nunique() == 1:
        only = schema.classes[int(kept["target"].iloc[0])]
        note = f"Every case of this table is {schema.label} {only}. Metrics that need both classes, such as the AUROC, are undefined."
        table = dataclasses.replace(table, notes=(note, *table.notes))
    if schema.kind in ("binary", "multilabel"):
        kept = kept.assign(**_thresholds(table, split, rule))
    return dataclasses.replace(table, frame=kept)


def _known(split: str, frame: pd.DataFrame, where: str, remedy: str) -> str:
    """Returns the split, or raises a UserError if no row is of it."""
    splits = sorted(frame["split"].unique())
    if split not in splits:
        raise UserError(
            f"{where}: no row of split {split!r}.{did_you_mean(split, splits)} There are: {', '.join(splits[:20])}; {remedy}"
        )
    return split


def _thresholds(table: Table, split: str, rule: str) -> dict[str, float | str]:
    """Returns the columns of the prediction table that hold the thresholds for reporting a split."""
    where = f"--threshold={rule}"
    try:
        return {"threshold": float(rule), "threshold_split": FIXED}
    except ValueError:
        kind, _, chosen = rule.partition(":")
    if not chosen:
        raise UserError(f"{where}: give a number, or RULE:SPLIT such as youden:val")
    require_other(chosen, split, kind)
    schema = table.schema
    rows = table.frame["split"] == _known(chosen, table.frame, where, "name the column with --split")
    tuning = Table(table.frame[rows].reset_index(drop=True), schema)
    chosen_columns: dict[str, float | str] = {}
    for model, used in schema.models.items():
        columns = tuning.columns(model)
        truths = np.atleast_2d(columns["truth"].T)
        for column, truth in zip(used, truths, strict=True):
            chosen_columns[f"threshold:{column}"] = choose(
                kind, truth, tuning.frame[column].to_numpy(), chosen
            ).value
    first = schema.models[table.models[0]][0]
    return chosen_columns | {"threshold": chosen_columns[f"threshold:{first}"], "threshold_split": chosen}
