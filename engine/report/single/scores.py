"""Every score, overall and by group, with its interval."""

import math

from equipoise.engine.metrics.comparing.methods import entry
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.figures import forests
from equipoise.engine.report.page.page import Cell, Figure, ReportTable, Section, pointer, text_cell
from equipoise.engine.report.page.words import (
    interval,
    number,
    title,
)
from equipoise.engine.report.single.context import Context
from equipoise.engine.report.single.findings import (
    listed,
    shown,
)


def score_cell(context: Context, metric: str, place: tuple[str, str] | None) -> Cell:
    """A cell with a score, its interval and n; ``place`` is (attribute, level), or None for everyone."""
    estimate = context.frame.groups[place[0]][place[1]][metric] if place else context.frame.overall[metric]
    note = interval(*estimate.limits(CONFIDENCE))
    flag = " †" if estimate.reason and math.isfinite(estimate.value) else ""
    count = f"n={estimate.n}" if estimate.n is not None else ""
    note = f"{note} · {count}{flag}" if note else " · ".join(x for x in (count, estimate.reason) if x)
    key = pointer("groups", *place, metric) if place else pointer("overall", metric)
    return Cell(number(estimate.value), key, note)


def section(context: Context) -> Section:
    """The section on scores: every score overall and by group, with its interval."""
    drawn: list[Figure] = []
    tables = []
    for attribute, levels in context.simple.items():
        inside = {level: context.frame.groups[attribute][level] for level in levels}
        drawn.append(forests.forest(shown(context), context.frame.overall, inside, attribute))
    for attribute, levels in (context.simple or {"": []}).items():
        rows: list[tuple[Cell, ...]] = []
        for metric in listed(context):
            about = entry(metric)
            name = title(metric) + (" *" if about.depends_on_prevalence else "")
            cells = [score_cell(context, metric, (attribute, level)) for level in levels]
            lower = "" if about.higher_is_better or about.target is not None else "lower is better"
            rows.append((text_cell(name, lower), score_cell(context, metric, None), *cells))
        header = ("score", "all", *(f"{attribute}: {level}" for level in levels))
        tables.append(
            ReportTable(header, rows, f"All {len(rows)} scores by {attribute}", True)
            if attribute
            else ReportTable(header, rows)
        )
    notes = []
    if any(entry(m).depends_on_prevalence for m in context.frame.overall):
        notes.append(
            "* depends on the share of positives, so groups can differ in it without being treated differently."
        )
    flagged = any(
        e.reason for g in context.frame.groups.values() for cells in g.values() for e in cells.values()
    )
    if flagged or any(e.reason for e in context.frame.overall.values()):
        notes.append(
            "† marks a small cell, or one in which some resamples are undefined; read it with care (metrics.json says which)."
        )
    return Section("Scores, overall and by group", (), drawn, tables, notes=notes)
