"""Groups side by side: curves, intersections, and several models on the same people."""

import math

import numpy as np

from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.metrics.table.suppression import row_levels
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.report.figures import curves, heatmaps
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.page.page import Cell, Figure, ReportTable, Section, pointer, text_cell
from equipoise.engine.report.page.words import interval, number, sentence, short_title, shown_level, title
from equipoise.engine.report.single import findings, gaps, scores, spreads
from equipoise.engine.report.single.context import Context
from equipoise.engine.vocabulary import UNKNOWN

MOST_CROSSED = 12  # most levels on one side of a heat map; the table below it holds all
_CURVES = {
    "Curves by group": (curves.roc, curves.precision_recall, curves.calibration, curves.decision),
    "Score distributions": (curves.distribution,),
}


def _curve_groups(context: Context, attribute: str) -> dict[str, curves.Group]:
    """The largest groups of an attribute whose curves may be drawn."""
    columns = Table(context.table, context.schema).columns()
    table = Table(context.table, context.schema)
    threshold = table.threshold(context.schema.models[table.models[0]][0])
    patient = intervals.subject_codes(context.table["subject_id"])[0]
    level_of, groups = row_levels(context.table, attribute), {}
    allowed = [v for v in context.levels(attribute) if not context.is_hidden(attribute, v)]
    sizes = context.sizes(attribute)
    allowed = [v for v in allowed if sizes.get(v, 0)]
    largest = sorted(allowed, key=lambda v: (v == UNKNOWN, -sizes[v]))[: curves.MOST_GROUPS]
    for level in (v for v in allowed if v in largest):
        rows = level_of == level
        groups[level] = curves.Group(
            columns["truth"][rows], columns["score"][rows], patient[rows], float(threshold[rows][0]), context.min_cell or 1
        )  # fmt: skip
    return groups


def curve_sections(context: Context) -> list[Section]:
    """The sections on curves and score distributions by group; for a task of numbers, the section on how they spread."""
    if context.schema.kind in ("regression", "values"):
        return [spreads.section(context)] if context.simple else []
    if context.schema.kind != "binary":
        return []
    drawn: dict[str, list[Figure]] = {kind: [] for kind in _CURVES}
    notes = []
    for attribute in context.simple:
        groups = _curve_groups(context, attribute)
        if not groups:
            continue
        left_out = len(context.frame.groups[attribute]) - len(groups)
        if left_out:
            notes.append(
                f"{left_out} of the levels of “{attribute}” are not drawn; the curves are those of the {len(groups)} largest."
            )
        for kind, draw in _CURVES.items():
            drawn[kind] += [curve(groups, attribute) for curve in draw]
    return [Section(kind, notes, plots) for kind, plots in drawn.items() if plots]


def crossed(context: Context) -> Section | None:
    """The section on intersections and strata: heat maps of two crossed attributes, and tables of all; None without any."""
    drawn, tables = [], []
    for attribute in (a for a in context.frame.groups if {"*", "|"} & set(a)):
        names = attribute.replace("|", "*").split("*")
        if len(names) == 2 and "*" in attribute:
            drawn += [_heat(context, attribute, names, metric) for metric in findings.compared(context)[:2]]
        metrics = findings.shown(context)
        rows = [
            (text_cell(shown_level(attribute, level)), *(scores.score_cell(context, m, (attribute, level)) for m in metrics))
            for level in context.levels(attribute)
        ]  # fmt: skip
        name = shown_level(attribute, attribute)
        tables.append(ReportTable(("", *map(short_title, metrics)), rows, f"Scores by {name}", True))
        if context.frame.disparities.get(attribute):
            caption = f"Differences by {name}"
            tables.append(
                gaps.difference_table(context, attribute, findings.compared(context), caption, True)
            )
    if not drawn and not tables:
        return None
    text = "People belong to several groups at once, and a model can be fair to each group but unfair to their intersection."
    return Section("Intersections and strata", (text,), drawn, tables)


def _heat(context: Context, attribute: str, names: list[str], metric: str) -> Figure:
    cells = context.frame.groups[attribute]
    every = [[*(context.schema.attributes[n] or ()), UNKNOWN] for n in names]
    filled = [(v, w) for v in dict.fromkeys(every[0]) for w in dict.fromkeys(every[1]) if f"{v}*{w}" in cells]
    sides = [
        [v for v in dict.fromkeys(every[i]) if any(v == pair[i] for pair in filled)][:MOST_CROSSED]
        for i in (0, 1)
    ]
    values = np.full((len(sides[0]), len(sides[1])), np.nan)
    texts = []
    for i, row in enumerate(sides[0]):
        line = []
        for j, column in enumerate(sides[1]):
            level = f"{row}*{column}"
            estimate = cells[level][metric] if level in cells else None
            if estimate is None:
                line.append("nobody")
            elif estimate.n is None:
                line.append("suppressed")
            else:
                values[i, j] = estimate.value
                flag = " †" if estimate.reason else ""
                line.append(
                    f"{number(estimate.value, 2)}{flag}\n{interval(*estimate.limits(CONFIDENCE), 2)}\nn={estimate.n}"
                )
        texts.append(line)
    return heatmaps.heat(
        values, texts, sides[0], sides[1], f"crossed_{figures.file_name(attribute)}_{figures.file_name(metric)}",
        f"{sentence(title(metric))} by {' and '.join(names)}",
        f"{sentence(title(metric))} of every combination, with its 95 % interval and n. † marks a small or partly undefined cell; a hatched cell has no value.",
    )  # fmt: skip


def models(context: Context) -> Section | None:
    """The section on several models: overall scores and worst groups of each; None for a single model."""
    if len(context.models) < 2:
        return None
    metrics, worst = findings.shown(context), []
    rows = []
    for name, frame in context.models.items():
        cells = []
        for metric in metrics:
            estimate = frame.overall.get(metric)
            note = interval(*estimate.limits(CONFIDENCE)) if estimate else ""
            cells.append(
                Cell(
                    number(estimate.value if estimate else None),
                    pointer("models", name, "overall", metric),
                    note,
                )
            )
        rows.append((text_cell(name), *cells))
        for attribute in context.simple:
            for metric in findings.compared(context):
                gap = frame.disparities.get(attribute, {}).get(f"worst_group:{metric}")
                if gap and math.isfinite(gap.value):
                    key = pointer("models", name, "disparities", attribute, f"worst_group:{metric}")
                    value = Cell(number(gap.value), key, interval(gap.low, gap.high))
                    worst.append(
                        (
                            text_cell(f"{title(metric)} by {attribute}"),
                            text_cell(name),
                            text_cell(", ".join(gap.levels)),
                            value,
                        )
                    )
    worst.sort(key=lambda row: row[0].text)
    tables = [ReportTable(("", *map(short_title, metrics)), rows, "Overall")]
    tables += (
        [ReportTable(("worst group in", "", "group", "value, 95 % interval"), worst, "Worst groups")]
        if worst
        else []
    )
    text = (
        f"{len(context.models)} models scored the same people. The sections above show “{context.model_names[0]}”; metrics.json holds all of them. "
        "Two intervals that overlap show neither that two models are equal nor that they differ, because the people are the same."
    )  # fmt: skip
    return Section("Side by side", (text,), tables=tables)
