"""Operating thresholds that know the rows they were chosen on, so that nobody reports them on these same rows."""

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
      value: in float64.
      rule: by which it was chosen, of :data:`RULES` with any number.
      split: name of the rows that it was chosen on, or ``"fixed"`` where no rows had a say.
    """

    value: float
    rule: str
    split: str = FIXED

    def call(self, score: Float[np.ndarray, "*n"], split: str) -> Bool[np.ndarray, "*n"]:
        """Which rows of a split are called positive, for reporting; compared in float64.

        Raises:
          UserError: when the threshold was chosen on this split.
        """
        require_other(self.split, split, self.rule)
        return np.asarray(score, np.float64) >= self.value


def require_other(chosen: str, split: str, rule: str, what: str = "a threshold") -> None:
    """Refuses to judge a threshold, or another choice, on the rows that it was made on.

    Args:
      chosen: split that it was made on, or ``"fixed"``.
      split: that is reported.
      rule: of the choice.
      what: was chosen.

    Raises:
      UserError: when the two splits are one.
    """
    if split == chosen != FIXED:
        raise UserError(
            f"{what} chosen on {chosen!r} by {rule} would be judged on the same images; "
            "choose it on another split, or give a number"
        )


def choose(rule: str, truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], split: str) -> Threshold:
    """The threshold that a rule picks among the scores of a split, and above them all.

    Args:
      rule: ``fixed:0.5``; ``youden``, the largest sensitivity + specificity − 1 (Youden, Cancer 1950;3:32); ``max_accuracy``;
        ``sens0.9``, the largest specificity with a sensitivity of at least .9; ``spec0.9``, the reverse. Any number. Of
        equally good thresholds the lowest, which is the most sensitive, is taken.
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
            f"threshold rule {rule!r} needs both classes, but split {split!r} has {len(truth)} images of one"
        )
    cuts, place = np.unique(score, return_inverse=True)
    cuts = np.append(cuts, np.nextafter(cuts[-1], np.inf))  # the last calls nobody positive
    tp, fp = (np.bincount(place[rows], minlength=len(cuts))[::-1].cumsum()[::-1] for rows in (truth, ~truth))
    return Threshold(float(cuts[int(np.argmax(gain(tp, fp, int(tp[0]), int(fp[0]))))]), rule, split)


def _gain(rule: str) -> Gain:
    """What a rule makes largest, of true and false positives among all positives and negatives.

    In whole numbers, so that equally good thresholds are exactly equal.
    """
    if rule == "youden":
        return lambda tp, fp, positives, negatives: tp * negatives - fp * positives
    if rule == "max_accuracy":
        return lambda tp, fp, positives, negatives: tp - fp
    found = _TARGET.fullmatch(rule)
    if not found:
        raise UserError(
            f"no threshold rule {rule!r}.{did_you_mean(rule, RULES)} There are: {', '.join(RULES)}, with any number"
        )
    least = float(found[2]) * (1 - SLACK)
    if not 0 < least < 1:
        raise UserError(f"threshold rule {rule!r}: the number is a share between 0 and 1, such as 0.9")
    if found[1] == "sens":
        return lambda tp, fp, positives, negatives: np.where(tp >= least * positives, negatives - fp, -1)
    return lambda tp, fp, positives, negatives: np.where(negatives - fp >= least * negatives, tp, -1)


def reported(table: Table, split: str, rule: str) -> Table:
    """The rows of one split that a report judges, thresholds set.

    Args:
      table: of all splits.
      split: that is reported.
      rule: a number, or ``RULE:SPLIT`` such as ``youden:val`` or ``sens0.9:val``, chosen on that split for each score column.

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
        note = f"Every case of this table is {schema.label} {only}: what needs both classes, such as the AUROC, is undefined."
        table = dataclasses.replace(table, notes=(note, *table.notes))
    if schema.kind in ("binary", "multilabel"):
        kept = kept.assign(**_thresholds(table, split, rule))
    return dataclasses.replace(table, frame=kept)


def _known(split: str, frame: pd.DataFrame, where: str, remedy: str) -> str:
    splits = sorted(frame["split"].unique())
    if split not in splits:
        raise UserError(
            f"{where}: no row of split {split!r}.{did_you_mean(split, splits)} There are: {', '.join(splits[:20])}; {remedy}"
        )
    return split


def _thresholds(table: Table, split: str, rule: str) -> dict[str, float | str]:
    """Columns of the prediction table that hold the thresholds for reporting a split."""
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
    found: dict[str, float | str] = {}
    for model, used in schema.models.items():
        columns = tuning.columns(model)
        truths = np.atleast_2d(columns["truth"].T)
        for column, truth in zip(used, truths, strict=True):
            found[f"threshold:{column}"] = choose(kind, truth, tuning.frame[column].to_numpy(), chosen).value
    first = schema.models[table.models[0]][0]
    return found | {"threshold": found[f"threshold:{first}"], "threshold_split": chosen}
