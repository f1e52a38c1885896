"""The same subjects twice: two prediction tables of them that differ in a rendering, a degradation or a scanner, and in nothing else."""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.estimates.intervals import PairedChange
from equipoise.engine.report.page import Cell, interval, number, text_cell


def side_by_side(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    attributes: Collection[str] = (),
    flips: Collection[str] = (),
    levels: tuple[str, str] = ("with", "without"),
) -> pd.DataFrame:
    """Puts two tables side by side, one row for each subject, once they are found to hold the same subjects.

    Args:
      a: predictions, one image of each subject.
      b: predictions for other images of the same subjects.
      attributes: columns that both tables must have, and that agree between them unless they are flipped.
      flips: those of the attributes that each subject has the other way round in the second table.
      levels: the two levels of a flipped attribute.

    Returns:
      ``subject_id``, and every other column of both tables with the endings ``_a`` and ``_b``.

    Raises:
      UserError: where the tables do not hold the same subjects once each with the same target, where an attribute differs that
        should not, or where one is not flipped that should be.
    """
    names = tuple(", ".join(map(str, table["cohort"].unique())) for table in (a, b))
    for name, table in zip(names, (a, b), strict=True):
        for column in attributes:
            if column not in table:
                raise UserError(
                    f"{name} has no column {column!r}: it does not show the other's subjects in another way"
                )
        twice = int(table["subject_id"].duplicated().sum())
        if twice:
            raise UserError(
                f"{name}: column 'subject_id' repeats in {twice} rows; the paired effect needs one image per subject"
            )
    pair = a.merge(b, on="subject_id", suffixes=("_a", "_b"), validate="one_to_one")
    where = f"between {names[0]} and {names[1]}"
    if not len(pair) == len(a) == len(b):
        raise UserError(
            f"only {len(pair)} subjects are in both {names[0]} ({len(a)}) and {names[1]} ({len(b)}): "
            "evaluate the counterfactual of the same cohort and split"
        )
    differ = pair["target_a"] != pair["target_b"]
    if differ.any():
        raise UserError(f"column 'target' differs {where} for {int(differ.sum())} subjects")
    for column in attributes:
        before, after = pair[f"{column}_a"], pair[f"{column}_b"]
        if column in flips:
            first, second = levels
            is_flipped = (before + "/" + after).isin([f"{first}/{second}", f"{second}/{first}"])
            wrong, problem = ~is_flipped, "is not flipped"
        else:
            wrong, problem = before != after, "differs"
        if wrong.any():
            raise UserError(f"column {column!r} {problem} {where} for {int(wrong.sum())} subjects")
    return pair


def decisions(pair: pd.DataFrame) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Whether each subject of :func:`side_by_side` is called positive in the first table, and in the second."""
    first, second = ((pair[f"score_{end}"] >= pair[f"threshold_{end}"]).to_numpy() for end in ("a", "b"))
    return first, second


@dataclasses.dataclass(frozen=True)
class PairedEffect:
    """What a second way to show subjects does to the decisions about them (second minus first)."""

    sensitivity: PairedChange
    fpr: PairedChange

    @property
    def changes(self) -> dict[str, PairedChange]:
        """Rate, in words -> its change."""
        return {
            "sensitivity, diseased subjects": self.sensitivity,
            "false-positive rate, healthy subjects": self.fpr,
        }


def effect(
    first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"], diseased: Bool[np.ndarray, " n"]
) -> PairedEffect:
    """The changes of both rates.

    Args:
      first: whether each subject is called diseased when it is shown one way.
      second: the same, shown the other way.
      diseased: whether it is.
    """
    return PairedEffect(
        *(intervals.paired_change(first[rows], second[rows]) for rows in (diseased, ~diseased))
    )


def direction(change: PairedChange) -> int:
    """1 or −1 where the interval leaves 0 out, else 0."""
    return int(change.low > 0) - int(change.high < 0)


def points(change: PairedChange) -> str:
    """A change in percentage points, with its 95 % interval."""
    limits = interval(100 * change.low, 100 * change.high, 1, True)
    return f"{number(100 * change.value, 1, True)} points (95\u00a0% interval\u00a0{limits})"


def header(rate: str, subjects: str, ends: Sequence[str]) -> tuple[str, ...]:
    """The header over rows of :func:`cells`; ``ends`` names the two ways."""
    return rate, subjects, *ends, "change, 95 % interval", "negative → positive", "positive → negative"


def cells(rate: str, change: PairedChange) -> list[Cell]:
    """A row for one rate: subjects, the rate shown either way, the change with its interval, and how many decisions changed."""
    moved = Cell(number(change.value, 3, True), note=interval(change.low, change.high, 3, True))
    counts = (Cell(str(change.gained)), Cell(str(change.lost)))
    return [text_cell(rate), Cell(str(change.n)), Cell(number(change.first)), Cell(number(change.second)), moved, *counts]  # fmt: skip
