"""The cells of a frame: every metric in every set of rows, with the interval that suits it, and their comparisons."""

import dataclasses
import functools
from collections.abc import Collection, Mapping

import numpy as np

from equipoise.engine.metrics.estimates import intervals, percentiles
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas import fairness, multiclass, registry
from equipoise.engine.metrics.formulas.metric import Metric
from equipoise.engine.metrics.frames import disparities
from equipoise.engine.metrics.frames.disparities import Disparity
from equipoise.engine.metrics.resampling import bootstrap as resample
from equipoise.engine.metrics.table.groupings import Grouping
from equipoise.engine.metrics.table.table import Table

SMALL = 11  # cells below this in images, events or non-events are flagged


class Rows:
    """The rows of a table and their patients, sorted, so that the order in the file changes no bit of the result."""

    def __init__(self, table: Table):
        code, self.num_subjects = intervals.subject_codes(table.frame["subject_id"])
        order = np.lexsort((table.frame["scan_id"].to_numpy(str), code))
        self.table = dataclasses.replace(table, frame=table.frame.iloc[order].reset_index(drop=True))
        self.frame, self.schema, self.code = self.table.frame, table.schema, code[order]

    def columns(self, model: str | None) -> dict[str, np.ndarray]:
        """The columns of one model, with what each image adds to sums."""
        columns = self.table.columns(model)
        return columns | registry.components(columns)


