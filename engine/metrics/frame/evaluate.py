"""Any metric by any group: values, intervals, gaps and ratios against a reference group, the worst group, the range.

In the manner of fairlearn's MetricFrame, with the patient as the unit: attributes, their intersections (``race*sex``) and
control strata, several models side by side from the same resamples, n and events in every cell.
"""

import dataclasses
import importlib.metadata
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas import multiclass, registry, segmentation
from equipoise.engine.metrics.formulas.registry import Metric
from equipoise.engine.metrics.frame import summary
from equipoise.engine.metrics.frame.cells import SMALL, Cells, Rows, is_closed
from equipoise.engine.metrics.frame.disparities import Disparity
from equipoise.engine.metrics.frame.summary import CONFIDENCE, to_csv, to_json
from equipoise.engine.metrics.resampling import bootstrap as resample
from equipoise.engine.metrics.table import groupings
from equipoise.engine.metrics.table.groupings import Grouping
from equipoise.engine.metrics.table.table import Schema, Table
from equipoise.engine.vocabulary import UNKNOWN

__all__ = [
    "CONFIDENCE",
    "Disparity",
    "Frame",
    "evaluate",
    "evaluate_models",
    "goodness",
    "group_values",
    "higher_is_better",
    "select_value",
    "to_csv",
    "to_json",
]


@dataclasses.dataclass(frozen=True)
class Frame:
    """Scores of one model on one table.

    Attributes:
      overall: metric -> estimate.
      groups: attribute -> level -> metric -> estimate. Attributes joined by ``*`` are intersections, with levels joined
        likewise; ``race|site`` is race within each level of site, with levels such as ``Black|A``.
      disparities: attribute -> score -> comparison. Scores are ``difference:METRIC:LEVEL-REFERENCE``,
        ``ratio:METRIC:LEVEL/REFERENCE``, ``to_overall:METRIC:LEVEL``, of three or more levels ``to_rest:METRIC:LEVEL``, and of all levels of known group
        ``worst_group:METRIC``, ``max_min:METRIC``, ``max_over_min:METRIC`` and ``sd:METRIC``, which end in ``:STRATUM``
        under control; further the named fairness scores.
      references: attribute -> reference level.
      settings: seed, resamples, threshold and its split, and what was scored.
      rests: attribute -> level -> metric -> estimate of everyone else of known group; scores whose intervals need resamples
        are there if they were asked for.
    """

    overall: dict[str, Estimate]
    groups: dict[str, dict[str, dict[str, Estimate]]]
    disparities: dict[str, dict[str, Disparity]]
    references: dict[str, str]
    settings: dict[str, Any]
    rests: dict[str, dict[str, dict[str, Estimate]]] = dataclasses.field(default_factory=dict)

    def to_pandas(self) -> pd.DataFrame:
        """One line per number: part, attribute, level, score, value, low, high, n and the rest of ``metrics.csv``."""
        return summary.lines(to_json({"model": self}))

    def _repr_html_(self) -> str:
        return summary.html(self.overall, self.groups)


def _split_name(name: str) -> tuple[str, str, str | None]:
    """``worst_group:sensitivity:sex`` -> (kind, metric, attribute); a plain metric has kind ``"overall"``."""
    kind, _, rest = name.partition(":")
    if kind != "worst_group":
        return "overall", name, None
    metric, _, attribute = rest.rpartition(":")
    if not metric:
        raise UserError(
            f"metric {name!r}: write worst_group:METRIC:ATTRIBUTE, such as worst_group:sensitivity:sex"
        )
    return kind, metric, attribute


def higher_is_better(name: str) -> bool:
    """Direction of a metric that selects models: a name of the registry, ``worst_group:METRIC:ATTRIBUTE`` or ``loss``.

    Raises:
      UserError: for an unknown name.
    """
    return False if name == "loss" else _entry(name).higher_is_better


def _entry(name: str) -> Metric:
    """Of the metric that a name selects by; of one class that of every class, since no schema tells the classes."""
    metric = _split_name(name)[1]
    if segmentation.is_value(metric):
        return segmentation.describe(metric)
    part = metric.partition(":")[2]
    return registry.get(metric if part in multiclass.AVERAGES else metric.removesuffix(f":{part}"))


def select_value(frame: pd.DataFrame, name: str, schema: Schema) -> tuple[float, bool]:
    """One number that model selection can rank by.

    Args:
      frame: prediction table, of the validation split.
      name: a metric (``auroc``; of masks ``dice_cup``, the mean of a column, or ``dice``, its mean over structures), or
        ``worst_group:METRIC:ATTRIBUTE``: the worst of the groups in which it is defined, people of unknown group left out.
      schema: of the table.

    Returns:
      (value, whether higher is better); NaN where it is undefined.

    Raises:
      UserError: for an unknown metric or attribute, or a metric of another task.
    """
    better = higher_is_better(name)
    kind, metric, attribute = _split_name(name)
    if kind == "overall":
        return _compute(frame, metric, schema), better
    values = group_values(frame, metric, attribute, schema).values()
    return min(values, key=lambda value: goodness(metric, value), default=float("nan")), better


