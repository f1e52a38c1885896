"""What a report finds: the conclusion in one sentence, every score by group, and the gaps between groups."""

import math

import numpy as np

from engine.metrics import classification, intervals
from engine.metrics.frame import CONFIDENCE, Disparity
from engine.report import figures
from engine.report.page import (
    Cell,
    Context,
    Figure,
    Grid,
    KeyNumber,
    Section,
    interval,
    number,
    probability,
    text_cell,
)

SHOWN = ("auroc", "accuracy", "sensitivity", "fpr")
GAPS = {"sensitivity": "ΔTPR", "fpr": "ΔFPR"}


def _points(value: float) -> str:
    """A difference of proportions in percentage points."""
    return number(100 * value, 1, signed=True)


def main_gaps(context: Context) -> dict[tuple[str, str], Disparity]:
    """(attribute, score name) -> gap in sensitivity or false-positive rate, over all attributes."""
    return {
        (attribute, name): found
        for attribute, scores in context.frame.disparities.items()
        for name, found in scores.items()
        if name.startswith("difference:") and name.split(":")[1] in GAPS
    }


def conclusion(context: Context) -> str:
    """One plain sentence: whom the model serves differently, or how large a gap could have stayed unseen."""
    gaps = {k: d for k, d in main_gaps(context).items() if math.isfinite(d.value)}
    if not gaps:
        return "No two groups can be compared on sensitivity or false-positive rate: the table has no attribute with two filled levels."
    adjusted = dict(zip(gaps, intervals.holm([d.p for d in gaps.values()]), strict=True))
    (attribute, name), found = min(
        gaps.items(), key=lambda item: (np.nan_to_num(adjusted[item[0]], nan=2.0), -abs(item[1].value))
    )
    metric, (level, reference) = name.split(":")[1], found.levels
    if not adjusted[attribute, name] < 1 - CONFIDENCE:
        missed = max(
            (d.min_detectable for d in gaps.values() if math.isfinite(d.min_detectable)), default=float("nan")
        )
        return (
            "No difference between groups in sensitivity or false-positive rate is established; "
            f"with this many patients a gap under {number(100 * missed, 0)} points could have been missed."
        )
    groups = context.frame.groups[attribute]
    first, second = (f"{number(100 * groups[g][metric].value, 0)} %" for g in (level, reference))
    schema = context.schema
    negative = next(c for c in schema.classes if c != schema.positive)
    sick = metric == "sensitivity"
    who, does = (schema.positive, ("finds", "")) if sick else (negative, ("wrongly calls", " positive"))
    return (
        f"The model serves the groups of “{attribute}” differently: of images with {schema.label} {who} it {does[0]} {first}{does[1]} "
        f"in group “{level}”, but {second} in group “{reference}” ({_points(found.value)} points, 95 % interval {_points(found.low)} "
        f"to {_points(found.high)})."
    )


def key_numbers(context: Context) -> list[KeyNumber]:
    """The numbers at the top: AUROC, accuracy, and the gaps of the first attribute that has them."""
    keys = []
    for metric in ("auroc", "accuracy"):
        estimate = context.frame.overall[metric]
        note = interval(*estimate.limits(CONFIDENCE))
        title = {"auroc": "AUROC"}.get(metric, classification.get(metric).title.capitalize())
        keys.append(KeyNumber(title, number(estimate.value), note, f"overall.{metric}"))
    for (attribute, name), found in list(main_gaps(context).items())[:2]:
        metric = name.split(":")[1]
        title = f"{GAPS[metric]} by {attribute}: {' − '.join(found.levels)}"
        keys.append(
            KeyNumber(
                title,
                number(found.value, 3, True),
                interval(found.low, found.high, 3, True),
                f"disparities.{attribute}.{name}",
            )
        )
    return keys


def _score_cell(context: Context, metric: str, place: tuple[str, str] | None) -> Cell:
    estimate = context.frame.groups[place[0]][place[1]][metric] if place else context.frame.overall[metric]
    note = interval(*estimate.limits(CONFIDENCE))
    flag = " †" if estimate.reason and math.isfinite(estimate.value) else ""
    note = f"{note} · n={estimate.n}{flag}" if note else f"n={estimate.n} · {estimate.reason}"
    key = f"groups.{place[0]}.{place[1]}.{metric}" if place else f"overall.{metric}"
    return Cell(number(estimate.value), key, note)


