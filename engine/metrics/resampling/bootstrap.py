"""Bootstrap over patients of any smooth metric in any group, all from the same draws.

A replicate draws whole patients with replacement and counts how often each was drawn (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993; patients as the unit: Field and Welsh, J R Stat Soc B 2007;69:369). Metrics made of
sums need, for each replicate, one product of those counts with the patients' sums. Patients who add the same to every sum have
one profile and are drawn together, which gives the same distribution at a fraction of the work. Metrics made of ranks are
sorted once; a replicate then only weighs the sorted rows. Extremes (worst group, range, ...) and the named scores made of
extremes are refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int, UInt8

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import fairness, multiclass, registry
from equipoise.engine.metrics.formulas.metric import Columns, Metric
from equipoise.engine.metrics.resampling.weighing import LANES, Areas, Part, Sets, SetSums, Weighted

_DRAWS, _PROFILES = 0, 1  # streams of random numbers

Key = tuple[str, str]  # (model, metric)

_EXTREMES = {
    "worst_group": "Bonferroni limits of the groups: comparisons.worst_group",
    "max_min": "all pairs of groups with Bonferroni limits: comparisons.max_min",
    "range": "all pairs of groups with Bonferroni limits: comparisons.max_min",
    "max_over_min": "all pairs of groups with Bonferroni limits: comparisons.min_over_max",
    "sd": "limits of the range: comparisons.sd",
    "equity_scaled_sum": "Bonferroni limits of the groups: comparisons.equity_scaled_sum",
    "equity_scaled_sd": "limits of everyone and of the range: comparisons.equity_scaled_sd",
    "equity_scaled_sample_sd": "limits of everyone and of the range: comparisons.equity_scaled_sample_sd",
} | {name: score.construction for name, score in fairness.SCORES.items()}


def require_smooth(name: str, classes: Sequence[str] = (), averaged: Sequence[str] | None = None) -> Metric:
    """The entry of a metric that a bootstrap interval covers.

    Args:
      name: name of a metric (``auroc``), or of a quantity over groups (``worst_group:auroc``), which is always refused.
      classes: as for :func:`equipoise.engine.metrics.formulas.registry.get`.
      averaged: as for the same function.

    Raises:
      UserError: for an extreme of groups, with the construction that covers; for an unknown metric.
    """
    kind = name.partition(":")[0]
    if kind not in _EXTREMES:
        metric = registry.get(name, classes, averaged)
        if metric.smooth:
            return metric
    raise UserError(
        f"no bootstrap interval for {name!r}: for a minimum, a range or another extreme it covers 0 to 30 % where it says 95 %; "
        f"use {_EXTREMES.get(kind, 'the limits of the groups that it is made of')}"
    )


def draw(patients: int, first: int, count: int, seed: int) -> UInt8[np.ndarray, "i+1 count"]:
    """Draws patients: how often each is drawn in replicates ``first`` to ``first + count - 1``.

    Each replicate has its own generator, so that it is the same however many are drawn at a time.

    Args:
      patients: number of patients, of whom as many are drawn.
      first: number of the first replicate.
      count: number of replicates.
      seed: seed of all replicates.

    Returns:
      Counts, with replicates side by side; the last row is 0, for rows that pad.
    """
    counts = np.zeros((count, patients + 1), np.uint8)
    for row, number in zip(counts, range(first, first + count), strict=True):
        generator = np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_DRAWS, number)))
        )
        row[:-1] = np.bincount(generator.integers(0, patients, patients, np.uint32), minlength=patients)
    return np.ascontiguousarray(counts.T)


class Bootstrap:
    """Every metric in every set of rows, in the sample and in replicates that share their draws.

    The sets are the levels of the groupings, numbered through: first all levels of the first grouping, and so on. Metrics
    whose components are whole numbers may be drawn by profiles; all sets and models then share those draws.

    Attributes:
      values: (model, metric) -> [sets] in the sample itself; NaN where undefined.
      replicates: (model, metric) -> [sets, resamples]; NaN where a replicate leaves the metric undefined in a set.
    """

    def __init__(
        self,
        columns: Mapping[str, Columns],
        metrics: Sequence[str],
        code: Int[np.ndarray, " n"],
        patients: int,
        groupings: Sequence[tuple[Int[np.ndarray, " n"], int]],
        resamples: int = 2000,
        seed: int = 0,
        classes: Sequence[str] = (),
        averaged: Sequence[str] | None = None,
        may_join: bool = True,
    ):
        """Draws the replicates.

        Args:
          columns: model -> its columns, with what each image adds to sums.
          metrics: names of smooth metrics.
          code: patient of each row, from :func:`equipoise.engine.metrics.estimates.intervals.subject_codes`.
          patients: number of patients.
          groupings: (level of each row, or -1 for none; number of levels).
          resamples: number of replicates.
          seed: equal seeds give equal replicates.
          classes: names of the classes or labels, where there are several.
          averaged: classes that macro-averages are taken over; by default all.
          may_join: whether patients of one profile may be drawn together. If not, the replicates of all tables of the same
            patients see the same draws.

        Raises:
          UserError: for a metric that is an extreme (:func:`require_smooth`) or unknown.
        """
        scores = next(iter(columns.values())).get("scores")
        if scores is not None and not classes:
            classes = tuple(map(str, range(scores.shape[1])))
        entries = [require_smooth(name, classes, averaged) for name in metrics]
        sets = Sets(*zip(*groupings, strict=True))
        self._patients, self._models = patients, list(columns)
        self._sums: list[tuple[list[Metric], SetSums]] = []
        self._ranked: dict[tuple, Areas | Weighted] = {}
        self._views: dict[Key, list[tuple]] = {}
        for whole in (True, False):
            chosen = [m for m in entries if m.of_sums and _is_whole(m, columns) == whole]
            parts = {
                (model, name): by_name[name]
                for model, by_name in columns.items()
                for m in chosen
                for name in m.components
            }
            if parts:
                self._sums.append((chosen, SetSums(parts, sets, code, patients, may_join)))
        for metric in entries:
            for model, by_name in columns.items():
                if not metric.of_sums:
                    views = _views(metric, classes, classes if averaged is None else averaged)
                    self._views[model, metric.name] = [
                        (model, metric.base or metric.name, view) for view in views
                    ]
                    for key in self._views[model, metric.name]:
                        if key not in self._ranked:
                            self._ranked[key] = _ranked(key[1], by_name, key[2], sets, code, patients)
        self._left_out: dict[Key, np.ndarray] = {}
        everyone = np.ones((patients + 1, 1), np.uint8)
        everyone[-1] = 0
        self.values = {key: value[:, 0] for key, value in self._by_patient(everyone)}
        for chosen, sums in self._sums:
            if sums.profiles is not None:
                self.values |= {k: v[:, 0] for k, v in self._of_sums(chosen, sums.at(sums.profiles[:, None]))}
        self.replicates = {key: np.empty((len(value), resamples)) for key, value in self.values.items()}
        self._draw_patients(resamples, seed)
        self._draw_profiles(resamples, seed)

    def _of_sums(
        self, metrics: Sequence[Metric], totals: Mapping[Part, np.ndarray]
    ) -> Iterator[tuple[Key, np.ndarray]]:
        """(key, value) of metrics made of sums, from totals of their components."""
        for model in self._models:
            for metric in metrics:
                yield (
                    (model, metric.name),
                    metric.of_sums({name: totals[model, name] for name in metric.components}),
                )

    def _by_patient(self, weights: UInt8[np.ndarray, "i+1 b"]) -> Iterator[tuple[Key, np.ndarray]]:
        """(key, [sets, b]) of every metric that is not drawn by profiles."""
        for chosen, sums in self._sums:
            if sums.profiles is None:
                yield from self._of_sums(chosen, sums.at(weights[:-1]))
        values = {key: ranked.at(weights) for key, ranked in self._ranked.items()}
        for key, views in self._views.items():
            yield key, _mean([values[view] for view in views])

    def _draw_patients(self, resamples: int, seed: int) -> None:
        """Fills the replicates of metrics that are drawn patient by patient."""
        if all(sums.profiles is not None for _, sums in self._sums) and not self._ranked:
            return
        for start in range(0, resamples, LANES):
            lanes = slice(start, min(start + LANES, resamples))
            for key, values in self._by_patient(draw(self._patients, start, lanes.stop - start, seed)):
                self.replicates[key][:, lanes] = values

    def _draw_profiles(self, resamples: int, seed: int) -> None:
        """Fills the replicates of metrics that are drawn by profiles."""
        for number, (chosen, sums) in enumerate(self._sums):
            if sums.profiles is None:
                continue
            generator = np.random.Generator(
                np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_PROFILES, number)))
            )
            for start in range(0, resamples, LANES):
                lanes = slice(start, min(start + LANES, resamples))
                counts = generator.multinomial(
                    self._patients, sums.profiles / self._patients, lanes.stop - start
                )
                for key, values in self._of_sums(chosen, sums.at(counts.T)):
                    self.replicates[key][:, lanes] = values

    def leave_one_out(
        self, key: Key, chosen: int
    ) -> tuple[Float64[np.ndarray, " profiles"], Int[np.ndarray, " profiles"]]:
        """A metric in one set of rows, with each patient left out in turn.

        Args:
          key: (model, metric).
          chosen: number of the set.

        Returns:
          (values, number of patients that each value stands for), in the same order for all sets and models of one metric.
        """
        for metrics, sums in self._sums:
            metric = next((m for m in metrics if m.name == key[1]), None)
            if metric is not None:
                count = np.ones(self._patients, np.int64) if sums.profiles is None else sums.profiles
                parts = {name: sums.of_patients((key[0], name), chosen) for name in metric.components}
                return np.asarray(
                    metric.of_sums({name: part @ count - part for name, part in parts.items()})
                ), count
        if key not in self._left_out:
            values = []
            for start in range(0, self._patients, LANES):
                weights = np.ones((self._patients + 1, min(LANES, self._patients - start)), np.uint8)
                weights[-1] = 0
                weights[start + np.arange(weights.shape[1]), np.arange(weights.shape[1])] = 0
                values.append(_mean([self._ranked[view].at(weights) for view in self._views[key]]))
            self._left_out[key] = np.concatenate(values, axis=1)
        return self._left_out[key][chosen], np.ones(self._patients, np.int64)


_ITSELF, _PAIRS = "itself", "pairs"  # views beside those of a class


def _views(metric: Metric, classes: Sequence[str], averaged: Sequence[str]) -> list[str | int]:
    """The views of the columns that a metric of ranks is the mean of: the columns themselves, classes against the rest, or all pairs."""
    part = metric.name.partition(":")[2]
    if metric.base is None:
        return [_ITSELF]
    if part == "micro":
        return [_PAIRS]
    if part == "macro":
        return [classes.index(name) for name in averaged]
    return [classes.index(part)]


def _ranked(
    base: str, columns: Columns, view: str | int, sets: Sets, code: np.ndarray, patients: int
) -> Areas | Weighted:
    """A metric of ranks in one view, prepared for any weights."""
    if view == _PAIRS:
        width = columns["scores"].shape[1]
        by_class = [multiclass.one_against_rest(columns, number) for number in range(width)]
        columns = {
            name: np.stack([binary[name] for binary in by_class], axis=1).ravel() for name in by_class[0]
        }
        sets, code = sets.repeat(width), code.repeat(width)
    elif view != _ITSELF:
        columns = multiclass.one_against_rest(columns, view)
    metric = registry.get(base)
    if metric.kind == "area":
        return Areas(columns["truth"], columns["score"], sets, code, patients)
    return Weighted(metric, columns, sets, code, patients)


def weigher(
    metric: Metric, columns: Columns, sets: Sets, code: Int[np.ndarray, " n"], patients: int, classes: Sequence[str] = (),
    averaged: Sequence[str] | None = None,
) -> Callable[[UInt8[np.ndarray, "i+1 b"]], Float64[np.ndarray, "s b"]]:  # fmt: skip
    """Makes a metric of ranks a function of the patients' weights, whose last row is 0; an average over classes is their mean."""
    views = _views(metric, classes, classes if averaged is None else averaged)
    ranked = [_ranked(metric.base or metric.name, columns, view, sets, code, patients) for view in views]
    return lambda weights: _mean([view.at(weights) for view in ranked])


def _mean(values: Sequence[Float64[np.ndarray, "s b"]]) -> Float64[np.ndarray, "s b"]:
    """The mean over the classes in which the metric exists; NaN where it exists in none."""
    if len(values) == 1:
        return values[0]
    known = np.isfinite(values)
    count = known.sum(axis=0)
    return np.where(known, values, 0).sum(axis=0) / np.where(count, count, np.nan)


def _is_whole(metric: Metric, columns: Mapping[str, Columns]) -> bool:
    """Whether each image adds whole numbers to the metric's sums."""
    return all(
        (by_name[name] == np.rint(by_name[name])).all()
        for by_name in columns.values()
        for name in metric.components
    )
