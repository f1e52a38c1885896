"""What a report on one table or run is made of."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from equipoise.engine.explain import regions
from equipoise.engine.metrics.comparing.paired import ModelComparison
from equipoise.engine.metrics.confounding.gaps import Adjusted
from equipoise.engine.metrics.decisions.policy import Verdict
from equipoise.engine.metrics.frames.frame import Frame
from equipoise.engine.metrics.table.suppression import row_levels
from equipoise.engine.metrics.table.table import Schema

if TYPE_CHECKING:
    from equipoise.engine.explain.worst_cases import WorstCase

MOST_LEVELS = 40  # most levels of an attribute on the page; the files hold all


@dataclasses.dataclass(frozen=True)
class Context:
    """Everything that a report on one table or run is made of.

    Attributes:
      workdir: folder of the run; the page never shows it.
      config: configuration of the run, as a nested mapping; empty for a table from elsewhere.
      cohort: reported cohort.
      split: reported split.
      step: step of the checkpoint.
      schema: schema of the prediction table.
      frame: scores of that table, of the first model.
      tables: (cohort, split) -> predictions of the same checkpoint.
      history: rows of ``metrics.jsonl``.
      metadata: what the cohort's builder recorded (regions, design).
      cohort_report: counts of the prepared cohort, and the scans that it skipped.
      saliency: arrays of the file of mean saliency maps, or None.
      region_cut: saliency below which a voxel does not count for its region (:func:`equipoise.engine.explain.regions.score`).
      worst: images on which masks were predicted worst, by group.
      models: name -> scores of every model of the table; ``frame`` is the first.
      notes: what a reader must know about how the table was read.
      hidden: (attribute, level) of every cell that a shared report does not show.
      min_cell: fewest patients of a shown cell; None in a private report, which shows everything.
      made_by: command that makes this report again, without paths.
      verdicts: verdicts of a policy on these scores; None without a policy.
      comparison: comparison of two of the models; None where nobody asked for one.
      adjusted: attribute -> level -> adjusted gaps; None where nobody asked for them.
      adjusted_by: method of the adjustment: ``weighting``, ``standardization`` or ``matching``.
    """

    workdir: pathlib.Path
    config: Mapping[str, Any]
    cohort: str
    split: str
    step: int
    schema: Schema
    frame: Frame
    tables: Mapping[tuple[str, str], pd.DataFrame]
    history: Sequence[Mapping[str, Any]] = ()
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cohort_report: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    saliency: Mapping[str, np.ndarray] | None = None
    region_cut: float = regions.CUT
    worst: Sequence[WorstCase] = ()
    models: Mapping[str, Frame] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    hidden: frozenset[tuple[str, str]] = frozenset()
    min_cell: int | None = None
    made_by: str = ""
    verdicts: Sequence[Verdict] | None = None
    comparison: ModelComparison | None = None
    adjusted: Mapping[str, Mapping[str, Adjusted]] | None = None
    adjusted_by: str = ""

    @property
    def is_run(self) -> bool:
        """Whether a run of Equipoise is reported, rather than a table from elsewhere."""
        return bool(self.config)

    @property
    def unit(self) -> str:
        """The word for the rows of the table: ``images`` or ``cases``."""
        return "images" if self.is_run else "cases"

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names of all models; the page shows the first one in full."""
        return tuple(self.models) or (str(self.config.get("model", {}).get("name") or "model"),)

    @property
    def simple(self) -> dict[str, list[str]]:
        """Attribute -> the levels that the page shows, without intersections and strata."""
        return {a: self.levels(a) for a in self.frame.groups if not {"*", "|"} & set(a)}

    def levels(self, attribute: str) -> list[str]:
        """The levels of an attribute that the page shows: all, or the ``MOST_LEVELS`` largest, in their own order."""
        return self._levels[attribute]

    @functools.cached_property
    def _levels(self) -> dict[str, list[str]]:
        shown = {}
        for attribute, levels in self.frame.groups.items():
            shown[attribute] = list(levels)
            if len(levels) > MOST_LEVELS:
                sizes = self.sizes(attribute).reindex(shown[attribute]).fillna(0)
                kept = set(sizes.sort_values(ascending=False, kind="stable").index[:MOST_LEVELS])
                shown[attribute] = [level for level in levels if level in kept]
        return shown

    def sizes(self, attribute: str) -> pd.Series:
        """Level of an attribute -> number of images."""
        return pd.Series(row_levels(self.table, attribute)).value_counts()

    def is_hidden(self, attribute: str, level: str) -> bool:
        """Whether a shared report must not show a cell."""
        return (attribute, level) in self.hidden

    @property
    def table(self) -> pd.DataFrame:
        """The predictions that are reported."""
        return self.tables[self.cohort, self.split]


def named_class(context: Context, name: str) -> str:
    """The name of a class in running text: ``disease present``, but ``died = 1``."""
    return (
        f"{context.schema.label} = {name}"
        if name.replace(".", "").isdigit()
        else f"{context.schema.label} {name}"
    )
