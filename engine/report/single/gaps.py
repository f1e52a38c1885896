"""The gaps between groups: differences to a reference group, worst groups and ranges."""

import math
from collections.abc import Collection

from equipoise.engine.metrics.comparing.methods import entry
from equipoise.engine.metrics.frames.disparities import Disparity
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
    compared,
    gap_symbol,
    gap_title,
    leading,
    listed,
    main_gaps,
    split_name,
)

_MOST_OPEN = 16  # most rows of a table that is not folded


def section(context: Context) -> Section:
    """The section on gaps: differences to the reference group, worst groups and ranges."""
    drawn, tables, notes = [], [], []
    for attribute in context.simple:
        if not context.frame.disparities.get(attribute):
            notes.append(
                f"“{attribute}” has fewer than two levels with people, so there is nothing to compare."
            )
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
                caption = f"{sentence(title(metric))} by {attribute}: the group minus “{reference}”. Left of 0 the group has {side}."
                drawn.append(forests.gaps(rows, name, caption))
        for metrics, more, is_folded in (
            (leading(context), "", False),
            ({*listed(context)} - leading(context), " in more scores", True),
        ):
            caption = f"Differences{more} by {attribute}"
            tables.append(difference_table(context, attribute, metrics, caption, is_folded))
        caption = f"Each group of {attribute} against everyone else"
        tables.append(difference_table(context, attribute, leading(context), caption, True, "to_rest"))
        tables.append(_extreme_table(context, attribute, f"Worst groups and ranges by {attribute}"))
    tables = [t for t in tables if t.rows]
    if context.schema.kind == "binary":
        notes.append(
            "ΔTPR and ΔFPR are the differences in sensitivity and in false-positive rate. Equalised odds means that both are 0."
        )
    notes.append(
        "p is two-sided, tests the hypothesis that the difference is 0, and is adjusted (Holm) for the number of levels compared. "
        "A worst group or a range is picked because it is extreme, so even equal groups show one. Their intervals allow for that "
        "(Bonferroni), and the columns “by chance” say which values appear when all groups are equal: the average, and the span that "
        "holds nine tables of ten. The p of a range tests the hypothesis that all groups are equal; it is not adjusted. People whose group "
        "is unknown are shown above, but they are not compared with anyone."
    )
    return Section("Gaps between groups", notes, drawn, tables)


def difference_table(
    context: Context,
    attribute: str,
    metrics: Collection[str],
    caption: str,
    is_folded: bool = False,
    wanted: str = "difference",
) -> ReportTable:
    """A table of signed differences between the levels that the page shows.

    Args:
      context: the report.
      attribute: attribute that forms the groups.
      metrics: metrics that the table has.
      caption: text above the table.
      is_folded: whether the table is folded; a long one is in any case.
      wanted: ``difference`` to the reference group, or ``to_rest`` for the difference to everyone else.
    """
    rows, levels = [], context.levels(attribute)
    for name, gap in context.frame.disparities[attribute].items():
        kind, metric = split_name(name, gap)
        if kind == wanted and gap.levels[0] in levels and metric in metrics:
            heading = ", ".join(filter(None, (title(metric), gap_symbol(metric))))
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


def by_chance(score: Disparity) -> Cell:
    """A cell that says what a score over groups is when all groups are equal: its mean, and the span that holds nine tables of ten."""
    return Cell(number(score.null_mean), note=interval(score.null_low, score.null_high))


def _extreme_table(context: Context, attribute: str, caption: str) -> ReportTable:
    rows, scores = [], context.frame.disparities[attribute]
    for metric in listed(context):
        worst, spread = scores.get(f"worst_group:{metric}"), scores.get(f"max_min:{metric}")
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
