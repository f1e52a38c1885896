"""Any metric by any group: values, intervals, gaps and ratios against a reference group, the worst group, the range.

In the manner of fairlearn's MetricFrame, with the patient as the unit: attributes, their intersections (``race*sex``) and
control strata, several models side by side from the same resamples, n and events in every cell.
"""

import dataclasses
import importlib.metadata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas import registry, segmentation
from equipoise.engine.metrics.formulas.metric import Metric
from equipoise.engine.metrics.frames import export
from equipoise.engine.metrics.frames.cells import SMALL, Cells, Rows
from equipoise.engine.metrics.frames.disparities import Disparity
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.metrics.resampling import bootstrap as resample
from equipoise.engine.metrics.table import groupings
from equipoise.engine.metrics.table.groupings import Grouping
from equipoise.engine.metrics.table.table import Schema, Table


@dataclasses.dataclass(frozen=True)
class Frame:
    """Scores of one model on one table.

    Attributes:
      overall: metric -> estimate.
      groups: attribute -> level -> metric -> estimate. Attributes joined by ``*`` are intersections, with levels joined
        likewise; ``race|site`` is race within each level of site, with levels such as ``Black|A``.
      disparities: attribute -> score -> comparison. Scores are ``difference:METRIC:LEVEL-REFERENCE``,
        ``ratio:METRIC:LEVEL/REFERENCE``, ``to_overall:METRIC:LEVEL`` and, where there are three or more levels,
        ``to_rest:METRIC:LEVEL``; over all known levels together ``worst_group:METRIC``, ``max_min:METRIC``,
        ``max_over_min:METRIC`` and ``sd:METRIC``, which end in ``:STRATUM`` under control; and the named fairness scores.
      references: attribute -> reference level.
      settings: seed, resamples, threshold and its split, and what was scored.
      rests: attribute -> level -> metric -> estimate of everyone else whose group is known; scores whose intervals need
        resamples are there only where they were asked for.
    """

    overall: dict[str, Estimate]
    groups: dict[str, dict[str, dict[str, Estimate]]]
    disparities: dict[str, dict[str, Disparity]]
    references: dict[str, str]
    settings: dict[str, Any]
    rests: dict[str, dict[str, dict[str, Estimate]]] = dataclasses.field(default_factory=dict)

    def to_pandas(self) -> pd.DataFrame:
        """The frame as a table with one number a line; the columns are those of ``metrics.csv``."""
        return export.lines(to_json({"model": self}))

    def _repr_html_(self) -> str:
        return export.html(self.overall, self.groups)


@dataclasses.dataclass(frozen=True)
class Options:
    """What a frame computes, and how: the arguments of :func:`evaluate` without the table and the model."""

    metrics: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    control: Sequence[str] = ()
    reference: Mapping[str, str] | None = None
    resamples: int = 2000
    seed: int = 0
    bca: bool = False
    rest: bool = False
    compare: bool = True
    hidden: Collection[tuple[str, str]] = ()

    def names(self, schema: Schema) -> list[str]:
        """Names of the metrics.

        Raises:
          UserError: for an unknown metric, or one of another task.
        """
        names = list(self.metrics or registry.names(schema.kind, schema.classes))
        for name in names:
            tasks = registry.get(name, schema.classes).tasks
            if schema.kind not in tasks:
                raise UserError(
                    f"metric {name!r} is of {' and '.join(tasks)} tasks; the table's is {schema.kind}, "
                    f"which has: {', '.join(registry.names(schema.kind))}"
                )
        return names

    def attributes(self, schema: Schema) -> list[str]:
        """Attributes and intersections whose levels are compared.

        Raises:
          UserError: for an attribute that is a group and a control.
        """
        if self.groups is None:
            known = schema.attributes.items()
            return [name for name, levels in known if levels is not None and name not in self.control]
        for attribute in self.control:
            if any(attribute in groupings.attributes_of(group, schema) for group in self.groups):
                raise UserError(
                    f"attribute {attribute!r} is both a group and a control: leave it out of one of them"
                )
        return list(self.groups)


def to_json(frames: Mapping[str, Frame]) -> dict[str, Any]:
    """What ``metrics.json`` holds: the first model at the top, every model under ``models``; undefined is null.

    Args:
      frames: model name -> its frame.
    """
    models = {
        name: export.scores(frame.overall, frame.groups, frame.disparities) for name, frame in frames.items()
    }
    first = next(iter(frames))
    return export.document(models[first], models, frames[first].settings)


def _described(
    name: str, schema: Schema, model: str | None, averaged: Sequence[str] | None, columns: Mapping[str, np.ndarray]
) -> Metric:  # fmt: skip
    """The entry of a metric, completed by what the table says of its classes or of the values that a column holds."""
    if schema.kind == "values":
        return segmentation.describe(
            schema.models[model or next(iter(schema.models))][0], name, columns["value"]
        )
    return registry.get(name, schema.classes, averaged)


