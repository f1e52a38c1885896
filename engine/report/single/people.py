"""Who was scored, and what the scores mean for them: composition by group, and errors as counts of people."""

import numpy as np

from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.metrics.table.suppression import row_levels
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.report.page.page import Cell, Context, Grid, Section, named_class, number, text_cell
from equipoise.engine.vocabulary import UNKNOWN

_MOST_CLASSES = 8
SUPPRESSED = "suppressed"


def _truths(context: Context) -> dict[str, np.ndarray]:
    """Heading -> [n] whether an image counts as it."""
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
        "A model, judged on people it was not trained on"
        if context.is_run
        else "Scores of a model, judged as they stand in a table; whether these people were kept out of training is for those who made it to say"
    )  # fmt: skip
    return (
        f"{judged}. A score by group is only as good as the number of people, and of events, that it stands on; the unit of certainty "
        f"is the patient, not the {context.unit.removesuffix('s')}."
    )


def composition(context: Context) -> Section:
    """Images, patients, events and what is unknown, by group: the first thing to look at."""
    truths = _truths(context)
    header = ("", context.unit, "patients", *truths, "unknown attributes")
    attributes = list(context.simple)
    everyone = np.ones(len(context.table), bool)
    rows, shared = [_row(context, "all", everyone, truths, attributes)], context.min_cell is not None
    for attribute, levels in context.simple.items():
        level_of = row_levels(context.table, attribute)
        # What is unknown within a group crosses two groupings: a shared report does not show such cells.
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
            f"This report may be shared: a group with fewer than {context.min_cell} patients, or fewer than {context.min_cell} with or "
            "without an event, is suppressed, and so is what would let it be calculated. Suppressed does not mean good or bad."
        )  # fmt: skip
    left_out = [a for a in context.simple if len(context.frame.groups[a]) > len(context.levels(a))]
    text += [
        f"“{a}” has {len(context.frame.groups[a])} levels; this page shows the {len(context.levels(a))} with most {context.unit}, "
        "metrics.csv all."
        for a in left_out
    ]
    numeric = [name for name, levels in context.schema.attributes.items() if levels is None]
    if numeric:
        text.append(f"Attributes that are numbers are not grouped: {', '.join(numeric)}.")
    return Section("Who was scored", [*text, *context.notes], tables=(Grid(header, rows),))


def _of_hundred(estimate: Estimate, around: str = " ({} to {})") -> str:
    """``12 (8 to 17)`` of 100 people; a rate is never shown without its interval."""
    shown = [number(100 * x, 0) for x in (estimate.value, *estimate.limits(CONFIDENCE))]
    return "–" if "–" in shown else shown[0] + around.format(*shown[1:])


_MOST_SAID = 6  # groups of an attribute that are said in words
_FREQUENCIES = {
    "fnr": "of 100 with it, missed",
    "fpr": "of 100 without it, wrongly called positive",
    "ppv": "of 100 called positive, who have it",
}


def natural_frequencies(context: Context) -> Section | None:
    """Error rates as counts of a hundred people, for those who treat them; None where the task has no such rates."""
    frame, schema = context.frame, context.schema
    if schema.kind != "binary" or "fnr" not in frame.overall:
        return None
    what = named_class(context, schema.positive)
    kinds = {k: v for k, v in _FREQUENCIES.items() if k in frame.overall}
    rows = [(text_cell("everyone"), *(Cell(_of_hundred(frame.overall[k])) for k in kinds))]
    said = []
    for attribute, levels in context.simple.items():
        found = {level: frame.groups[attribute][level] for level in levels}
        rows += [
            (text_cell(f"{attribute}: {v}"), *(Cell(_of_hundred(e[k])) for k in kinds))
            for v, e in found.items()
        ]
        known = {v: _of_hundred(e["fnr"], " were missed; {} to {}") for v, e in found.items() if v != UNKNOWN}
        if 1 < len(known) <= _MOST_SAID:
            who = f"Of 100 {context.unit} with {what} in the group “{attribute}: "
            said += [f"{who}{v}”, {counts}." for v, counts in known.items() if counts != "–"]
    text = (
        f"The same error rates as counts of a hundred {context.unit}; the second numbers are what 95 % intervals allow. “It” is {what}.",
    )
    return Section("In natural frequencies", text, points=said, tables=(Grid(("", *kinds.values()), rows),))
