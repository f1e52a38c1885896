"""Selection among models and checkpoints from stored validation predictions; no rule needs another training.

The rules are: the best overall, the best worst group, the nearest to a utopia point (DTO), and the Pareto fronts, which leave the
choice open. A choice must not be judged on the split it was made on, where the best of many looks better than it is.
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
    """A model or checkpoint that may be chosen.

    Attributes:
      name: name, such as ``runs/erm/00000400``.
      table: its predictions of the split that the selection is made on.
      split: name of that split.
    """

    name: str
    table: Table
    split: str


@dataclasses.dataclass(frozen=True)
class Choice:
    """What one rule picks.

    Attributes:
      rule: the rule in words.
      names: the candidate, or all candidates on a Pareto front; empty if the rule has no value for any candidate.
    """

    rule: str
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Candidates and what each rule picks.

    Attributes:
      scores: one line per candidate with ``overall``, one column ``ATTRIBUTE=LEVEL`` per group, ``worst_group``, ``gap`` (largest −
        smallest value of the groups) and, with a utopia point, ``dto``.
      choices: ``overall``, ``worst_group``, ``pareto_worst_group``, ``pareto_gap`` and, with a utopia point, ``dto`` -> choice. The
        first of equal candidates is chosen.
      metric: name of the metric.
      attribute: attribute of the groups.
      split: name of the split that the selection was made on.
    """

    scores: pd.DataFrame
    choices: dict[str, Choice]
    metric: str
    attribute: str
    split: str

    def require_other(self, split: str) -> None:
        """Refuses to judge the choice on the rows it was made on.

        Raises:
          UserError: if the selection was made on this split.
        """
        require_other(self.split, split, f"best {self.metric}", "a model")


def checkpoints(runs: Iterable[pathlib.Path]) -> list[Candidate]:
    """Reads the validation predictions that training kept at every evaluation: ``RUN/validation/STEP.parquet``, named ``RUN/STEP``.

    A step that is chosen may have no checkpoint any more, because a run keeps only the newest few and the best by its own metric.

    Args:
      runs: folders of the runs.

    Raises:
      UserError: for a folder without a run or without predictions.
    """
    candidates = []
    for run in map(pathlib.Path, runs):
        split = config.load(run).data.validation_split
        paths = sorted((run / "validation").glob("*.parquet"))
        if not paths:
            raise UserError(f"{run} has no validation predictions: training writes them at every evaluation")
        candidates += [Candidate(f"{run.name}/{path.stem}", read_table(path), split) for path in paths]
    return candidates


def models(table: Table, split: str) -> list[Candidate]:
    """Returns the models of one table as candidates.

    Args:
      table: predictions of one split.
      split: name of the split.
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
      candidates: candidates with predictions of the same images.
      metric: name of a metric. If it has an ideal value, the nearest to that is best.
      attribute: attribute of the groups; people of unknown group are in none of them.
      utopia: level -> best value, for the DTO. There is no DTO by default.

    Raises:
      UserError: for candidates with different images or splits, with equal names, or with predictions of a test split, and for a
        utopia point that lacks a group.
    """
    candidates = list(candidates)
    split = _split(candidates)
    rows, groups = [], []
    for candidate in candidates:
        table = candidate.table
        overall = ranking.select_value(table.frame, metric, table.schema)[0]
        groups.append(ranking.group_values(table.frame, metric, attribute, table.schema))
        known = list(groups[-1].values())
        worst = min(known, key=lambda v: ranking.goodness(metric, v), default=math.nan)
        row = {"overall": overall} | {f"{attribute}={level}": v for level, v in groups[-1].items()}
        row |= {"worst_group": worst, "gap": max(known) - min(known) if len(known) > 1 else math.nan}
        if utopia is not None:
            row["dto"] = fairness.distance_to_utopia(groups[-1], utopia)
        rows.append(row)
    scores = pd.DataFrame(
        rows, index=pd.Index([candidate.name for candidate in candidates], name="candidate")
    )
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
    """Returns the name of the split, after checking that all candidates have the same split and images."""
    if not candidates:
        raise UserError("no candidate to select from")
    names = [candidate.name for candidate in candidates]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two candidates are named {twice[0]!r}: rename one")
    first = candidates[0]
    images = set(first.table.frame["scan_id"])
    for candidate in candidates:
        name, splits = candidate.name, sorted(candidate.table.frame["split"].unique())
        if splits != [candidate.split]:
            raise UserError(
                f"{name} has rows of {', '.join(splits)}, but the selection is made on {candidate.split!r} alone: give its predictions"
            )
        if "test" in candidate.split.lower():
            raise UserError(
                f"{name} has predictions of {candidate.split!r}: a choice made on a test split cannot be judged on it; give validation predictions"
            )
        if candidate.split != first.split or set(candidate.table.frame["scan_id"]) != images:
            raise UserError(
                f"{name} and {first.name} have predictions of different images: candidates are compared on the same images"
            )
    return first.split


def _best(goodness: pd.Series) -> tuple[str, ...]:
    """Returns the name of the best candidate, or nothing if none has a value."""
    return () if goodness.isna().all() else (str(goodness.idxmax()),)


def _on_front(first: pd.Series, second: pd.Series) -> tuple[str, ...]:
    """Returns the candidates that no other beats, from the best in the first score to the best in the second."""
    points = np.stack([first, second], axis=1)
    on: Bool[np.ndarray, " c"] = np.isfinite(points).all(axis=1)
    for number in np.flatnonzero(on):
        other: Float[np.ndarray, "c 2"] = points - points[number]
        on[number] = not ((other >= 0).all(axis=1) & (other > 0).any(axis=1)).any()
    order = sorted(np.flatnonzero(on), key=lambda i: -points[i, 0])
    return tuple(str(first.index[i]) for i in order)