def scores(context: Context) -> Section:
    """Every score overall and by group, with its interval."""
    drawn: list[Figure] = []
    grids = []
    truth = (context.table["target"] == context.schema.classes.index(context.schema.positive)).to_numpy()
    for attribute, levels in context.frame.groups.items():
        drawn.append(figures.forest(SHOWN, context.frame.overall, levels, attribute))
        curves = {}
        for level in levels:
            rows = (context.table[attribute] == level).to_numpy()
            inside = context.table[rows]
            if len(inside):
                curves[level] = (truth[rows], inside["score"].to_numpy(), float(inside["threshold"].iloc[0]))
        drawn.append(figures.roc(curves, attribute))
    for attribute, levels in (context.frame.groups or {"": {}}).items():
        rows = []
        for metric in context.frame.overall:
            entry = classification.get(metric)
            name = entry.title + (" *" if entry.depends_on_prevalence else "")
            cells = [_score_cell(context, metric, (attribute, level)) for level in levels]
            rows.append(
                (
                    text_cell(name, "" if entry.higher_is_better else "lower is better"),
                    _score_cell(context, metric, None),
                    *cells,
                )
            )
        grids.append(Grid(("score", "all", *(f"{attribute}: {level}" for level in levels)), rows))
    notes = [
        "* moves with the share of positives, so that groups can differ in it without being treated differently."
    ]
    flagged = any(
        e.reason for g in context.frame.groups.values() for cells in g.values() for e in cells.values()
    )
    if flagged or any(e.reason for e in context.frame.overall.values()):
        notes.append(
            "† a small cell, or one in which some resamples are undefined: read with care (metrics.json says which)."
        )
    numeric = [name for name, levels in context.schema.attributes.items() if levels is None]
    if numeric:
        notes.append(f"Attributes that are numbers are not grouped: {', '.join(numeric)}.")
    return Section("Scores, overall and by group", (), drawn, grids, notes=notes)


def gaps(context: Context) -> Section:
    """Signed differences against the reference group, the worst group, and the range."""
    drawn, grids, notes = [], [], []
    for attribute, found in context.frame.disparities.items():
        if not found:
            notes.append(f"“{attribute}” has fewer than two filled levels: nothing to compare.")
            continue
        reference = context.frame.references[attribute]
        main = {k: d for (a, k), d in main_gaps(context).items() if a == attribute}
        rows = [
            (f"{GAPS[k.split(':')[1]]}: {' − '.join(d.levels)}", d.value, d.low, d.high)
            for k, d in main.items()
            if math.isfinite(d.value)
        ]
        if rows:
            caption = (
                f"Gaps by {attribute}: group minus “{reference}”. Left of 0 the group has the lower rate."
            )
            drawn.append(figures.gaps(rows, f"gaps_by_{attribute}", caption))
        grids.append(_difference_grid(attribute, found))
        grids.append(_extreme_grid(attribute, found))
    notes.append(
        "ΔTPR and ΔFPR are differences in sensitivity and in false-positive rate; equal odds means that both are 0. "
        "p is two-sided, for the hypothesis that the difference is 0, and adjusted (Holm) for the number of levels compared."
    )
    notes.append(
        "A worst group or a range is picked because it is extreme, so that equal groups also show one; their intervals allow for that "
        "(Bonferroni), and the last column says how large a range chance alone gives. People of unknown group are shown above and compared nowhere."
    )
    return Section("Gaps between groups", notes, drawn, grids)


def _difference_grid(attribute: str, found: dict[str, Disparity]) -> Grid:
    rows = []
    for name, gap in found.items():
        kind, metric, *_ = name.split(":")
        if kind == "difference":
            title = classification.get(metric).title + (f", {GAPS[metric]}" if metric in GAPS else "")
            value = Cell(
                number(gap.value, 3, True),
                f"disparities.{attribute}.{name}",
                interval(gap.low, gap.high, 3, True),
            )
            rows.append(
                (
                    text_cell(title, gap.reason or ""),
                    text_cell(" − ".join(gap.levels)),
                    value,
                    Cell(probability(gap.p_adjusted)),
                    Cell(number(gap.min_detectable)),
                )
            )
    return Grid(
        ("difference in", attribute, "value, 95 % interval", "p, adjusted", "smallest detectable"),
        rows,
        f"Differences by {attribute}",
    )


def _extreme_grid(attribute: str, found: dict[str, Disparity]) -> Grid:
    rows = []
    for metric in classification.METRICS:
        worst, spread = found.get(f"worst_group:{metric}"), found.get(f"max_min:{metric}")
        if worst is None or spread is None:
            continue
        path = f"disparities.{attribute}"
        cells = [
            Cell(number(d.value), f"{path}.{k}:{metric}", interval(d.low, d.high))
            for k, d in (("worst_group", worst), ("max_min", spread))
        ]
        chance = spread.null.rsplit("up to ", 1)[1].split(" ")[0] if spread.test else "–"
        rows.append(
            (
                text_cell(classification.get(metric).title, worst.reason or ""),
                text_cell(", ".join(worst.levels)),
                *cells,
                Cell(chance),
            )
        )
    return Grid(
        ("score", "worst group", "its value", "largest − smallest", "largest − smallest by chance"),
        rows,
        f"Extremes by {attribute}",
    )
