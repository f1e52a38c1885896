"""The gaps between groups: differences to a reference group, worst groups and ranges."""

import math
from collections.abc import Collection

from equipoise.engine.metrics.comparing.methods import entry
from equipoise.engine.metrics.frame.evaluate import Disparity
from equipoise.engine.report.figures import forests
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.page.page import Cell, ReportTable, Section, pointer, text_cell
from equipoise.engine.report.page.words import (
    interval,
    number,
    probability,
    sentence,
    shown_level,
    title,
)
from equipoise.engine.report.single.context import Context
from equipoise.engine.report.single.findings import (
    SHORT,
    compared,
    gap_title,
    leading,
    listed,
    main_gaps,
    split_name,
)

_MOST_OPEN = 16  # rows of a table that is not folded


def section(context: Context) -> Section:
    """Signed differences against the reference group, the worst group, and the range."""
    drawn, grids, notes = [], [], []
    for attribute in context.simple:
        found = context.frame.disparities.get(attribute)
        if not found:
            notes.append(f"“{attribute}” has fewer than two filled levels: nothing to compare.")
            continue
        reference = context.frame.references[attribute]
        main = {k: d for (a, k), d in main_gaps(context).items() if a == attribute and math.isfinite(d.value)}
        for metric in compared(context):
            rows = [
                (f"{gap_title(metric)}: {' − '.join(d.levels)}", d.value, d.low, d.high)
                for k, d in main.items() if split_name(k, d)[1] == metric
            ]  # fmt: skip
            if rows:
                name = f"gaps_by_{figures.file_name(attribute)}_{figures.file_name(metric)}"
                side = "the lower value" if entry(metric).high != 1 else "the lower rate"
                caption = f"{sentence(title(metric))} by {attribute}: group minus “{reference}”. Left of 0 the group has {side}."
                drawn.append(forests.gaps(rows, name, caption))
        for metrics, more, is_folded in (
            (leading(context), "", False),
            ({*listed(context)} - leading(context), " in more scores", True),
        ):
            caption = f"Differences{more} by {attribute}"
            grids.append(difference_grid(context, attribute, metrics, caption, is_folded))
        caption = f"Each group of {attribute} against everyone else"
        grids.append(difference_grid(context, attribute, leading(context), caption, True, "to_rest"))
        grids.append(_extreme_grid(context, attribute, f"Worst groups and ranges by {attribute}"))
    grids = [g for g in grids if g.rows]
    if context.schema.kind == "binary":
        notes.append(
            "ΔTPR and ΔFPR are differences in sensitivity and in false-positive rate; equal odds means that both are 0."
        )
    notes.append(
        "p is two-sided, for the hypothesis that the difference is 0, and adjusted (Holm) for the number of levels compared. "
        "A worst group or a range is picked because it is extreme, so that equal groups also show one; their intervals allow for that "
        "(Bonferroni), and the columns “by chance” say what is read while all groups are equal: on average, and in nine tables of ten. "
        "The p of a range is for that hypothesis, not adjusted. People of unknown group are shown above and compared nowhere."
    )
    return Section("Gaps between groups", notes, drawn, grids)


def difference_grid(
    context: Context,
    attribute: str,
    metrics: Collection[str],
    caption: str,
    is_folded: bool = False,
    wanted: str = "difference",
) -> ReportTable:
    """Signed differences in some metrics, among the levels that the page shows: to the reference, or ``to_rest``."""
    rows, levels = [], context.levels(attribute)
    for name, gap in context.frame.disparities[attribute].items():
        kind, metric = split_name(name, gap)
        if kind == wanted and gap.levels[0] in levels and metric in metrics:
            heading = title(metric) + (f", {SHORT[metric]}" if metric in SHORT else "")
            around = interval(gap.low, gap.high, 3, True)
            value = Cell(number(gap.value, 3, True), pointer("disparities", attribute, name), around)
            pair = shown_level(attribute, " − ".join(gap.levels)) + " − the rest" * (wanted == "to_rest")
            cells = (
                text_cell(pair),
                value,
                Cell(probability(gap.p_adjusted)),
                Cell(number(gap.min_detectable)),
            )
            rows.append((text_cell(heading, gap.reason or ""), *cells))
    header = ("difference in", attribute, "value, 95 % interval", "p, adjusted", "smallest detectable")
    return ReportTable(header, rows, caption, is_folded or len(rows) > _MOST_OPEN)


def by_chance(found: Disparity) -> Cell:
    """What an extreme reads on average while all groups are equal, and between which values in nine tables of ten."""
    return Cell(number(found.null_mean), note=interval(found.null_low, found.null_high))


def _extreme_grid(context: Context, attribute: str, caption: str) -> ReportTable:
    rows, found = [], context.frame.disparities[attribute]
    for metric in listed(context):
        worst, spread = found.get(f"worst_group:{metric}"), found.get(f"max_min:{metric}")
        if worst is None or spread is None:
            continue
        cells = [
            cell
            for k, d in (("worst_group", worst), ("max_min", spread))
            for cell in (
                Cell(
                    number(d.value),
                    pointer("disparities", attribute, f"{k}:{metric}"),
                    interval(d.low, d.high),
                ),
                by_chance(d),
            )
        ]
        name = text_cell(title(metric), worst.reason or "")
        rows.append((name, text_cell(", ".join(worst.levels)), *cells, Cell(probability(spread.p))))
    header = ("score", "worst group", "its value", "by chance", "largest − smallest", "by chance", "p")
    return ReportTable(header, rows, caption, True)