def _compute(frame: pd.DataFrame, metric: str, schema: Schema) -> float:
    """A metric of some rows; of masks the mean of a column, or the mean of those of all structures."""
    if not segmentation.is_value(metric):
        return registry.compute(metric, Table(frame, schema).columns(), classes=schema.classes)
    columns = [column for column in schema.scores if segmentation.is_value(column, metric)]
    if not columns:
        raise UserError(f"no column of {metric!r}: the table has {', '.join(schema.scores)}")
    each = [registry.compute("mean", {"value": frame[c].to_numpy(np.float64)}) for c in columns]
    return float(np.mean(each))


def goodness(metric: str, value: float) -> float:
    """What grows as a metric gets better: the value, its opposite, or minus its distance to the ideal value."""
    target = _entry(metric).target
    if target is not None:
        return -abs(value - target)
    return value if higher_is_better(metric) else -value


def group_values(frame: pd.DataFrame, metric: str, attribute: str, schema: Schema) -> dict[str, float]:
    """Level -> value of a metric, of the known levels in which it is defined.

    Args:
      frame: prediction table.
      metric: of the registry.
      attribute: with levels.
      schema: of the table.
    """
    levels = [level for level in groupings.levels_of(frame, schema, attribute) if level != UNKNOWN]
    found = {level: _compute(frame[frame[attribute] == level], metric, schema) for level in levels}
    return {level: value for level, value in found.items() if not math.isnan(value)}


def _described(
    name: str, schema: Schema, model: str | None, averaged: Sequence[str] | None, columns: Mapping[str, np.ndarray]
) -> Metric:  # fmt: skip
    """The registry's entry, with what the table says of classes, or of the values that a column holds."""
    if schema.kind == "values":
        return segmentation.describe(
            schema.models[model or next(iter(schema.models))][0], name, columns["value"]
        )
    return registry.get(name, schema.classes, averaged)


