"""Two groups of a table, and the smooth metrics of each under any weights of their images."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from equipoise.engine.metrics.estimates import intervals, percentiles
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.formulas.metric import Metric
from equipoise.engine.metrics.frames.cells import Rows
from equipoise.engine.metrics.resampling import weighing
from equipoise.engine.metrics.table import groupings
from equipoise.engine.metrics.table.table import Table


class GroupPair:
    """A group and its reference group.

    Attributes:
      table: the images of the two groups, sorted by patient.
      entries: name -> metric.
      levels: names of (group, reference).
      member: [n] whether each image belongs to the group.
      code: [n] number of each image's patient.
      num_subjects: number of patients.
      outcomes: outcome class -> numbers of its images; the one class ``all`` where the table has no classes.
    """

    def __init__(
        self,
        table: Table,
        group: str,
        levels: tuple[str, str],
        model: str | None,
        entries: Mapping[str, Metric],
    ):
        """Prepares what is the same under all weights.

        Args:
          table: the images of these two groups alone.
          group: attribute or intersection.
          levels: names of (group, reference).
          model: name of the model; by default the first of the table.
          entries: name -> smooth metric of the table's task.
        """
        rows = Rows(table)
        grouping = groupings.grouping(rows.frame, table.schema, group, ())
        self.table, self.entries, self.levels = rows.table, entries, levels
        self.code, self.num_subjects = rows.code, rows.num_subjects
        self.member = grouping.code == grouping.levels.index(levels[0])
        self._columns = rows.columns(model)
        self.outcomes = self._by_outcome()
        self._sides = self.member, ~self.member
        images = np.arange(len(self.code))
        sets = weighing.Sets([1 - self.member], [2])
        self._ranked = {
            name: weighing.Weighted(entry, self._columns, sets, images, len(images))
            for name, entry in entries.items()
            if entry.weighted
        }

    def _by_outcome(self) -> dict[str, Int[np.ndarray, " i"]]:
        classes = self.table.schema.classes
        if not classes or "truth" not in self._columns:
            return {"all": np.arange(len(self.code))}
        target = self.table.frame["target"].to_numpy()
        by_class = {name: np.flatnonzero(target == number) for number, name in enumerate(classes)}
        return {name: rows for name, rows in by_class.items() if len(rows)}

    def counted(self, name: str) -> list[str]:
        """Returns the outcome classes whose images count in a metric: for a sensitivity the positive class."""
        entry = self.entries[name]
        if entry.weighted:
            return list(self.outcomes)
        parts = [self._columns[part] for part in entry.components]
        return [outcome for outcome, rows in self.outcomes.items() if any(part[rows].any() for part in parts)]

    def values(self, weights: Float[np.ndarray, " n"]) -> dict[str, Float[np.ndarray, " 2"]]:
        """Returns metric -> its value in (group, reference); bins of scores are made from both groups."""
        classes = self.table.schema.classes
        return {
            name: np.array(
                [registry.compute(name, self._columns, weights * side, classes) for side in self._sides]
            )
            for name in self.entries
        }

    def replicates(self, weights: Float[np.ndarray, "n b"]) -> dict[str, Float[np.ndarray, "2 b"]]:
        """Returns metric -> its value in (group, reference) under each of b weightings; NaN where it is undefined."""
        names = sorted({part for e in self.entries.values() if e.of_sums for part in e.components})
        parts = np.array([self._columns[name] for name in names]).reshape(len(names), len(weights))
        totals = np.stack([parts[:, side] @ weights[side] for side in self._sides], axis=1)
        sums = dict(zip(names, totals, strict=True))
        padded = np.concatenate([weights, np.zeros((1, weights.shape[1]))])
        return {
            name: self._ranked[name].at(padded)
            if entry.weighted
            else np.asarray(entry.of_sums({part: sums[part] for part in entry.components}))
            for name, entry in self.entries.items()
        }

    def estimate(
        self, name: str, side: int, value: float, replicates: Float[np.ndarray, " b"], missing: str | None
    ) -> Estimate:
        """Makes the estimate of one metric in the group or in the reference.

        Args:
          name: name of the metric.
          side: 0 for the group, 1 for the reference.
          value: the metric under the weights of the sample.
          replicates: the metric under the weights of each resample.
          missing: why the metric has no value, or None.
        """
        rows = np.concatenate([self.outcomes[outcome] for outcome in self.counted(name)] or [self.code[:0]])
        rows = rows[self._sides[side][rows]]
        events = len(rows)
        if self.table.schema.kind == "binary":
            events = int(self._columns["truth"][rows].sum())
        size = len(rows), len(np.unique(self.code[rows])), events
        if missing:
            return intervals.undefined(missing, *size)
        entry = self.entries[name]
        bounds = entry.low, entry.high
        return percentiles.bootstrap(float(value), replicates, *size, entry.undefined, bounds=bounds)
