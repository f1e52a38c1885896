"""Choosing among models and checkpoints from stored validation predictions: no rule needs another training.

Rules: the best overall; the best worst group; the nearest to a utopia point (DTO); and the Pareto fronts, which leave the choice open.
What was chosen on a split is not to be judged on it, and the best of many reads better there than it is.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from equipoise.engine import config
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import fairness
from equipoise.engine.metrics.frames import ranking
from equipoise.engine.metrics.table.table import Table, read_table
from equipoise.engine.metrics.table.thresholds import require_other


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model or checkpoint.

    Attributes:
      name: such as ``runs/erm/00000400``.
      table: its predictions of the split that is selected on.
      split: name of that split.
    """

    name: str
    table: Table
    split: str


@dataclasses.dataclass(frozen=True)
class Choice:
    """What one rule picks.

    Attributes:
      rule: in words.
      names: the candidate; of a Pareto front all that are on it. None where the rule has no value for any candidate.
    """

    rule: str
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Candidates and what each rule picks.

    Attributes:
      scores: one line per candidate: ``overall``, one column ``ATTRIBUTE=LEVEL`` per group, ``worst_group``, ``gap`` (largest − smallest
        of the groups) and, with a utopia point, ``dto``.
      choices: ``overall``, ``worst_group``, ``pareto_worst_group``, ``pareto_gap`` and, with a utopia point, ``dto``. Of equals the first given.
      metric: of the registry.
      attribute: whose groups.
      split: that was selected on.
    """

    scores: pd.DataFrame
    choices: dict[str, Choice]
    metric: str
    attribute: str
    split: str

    def require_other(self, split: str) -> None:
        """Refuses to judge the choice on the rows it was made on.

        Raises:
          UserError: when this is the split that was selected on.
        """
        require_other(self.split, split, f"best {self.metric}", "a model")


def checkpoints(runs: Iterable[pathlib.Path]) -> list[Candidate]:
    """The validation predictions that training kept at every evaluation: ``RUN/validation/STEP.parquet``, named ``RUN/STEP``.

    A step that is chosen may have no checkpoint any more: a run keeps the newest few and the best by its own metric.

    Args:
      runs: folders of runs.

    Raises:
      UserError: for a folder without a run or without predictions.
    """
    found = []
    for run in map(pathlib.Path, runs):
        split = config.load(run).data.validation_split
        paths = sorted((run / "validation").glob("*.parquet"))
        if not paths:
            raise UserError(f"{run} has no validation predictions: training writes them at every evaluation")
        found += [Candidate(f"{run.name}/{path.stem}", read_table(path), split) for path in paths]
    return found


def models(table: Table, split: str) -> list[Candidate]:
    """The models of one table.

    Args:
      table: of one split.
      split: its name.
    """
    schema = table.schema
    return [
        Candidate(
            name,
            dataclasses.replace(table, schema=dataclasses.replace(schema, models={name: columns})),
            split,
        )
        for name, columns in schema.models.items()
    ]


def select(
    candidates: Sequence[Candidate], metric: str, attribute: str, utopia: Mapping[str, float] | None = None
) -> Selection:
    """Scores candidates and applies every rule.

    Args:
      candidates: with predictions of the same images.
      metric: of the registry; of one with an ideal value the nearest to it is best.
      attribute: whose groups; people of unknown group are left out of them.
      utopia: level -> best value, for the DTO; there is none by default.

    Raises:
      UserError: for candidates of different images or splits, of a test split, of equal names, or a utopia point that lacks a group.
    """
    candidates = list(candidates)
    split = _split(candidates)
    rows, groups = [], []
    for one in candidates:
        overall = ranking.select_value(one.table.frame, metric, one.table.schema)[0]
        groups.append(ranking.group_values(one.table.frame, metric, attribute, one.table.schema))
        known = list(groups[-1].values())
        worst = min(known, key=lambda v: ranking.goodness(metric, v), default=math.nan)
        row = {"overall": overall} | {f"{attribute}={level}": v for level, v in groups[-1].items()}
        row |= {"worst_group": worst, "gap": max(known) - min(known) if len(known) > 1 else math.nan}
        if utopia is not None:
            row["dto"] = fairness.distance_to_utopia(groups[-1], utopia)
        rows.append(row)
    scores = pd.DataFrame(rows, index=pd.Index([one.name for one in candidates], name="candidate"))
    overall, worst = (
        scores[name].map(lambda v: ranking.goodness(metric, v)) for name in ("overall", "worst_group")
    )
    choices = {
        "overall": Choice(f"the best {metric} of everyone", _best(overall)),
        "worst_group": Choice(f"the best {metric} of the worst group of {attribute}", _best(worst)),
        "pareto_worst_group": Choice(
            f"no other has both a better {metric} of everyone and of the worst group of {attribute}, or one better and the other equal",
            _on_front(overall, worst),
        ),
        "pareto_gap": Choice(
            f"no other has both a better {metric} of everyone and a smaller gap between groups of {attribute}, or one better and the other equal",
            _on_front(overall, -scores["gap"]),
        ),
    }
    if utopia is not None:
        point = ", ".join(f"{level} {value:.4g}" for level, value in utopia.items())
        choices["dto"] = Choice(
            f"the least distance of the groups' {metric} to the utopia point ({point})", _best(-scores["dto"])
        )
    return Selection(scores, choices, metric, attribute, split)


def _split(candidates: Sequence[Candidate]) -> str:
    """The one split that all candidates are of, with the same images."""
    if not candidates:
        raise UserError("no candidate to select from")
    names = [one.name for one in candidates]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two candidates are named {twice[0]!r}: rename one")
    first = candidates[0]
    images = set(first.table.frame["scan_id"])
    for one in candidates:
        there = sorted(one.table.frame["split"].unique())
        if there != [one.split]:
            raise UserError(
                f"{one.name} has rows of {', '.join(there)}, and selection is on {one.split!r} alone: give its predictions"
            )
        if "test" in one.split.lower():
            raise UserError(
                f"{one.name} has predictions of {one.split!r}: what is chosen on a test split cannot be judged on it; give validation predictions"
            )
        if one.split != first.split or set(one.table.frame["scan_id"]) != images:
            raise UserError(
                f"{one.name} and {first.name} are of different images: candidates are compared on the same"
            )
    return first.split


def _best(goodness: pd.Series) -> tuple[str, ...]:
    return () if goodness.isna().all() else (str(goodness.idxmax()),)


def _on_front(first: pd.Series, second: pd.Series) -> tuple[str, ...]:
    """Candidates that no other beats, from the best of the first to the best of the second."""
    points = np.stack([first, second], axis=1)
    on: Bool[np.ndarray, " c"] = np.isfinite(points).all(axis=1)
    for number in np.flatnonzero(on):
        other: Float[np.ndarray, "c 2"] = points - points[number]
        on[number] = not ((other >= 0).all(axis=1) & (other > 0).any(axis=1)).any()
    order = sorted(np.flatnonzero(on), key=lambda i: -points[i, 0])
    return tuple(str(first.index[i]) for i in order)