def _shared_classes(
    groupings: Sequence[Grouping], schema: Schema, columns: Mapping[str, np.ndarray]
) -> tuple[str, ...] | None:
    """Classes that all macro-averages of the frame are taken over; None for a table without several classes.

    Averages over different classes cannot be compared. So only those classes count that are present in every compared group;
    groups of fewer than :data:`~equipoise.engine.metrics.frames.cells.SMALL` images take no class away. Where no class is
    present in all groups, every class counts wherever it exists.
    """
    if schema.kind not in ("multiclass", "multilabel"):
        return None
    truth = columns["truth"]
    positive = truth if truth.ndim == 2 else truth[:, None] == np.arange(len(schema.classes))
    shared = np.ones(len(schema.classes), bool)
    for grouping in groupings:
        for number in (i for known in grouping.compared.values() for i in known):
            inside = positive[grouping.code == number]
            if len(inside) >= SMALL:
                shared &= inside.any(axis=0) & ~inside.all(axis=0)
    return tuple(name for name, kept in zip(schema.classes, shared, strict=True) if kept) or schema.classes


def _versions() -> dict[str, str]:
    """Versions of the packages that computed the numbers; a checkout that was never installed has no version of its own."""
    versions = {}
    for name in ("equipoise", "jax", "numpy", "scipy", "pandas"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _settings(
    rows: Rows, model: str | None, columns: Mapping[str, np.ndarray], options: Options
) -> dict[str, Any]:
    """What was scored and how. A table from elsewhere may lack columns: what they would say is then empty."""
    frame, schema = rows.frame, rows.schema

    def distinct(column: str) -> str:
        return ", ".join(sorted({str(value) for value in frame[column]})) if column in frame else ""

    used = schema.models[rows.table.models[0] if model is None else model] if "called" in columns else ()
    thresholds = sorted({float(t) for column in used for t in np.unique(rows.table.threshold(column))})
    return {
        "seed": options.seed,
        "resamples": options.resamples,
        "bootstrap": "BCa" if options.bca else "percentile",
        "confidence": CONFIDENCE,
        "task": schema.kind,
        "cohort": distinct("cohort"),
        "split": distinct("split"),
        "label": schema.label,
        "positive": schema.positive,
        "threshold": thresholds[0] if len(thresholds) == 1 else thresholds,
        "threshold_split": distinct("threshold_split"),
        "num_images": len(frame),
        "num_subjects": rows.num_subjects,
        "num_positive": int(columns["truth"].sum()) if schema.kind == "binary" else None,
        "checkpoint_step": int(frame["checkpoint_step"].iloc[0]) if "checkpoint_step" in frame else None,
        "checkpoint_fingerprint": distinct("checkpoint_fingerprint"),
        "config_fingerprint": distinct("config_fingerprint"),
        "versions": _versions(),
    }


def evaluate(
    table: Table,
    *,
    metrics: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    control: Sequence[str] = (),
    reference: Mapping[str, str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    bca: bool = False,
    rest: bool = False,
    compare: bool = True,
    model: str | None = None,
    hidden: Collection[tuple[str, str]] = (),
) -> Frame:
    """Computes every metric of one model, overall and by group.

    Args:
      table: checked predictions.
      metrics: names of metrics; by default all of the table's task.
      groups: attributes and intersections (``race*sex``, of any depth) whose levels are the groups; by default every attribute
        that has levels.
      control: attributes within whose levels the groups are compared, level by level.
      reference: attribute or intersection -> level that the others are compared with; by default the first level that
        has images. Under control each stratum takes the same level.
      resamples: number of bootstrap resamples, drawn once for all metrics and groups.
      seed: seed of the bootstrap.
      bca: BCa instead of percentile limits where a bootstrap is used.
      rest: compare each group with everyone else also in scores that need resamples; the time grows with the number of groups.
      compare: whether groups are compared. If not, replicates are drawn only where an interval needs them, and patient by
        patient, so that all tables of the same patients see the same draws.
      model: name of the model whose scores are judged; by default the table's first.
      hidden: (attribute or intersection, level) of cells to leave out, as if nobody were in them. No number of another cell,
        not even a random one, then depends on who is in which of them.

    Returns:
      The frame. People whose group is unknown are shown, and are not compared.

    Raises:
      UserError: for an empty table, or an unknown metric, attribute, reference or model.
    """
    options = Options(metrics, groups, control, reference, resamples, seed, bca, rest, compare, hidden)
    return next(iter(_evaluate(table, [model], options).values()))


def evaluate_models(
    table: Table, *, models: Sequence[str] | None = None, **settings: Any
) -> dict[str, Frame]:
    """Computes every metric of several models from the same resamples: ``comparisons.difference`` of their estimates is paired.

    Args:
      table: checked predictions, one row per image with every model's scores.
      models: names of the models; by default all of the table.
      **settings: as for :func:`evaluate`.

    Returns:
      model -> frame.
    """
    return _evaluate(table, list(models or table.models), Options(**settings))


class _Sets:
    """The sets of rows that a frame describes, numbered through.

    Attributes:
      strata: the levels of the control as one grouping in a list, which is empty without control.
      drawn: everyone, the strata, and every grouping of the groups.
      compared: the groupings of the groups.
      within: the strata, or everyone without control: the people among whom groups are compared.
      rests: grouping -> for each level the other levels together.
      chosen: grouping -> stratum -> number of its reference level.
    """

    def __init__(self, frame: pd.DataFrame, schema: Schema, options: Options):
        control = options.control
        everyone = Grouping("", "", [""], [""], np.zeros(len(frame), np.int64), {}, np.ones(1, bool))
        self.strata = [groupings.grouping(frame, schema, groupings.JOIN.join(control), ())] if control else []
        groups = [groupings.grouping(frame, schema, g, control) for g in options.attributes(schema)]
        shown = (groupings.without(g, options.hidden) for g in (everyone, *self.strata, *groups))
        self.drawn, first = _numbered(shown, 0)
        self.compared, self.within = self.drawn[1 + len(self.strata) :], self.drawn[len(self.strata)]
        self.rests: dict[str, list[Grouping]] = {}
        for grouping in self.compared:
            self.rests[grouping.name], first = _numbered(groupings.rests(grouping), first)
        self.chosen = {g.name: groupings.references(g, options.reference or {}) for g in self.compared}

    @property
    def whole(self) -> dict[str, int]:
        """Stratum -> number of the set of everyone in it."""
        return {level: self.within.first + number for number, level in enumerate(self.within.levels)}

    @property
    def references(self) -> dict[str, str]:
        """Grouping -> reference level."""
        numbers = {name: next(iter(chosen.values())) for name, chosen in self.chosen.items() if chosen}
        return {g.name: g.plain[numbers[g.name]] for g in self.compared if g.name in numbers}

    def resampled(self, rest: bool) -> list[tuple[np.ndarray, int]]:
        """(level of each row, number of levels) of the sets that the bootstrap draws, with the rests or without."""
        others = [g for rests in self.rests.values() for g in rests] if rest else []
        return [(grouping.code, len(grouping.levels)) for grouping in (*self.drawn, *others)]


def _numbered(groups: Iterable[Grouping], first: int) -> tuple[list[Grouping], int]:
    """(groupings whose levels are numbered through from ``first``, the next number)."""
    numbered = []
    for grouping in groups:
        numbered.append(dataclasses.replace(grouping, first=first))
        first += len(grouping.levels)
    return numbered, first


def _evaluate(table: Table, models: Sequence[str | None], options: Options) -> dict[Any, Frame]:
    """Model -> frame, for models of one table that share their resamples."""
    schema = table.schema
    if table.frame.empty:
        raise UserError("the prediction table has no row: nothing to report")
    names = options.names(schema)
    rows = Rows(table)
    columns = {model: rows.columns(model) for model in models}
    sets = _Sets(rows.frame, schema, options)
    averaged = _shared_classes(sets.compared, schema, next(iter(columns.values())))
    bootstrap = _bootstrap(names, rows, columns, sets, averaged, options)
    frames = {}
    for model in models:
        entries = {name: _described(name, schema, model, averaged, columns[model]) for name in names}
        cells = Cells(rows, model, entries, columns[model], bootstrap, options.bca)
        levels = {grouping.name: cells.of(grouping) for grouping in sets.drawn}
        overall = levels.pop("")
        of_stratum = levels[sets.strata[0].name] if sets.strata else overall
        tested = [name for name, e in entries.items() if e.smooth and (options.rest or e.is_closed)]
        comparisons, rests = {}, {}
        for grouping in sets.compared if options.compare else ():
            name, groups = grouping.name, levels[grouping.name]
            others = {g.levels[0]: cells.of(g, tested)[g.levels[0]] for g in sets.rests[name]}
            comparisons[name] = cells.compare(
                grouping, groups, sets.chosen[name], of_stratum, sets.whole, others
            )
            rests[name] = {k: groups[v] for k, v in groupings.pairs(grouping).items()} | others
        settings = _settings(rows, model, columns[model], options) | {"references": sets.references}
        if averaged is not None:
            settings["averaged_classes"] = list(averaged)
        frames[model] = Frame(overall[""], levels, comparisons, sets.references, settings, rests)
    return frames


def _bootstrap(
    names: Sequence[str], rows: Rows, columns: Mapping[Any, Mapping[str, np.ndarray]], sets: _Sets,
    averaged: Sequence[str] | None, options: Options,
) -> resample.Bootstrap:  # fmt: skip
    """The replicates of every metric that needs them."""
    classes = rows.schema.classes
    entries = {name: registry.get(name, classes, averaged) for name in names}
    drawn = [name for name, e in entries.items() if e.smooth and (options.compare or not e.is_closed)]
    return resample.Bootstrap(
        columns, drawn, rows.code, rows.num_subjects, sets.resampled(options.rest), options.resamples, options.seed, classes,
        averaged, may_join=options.compare,
    )  # fmt: skip