class Cells:
    """The estimates of one model in sets of rows, from one bootstrap."""

    def __init__(
        self, rows: Rows, model: str | None, entries: Mapping[str, Metric], columns: Mapping[str, np.ndarray],
        bootstrap: resample.Bootstrap, bca: bool,
    ):  # fmt: skip
        self._code, self._schema, self._model, self._entries = rows.code, rows.schema, model, entries
        self._bootstrap, self._bca, self._binary = bootstrap, bca, rows.schema.kind == "binary"
        self._columns = columns

    def of(self, grouping: Grouping, names: Collection[str] | None = None) -> dict[str, dict[str, Estimate]]:
        """Level -> metric -> estimate, for every metric or for those named."""
        cells = {}
        for place, level in enumerate(grouping.levels):
            rows, number = np.flatnonzero(grouping.code == place), grouping.first + place
            columns, code = {name: column[rows] for name, column in self._columns.items()}, self._code[rows]
            estimates = {
                name: self._estimate(entry, columns, code, rows, number)
                for name, entry in self._entries.items()
                if names is None or name in names
            }
            cells[level] = {m: self._flagged(estimate) for m, estimate in estimates.items()}
        return cells

    def compare(
        self, grouping: Grouping, levels: Mapping[str, Mapping[str, Estimate]], base: Mapping[str, int],
        overall: Mapping[str, Mapping[str, Estimate]], whole: Mapping[str, int],
        rests: Mapping[str, Mapping[str, Estimate]],
    ) -> dict[str, Disparity]:  # fmt: skip
        """Makes all comparisons among the levels of a grouping, stratum by stratum.

        Args:
          grouping: the groups.
          levels: level -> metric -> estimate.
          base: stratum -> number of its reference level.
          overall: stratum -> metric -> estimate of everyone in it.
          whole: stratum -> number of the bootstrap's set of everyone in it.
          rests: level -> metric -> estimate of the other levels together, where there are two or more.
        """
        comparisons: dict[str, Disparity] = {}
        for name, entry in self._entries.items():
            if not entry.smooth:  # chance alone moves it, and more in some groups than in others
                continue
            replicates = self._bootstrap.replicates[self._model, name]
            for stratum, reference in base.items():
                numbers = {grouping.levels[i]: grouping.first + i for i in grouping.compared[stratum]}
                by_level = {level: levels[level][name] for level in numbers}
                comparisons |= disparities.gaps(entry, by_level, grouping.levels[reference])
                comparisons |= disparities.to_overall(name, by_level, overall[stratum][name])
                others = {k: rests[k][name] for k in by_level if name in rests.get(k, ())}
                comparisons |= disparities.to_rest(name, by_level, others)
                extremes = disparities.extremes(
                    entry, by_level, {k: replicates[i] for k, i in numbers.items()}
                )
                end = f":{stratum}" if stratum else ""
                comparisons |= {f"{kind}:{name}{end}": extreme for kind, extreme in extremes.items()}
        return comparisons | self._named(grouping, levels, base, overall, whole, comparisons)

    def _named(
        self, grouping: Grouping, levels: Mapping[str, Mapping[str, Estimate]], base: Mapping[str, int],
        overall: Mapping[str, Mapping[str, Estimate]], whole: Mapping[str, int], ranges: Mapping[str, Disparity],
    ) -> dict[str, Disparity]:  # fmt: skip
        """The fairness scores that have a name, made of the groups' values or of the rows of pairs of groups."""
        strata, pairs = {}, {}
        images = np.bincount(grouping.code[grouping.code >= 0], minlength=len(grouping.levels))
        for stratum, reference in base.items():
            filled = [i for i in grouping.compared[stratum] if grouping.filled[i]]
            names = {grouping.levels[i]: i for i in filled}
            replicates = {
                metric: (
                    drawn[whole[stratum]],
                    {level: drawn[grouping.first + i] for level, i in names.items()},
                )
                for metric, drawn in (
                    (m, self._bootstrap.replicates.get((self._model, m))) for m in self._entries
                )
                if drawn is not None
            }
            cells = {level: levels[level] for level in names}
            n = {level: int(images[i]) for level, i in names.items()}
            strata[stratum] = disparities.Stratum(cells, overall[stratum], n, replicates)
            for name, entry in self._entries.items():
                if self._binary and entry.kind == "area":
                    rows = {grouping.levels[i]: np.flatnonzero(grouping.code == i) for i in filled}
                    pairs |= disparities.xauc(
                        name, rows, grouping.levels[reference], self._columns, self._code
                    )
        scores = fairness.scores(self._schema.kind, self._entries)
        return disparities.named(scores, strata, ranges) | pairs

    def _flagged(self, estimate: Estimate) -> Estimate:
        """Marks a cell that is too small to rely on."""
        smallest = estimate.n
        if self._binary:
            smallest = min(estimate.n, estimate.events, estimate.n - estimate.events)
        if estimate.reason or smallest >= SMALL:
            return estimate
        reason = f"fewer than {SMALL} images, events or non-events: read with care"
        return dataclasses.replace(estimate, reason=reason)

    def _estimate(
        self,
        metric: Metric,
        columns: Mapping[str, np.ndarray],
        code: np.ndarray,
        rows: np.ndarray,
        number: int,
    ) -> Estimate:
        """One metric of one set of rows, with the interval that suits it (README.md)."""
        if metric.estimate:
            return metric.estimate(metric, columns, code)
        part = metric.name.partition(":")[2]
        n = int(np.isfinite(columns["value"]).sum()) if "value" in columns else len(code)
        events = int(columns["truth"].sum()) if self._binary else n
        if not metric.smooth:
            inside = np.zeros(len(self._code))
            inside[rows] = 1  # weights, so that bins are of everyone
            value = registry.compute(metric.name, self._columns, inside, self._schema.classes)
            reason = (
                metric.undefined if np.isnan(value) else "moved by chance: no interval, compared with nothing"
            )
            return dataclasses.replace(
                intervals.undefined(reason, n, len(np.unique(code)), events), value=value
            )
        key = self._model, metric.name
        value, replicates = (
            float(self._bootstrap.values[key][number]),
            self._bootstrap.replicates[key][number],
        )
        left_out = functools.partial(self._bootstrap.leave_one_out, key, number) if self._bca else None
        return percentiles.bootstrap(
            value,
            replicates,
            n,
            len(np.unique(code)),
            events,
            metric.undefined,
            left_out,
            (metric.low, metric.high),
            self._freedom(columns, code, part),
        )

    def _freedom(self, columns: Mapping[str, np.ndarray], code: np.ndarray, part: str) -> int:
        """The number of patients behind a metric, less one; for a metric of one class those of the rarer class that is present."""
        counts = [len(np.unique(code))]
        if part in self._schema.classes:
            columns = multiclass.one_against_rest(columns, self._schema.classes.index(part))
        if self._binary or part in self._schema.classes:
            counts = [len(np.unique(code[columns["truth"] == y])) for y in (True, False)]
        return min((count for count in counts if count), default=0) - 1
