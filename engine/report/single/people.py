"""Who was scored, and what the scores mean for them: the composition by group, and errors as counts of people."""

import numpy as np

from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.metrics.table.suppression import row_levels
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.report.page.page import Cell, ReportTable, Section, text_cell
from equipoise.engine.report.page.words import number
from equipoise.engine.report.single.context import Context, named_class
from equipoise.engine.vocabulary import UNKNOWN

_MOST_CLASSES = 8  # most classes with a column of their own
SUPPRESSED = "suppressed"


def _truths(context: Context) -> dict[str, np.ndarray]:
    """Heading of a column of counts -> [n] whether each image counts there."""
    schema = context.schema
    columns = Table(context.table, schema).columns()
    if schema.kind == "binary":
        negative = next(c for c in schema.classes if c != schema.positive)
        return {
            named_class(context, c): columns["truth"] == (c == schema.positive)
            for c in (schema.positive, negative)
        }
    if schema.kind == "multiclass":
        return {c: columns["truth"] == k for k, c in enumerate(schema.classes[:_MOST_CLASSES])}
    if schema.kind == "multilabel":
        return dict(zip(schema.classes[:_MOST_CLASSES], columns["truth"].T, strict=False))
    if schema.kind == "values" and context.min_cell is None:
        table = Table(context.table, schema)
        missing = {f"no {name}": ~np.isfinite(table.columns(name)["value"]) for name in table.models}
        return {name: rows for name, rows in missing.items() if rows.any()}
    return {}


def _share(count: int, of: int) -> str:
    return f"{number(100 * count / of, 0)} %" if of else ""


def _row(
    context: Context, name: str, rows: np.ndarray, truths: dict[str, np.ndarray], others: list[str]
) -> tuple:
    inside = context.table[rows]
    unknown = [
        f"{a} {_share(int((inside[a] == UNKNOWN).sum()), len(inside))}" for a in others if (inside[a] == UNKNOWN).any()
    ]  # fmt: skip
    events = [(int((truth & rows).sum())) for truth in truths.values()]
    return (
        text_cell(name),
        Cell(str(len(inside)), note=_share(len(inside), len(context.table))),
        Cell(str(inside["subject_id"].nunique())),
        *(Cell(str(n), note=_share(n, len(inside))) for n in events),
        text_cell(", ".join(unknown) or "none"),
    )


def _introduction(context: Context) -> str:
    """What the page judges, and on whom."""
    judged = (
        "This page judges a model on people that it was not trained on"
        if context.is_run
        else "This page judges the scores of a model as they stand in a table; only those who made the model can say whether these people were kept "
        "out of its training"
    )  # fmt: skip
    return (
        f"{judged}. A score of a group is only as good as the number of people, and of events, behind it. The unit of analysis "
        f"is the patient, not the {context.unit.removesuffix('s')}."
    )


def composition(context: Context) -> Section:
    """The section on who was scored: images, patients, events and unknown attributes, by group."""
    truths = _truths(context)
    header = ("", context.unit, "patients", *truths, "unknown attributes")
    attributes = list(context.simple)
    everyone = np.ones(len(context.table), bool)
    rows, shared = [_row(context, "all", everyone, truths, attributes)], context.min_cell is not None
    for attribute, levels in context.simple.items():
        level_of = row_levels(context.table, attribute)
        # Counts of unknown attributes within a group cross two groupings; a shared report does not show such cells.
        others = [] if shared else [a for a in attributes if a != attribute]
        for level in levels:
            if context.is_hidden(attribute, level):
                blank = [Cell("–")] * (len(header) - 3)
                rows.append((text_cell(f"{attribute}: {level}"), Cell(SUPPRESSED), *blank, text_cell("")))
            else:
                rows.append(_row(context, f"{attribute}: {level}", level_of == level, truths, others))
    if shared:
        rows = [row[:-1] for row in rows]
        header = header[:-1]
    text = [_introduction(context)]
    if shared:
        text.append(
            f"This report may be shared. A group is suppressed where it has fewer than {context.min_cell} patients, or fewer than {context.min_cell} with or "
            "without an event; every number from which it could be calculated is suppressed too. Suppressed does not mean good or bad."
        )  # fmt: skip
    left_out = [a for a in context.simple if len(context.frame.groups[a]) > len(context.levels(a))]
    text += [
        f"“{a}” has {len(context.frame.groups[a])} levels; this page shows the {len(context.levels(a))} with the most {context.unit}, "
        "and metrics.csv holds all."
        for a in left_out
    ]
    numeric = [name for name, levels in context.schema.attributes.items() if levels is None]
    if numeric:
        text.append(f"These attributes are numbers and form no groups: {', '.join(numeric)}.")
    return Section("Who was scored", [*text, *context.notes], tables=(ReportTable(header, rows),))


def _of_hundred(estimate: Estimate, around: str = " ({} to {})") -> str:
    """A rate as a count of 100 people, ``12 (8 to 17)``; a rate is never shown without its interval."""
    shown = [number(100 * x, 0) for x in (estimate.value, *estimate.limits(CONFIDENCE))]
    return "–" if "–" in shown else shown[0] + around.format(*shown[1:])


_MOST_SAID = 6  # most groups of an attribute that get sentences
_FREQUENCIES = {
    "fnr": "missed, of 100 with it",
    "fpr": "wrongly called positive, of 100 without it",
    "ppv": "have it, of 100 called positive",
}


def natural_frequencies(context: Context) -> Section | None:
    """The section with error rates as counts of 100 people, for those who treat them; None where the task has no such rates."""
    frame, schema = context.frame, context.schema
    if schema.kind != "binary" or "fnr" not in frame.overall:
        return None
    what = named_class(context, schema.positive)
    kinds = {k: v for k, v in _FREQUENCIES.items() if k in frame.overall}
    rows = [(text_cell("everyone"), *(Cell(_of_hundred(frame.overall[k])) for k in kinds))]
    sentences = []
    for attribute, levels in context.simple.items():
        estimates = {level: frame.groups[attribute][level] for level in levels}
        rows += [
            (text_cell(f"{attribute}: {v}"), *(Cell(_of_hundred(e[k])) for k in kinds))
            for v, e in estimates.items()
        ]
        known = {
            v: _of_hundred(e["fnr"], " were missed ({} to {})") for v, e in estimates.items() if v != UNKNOWN
        }
        if 1 < len(known) <= _MOST_SAID:
            who = f"Of 100 {context.unit} with {what} in the group “{attribute}: "
            sentences += [f"{who}{v}”, {counts}." for v, counts in known.items() if counts != "–"]
    text = (
        f"The same error rates as counts of 100 {context.unit}, with their 95 % intervals in brackets. “It” is {what}.",
    )
    return Section(
        "In natural frequencies", text, points=sentences, tables=(ReportTable(("", *kinds.values()), rows),)
    )