def _shared_classes(
    groupings: Sequence[Grouping], schema: Schema, columns: Mapping[str, np.ndarray]
) -> tuple[str, ...] | None:
    """Classes that macro-averages of the whole frame are taken over; None of a table without several classes.

    Averages over different classes cannot be compared: only classes present in every compared group count, groups of fewer than
    :data:`equipoise.engine.metrics.frame.cells.SMALL` images aside. Where no class is in all of them, every class counts where it exists.
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
    """Of what computed the numbers; a checkout that was never installed has none of its own."""
    found = {}
    for name in ("equipoise", "jax", "numpy", "scipy", "pandas"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _settings(
    rows: Rows, model: str | None, columns: Mapping[str, np.ndarray], resamples: int, seed: int, bca: bool
) -> dict[str, Any]:
    """What was scored and how; of columns that a table from elsewhere may lack, nothing."""
    frame, schema = rows.frame, rows.schema
    one = lambda column: ", ".join(sorted({str(v) for v in frame[column]})) if column in frame else ""  # noqa: E731
    used = schema.models[rows.table.models[0] if model is None else model] if "called" in columns else ()
    thresholds = sorted({float(t) for column in used for t in np.unique(rows.table.threshold(column))})
    return {
        "seed": seed,
        "resamples": resamples,
        "bootstrap": "BCa" if bca else "percentile",
        "confidence": CONFIDENCE,
        "task": schema.kind,
        "cohort": one("cohort"),
        "split": one("split"),
        "label": schema.label,
        "positive": schema.positive,
        "threshold": thresholds[0] if len(thresholds) == 1 else thresholds,
        "threshold_split": one("threshold_split"),
        "num_images": len(frame),
        "num_subjects": rows.num_subjects,
        "num_positive": int(columns["truth"].sum()) if schema.kind == "binary" else None,
        "checkpoint_step": int(frame["checkpoint_step"].iloc[0]) if "checkpoint_step" in frame else None,
        "checkpoint_fingerprint": one("checkpoint_fingerprint"),
        "config_fingerprint": one("config_fingerprint"),
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
    """Every metric of one model overall and by group.

    Args:
      table: checked predictions.
      metrics: names of the registry; by default all of the table's task.
      groups: attributes and intersections (``race*sex``, of any depth); by default every attribute that has levels.
      control: attributes within whose levels groups are compared, level by level.
      reference: attribute or intersection -> level that the others are compared with; by default the first level that
        has images. Under control the same level is taken in each stratum.
      resamples: of the bootstrap, drawn once for all metrics and groups.
      seed: of the bootstrap.
      bca: BCa instead of percentile limits where a bootstrap is used.
      rest: compare each group with everyone else in scores that need resamples too; the time grows with the number of groups.
      compare: whether groups are compared. Without, replicates are drawn only where an interval needs them, and patient by
        patient, so that those of every table of the same patients see the same draws.
      model: whose scores; by default the table's first.
      hidden: (attribute or intersection, level) of cells to leave out, as if nobody were in them: no number of another cell,
        not even a random one, then depends on who is in which of them.

    Returns:
      The frame. People of unknown group are shown and not compared.

    Raises:
      UserError: for an empty table, or an unknown metric, attribute, reference or model.
    """
    settings = {"metrics": metrics, "groups": groups, "control": control, "reference": reference,
                "resamples": resamples, "seed": seed, "bca": bca, "rest": rest, "compare": compare, "hidden": hidden}  # fmt: skip
    return next(iter(_evaluate(table, [model], **settings).values()))


def evaluate_models(
    table: Table, *, models: Sequence[str] | None = None, **settings: Any
) -> dict[str, Frame]:
    """Several models side by side, from the same resamples: ``comparisons.difference`` of their estimates is paired.

    Args:
      table: checked predictions, one row per image with every model's scores.
      models: names; by default all of the table.
      **settings: as of :func:`evaluate`.

    Returns:
      model -> frame.
    """
    return _evaluate(table, list(models or table.models), **settings)


def _evaluate(
    table: Table, models: Sequence[str | None], *, metrics: Sequence[str] | None = None, groups: Sequence[str] | None = None,
    control: Sequence[str] = (), reference: Mapping[str, str] | None = None, resamples: int = 2000, seed: int = 0,
    bca: bool = False, rest: bool = False, compare: bool = True, hidden: Collection[tuple[str, str]] = (),
) -> dict[Any, Frame]:  # fmt: skip
    schema = table.schema
    if table.frame.empty:
        raise UserError("the prediction table has no row: nothing to report")
    names = list(metrics or registry.names(schema.kind, schema.classes))
    for name in names:
        tasks = registry.get(name, schema.classes).tasks
        if schema.kind not in tasks:
            raise UserError(
                f"metric {name!r} is of {' and '.join(tasks)} tasks; the table's is {schema.kind}, "
                f"which has: {', '.join(registry.names(schema.kind))}"
            )
    rows = Rows(table)
    columns = {model: rows.columns(model) for model in models}
    if groups is None:
        groups = [
            name for name, levels in schema.attributes.items() if levels is not None and name not in control
        ]
    for attribute in control:
        if any(attribute in groupings.attributes_of(group, schema) for group in groups):
            raise UserError(
                f"attribute {attribute!r} is both a group and a control: leave it out of one of them"
            )
    everyone = Grouping("", "", [""], [""], np.zeros(len(rows.frame), np.int64), {}, np.ones(1, bool))
    strata = [groupings.grouping(rows.frame, schema, groupings.JOIN.join(control), ())] if control else []
    drawn, first = [], 0
    for grouping in (
        everyone,
        *strata,
        *(groupings.grouping(rows.frame, schema, group, control) for group in groups),
    ):
        drawn.append(dataclasses.replace(groupings.without(grouping, hidden), first=first))
        first += len(grouping.levels)
    compared, within = drawn[1 + len(strata) :], drawn[len(strata)]  # everyone, or the strata
    whole = {level: within.first + number for number, level in enumerate(within.levels)}
    rests = {}
    for grouping in compared:
        found = groupings.rests(grouping)
        rests[grouping.name] = [dataclasses.replace(g, first=first + i) for i, g in enumerate(found)]
        first += len(found)
    resampled = [*drawn, *(g for found in rests.values() for g in found if rest)]
    sets = [(grouping.code, len(grouping.levels)) for grouping in resampled]
    chosen = {g.name: groupings.references(g, reference or {}) for g in compared}
    references = {g.name: g.plain[next(iter(chosen[g.name].values()))] for g in compared if chosen[g.name]}
    averaged = _shared_classes(compared, schema, next(iter(columns.values())))
    every = {name: registry.get(name, schema.classes, averaged) for name in names}
    drawn_for = [name for name, m in every.items() if m.smooth and (compare or not is_closed(m))]
    bootstrap = resample.Bootstrap(
        columns,
        drawn_for,
        rows.code,
        rows.num_subjects,
        sets,
        resamples,
        seed,
        schema.classes,
        averaged,
        compare,
    )
    frames = {}
    for model in models:
        entries = {name: _described(name, schema, model, averaged, columns[model]) for name in names}
        cells = Cells(rows, model, entries, columns[model], bootstrap, bca)
        levels = {grouping.name: cells.of(grouping) for grouping in drawn}
        overall = levels.pop("")
        of_stratum = levels[strata[0].name] if strata else overall
        tested = [name for name, entry in entries.items() if entry.smooth and (rest or is_closed(entry))]
        gaps, others = {}, {}
        for grouping in compared if compare else ():
            found = {one.levels[0]: cells.of(one, tested)[one.levels[0]] for one in rests[grouping.name]}
            own = levels[grouping.name]
            gaps[grouping.name] = cells.compare(
                grouping, own, chosen[grouping.name], of_stratum, whole, found
            )
            others[grouping.name] = {k: own[v] for k, v in groupings.pairs(grouping).items()} | found
        settings = _settings(rows, model, columns[model], resamples, seed, bca) | {"references": references}
        if averaged is not None:
            settings["averaged_classes"] = list(averaged)
        frames[model] = Frame(overall[""], levels, gaps, references, settings, others)
    return frames
