"""Two models on the same people: what differs overall, in each group, and in the gaps between groups."""

import dataclasses
import math
from collections.abc import Sequence

import matplotlib.lines
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from equipoise.engine.metrics.comparing import paired
from equipoise.engine.metrics.comparing.paired import GAP, GROUP, OVERALL, Change, ModelComparison
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.page.page import Cell, Figure, ReportTable, Section, text_cell
from equipoise.engine.report.page.words import interval, number, probability, sentence, shown_level, title
from equipoise.engine.report.single import findings
from equipoise.engine.report.single.context import Context

_MOST_ROWS, _MOST_PANELS = 11, 3  # of the figure
_CAPTIONS = {OVERALL: "Overall", GROUP: "In each group", GAP: "In the gaps to the reference group"}


def added(context: Context, models: Sequence[str]) -> Context:
    """Adds a comparison of two models to a report, in the metrics that the page leads with.

    Args:
      context: the report.
      models: names of the first and the second model; differences are second minus first.
    """
    metrics = list(dict.fromkeys([*findings.compared(context), *findings.shown(context)]))
    table = Table(context.table, context.schema)
    return dataclasses.replace(context, comparison=paired.compare(table, context.models, models, metrics))


def _place(change: Change) -> str:
    if change.kind == OVERALL:
        return "everyone"
    return shown_level(change.attribute, f"{change.attribute}: {' − '.join(change.levels)}")


def _is_established(change: Change) -> bool:
    return change.p_adjusted < 1 - CONFIDENCE


def _sentence(comparison: ModelComparison, change: Change) -> str:
    signed = change.kind == GAP
    first, second = (number(x, 3, signed) for x in (change.first, change.second))
    what = (
        f"the gap in {title(change.metric)} ({_place(change)})"
        if signed
        else f"{title(change.metric)} of {_place(change)}"
    )
    around = f"{number(change.value, 3, True)}, 95 % interval {interval(change.low, change.high, 3, True)}"
    return f"{sentence(what)} is {first} with “{comparison.first}” and {second} with “{comparison.second}” ({around})"


def _statements(comparison: ModelComparison) -> list[str]:
    """The comparison in sentences; those on groups and gaps name the established differences and count the rest."""
    sentences = []
    for change in (c for c in comparison.changes if c.kind == OVERALL and math.isfinite(c.low)):
        end = "." if _is_established(change) else "; a difference is not established."
        sentences.append(_sentence(comparison, change) + end)
    for kind in (GROUP, GAP):
        known = [c for c in comparison.changes if c.kind == kind and math.isfinite(c.p)]
        sure = [c for c in known if _is_established(c)]
        sentences += [f"{_sentence(comparison, c)}." for c in sure]
        if len(sure) < len(known):
            what = "scores of groups" if kind == GROUP else "gaps between groups"
            sentences.append(
                f"In {len(known) - len(sure)} of {len(known)} {what}, no difference between the models is established; this is not evidence "
                "that there is none."
            )  # fmt: skip
    return sentences


def _headline(comparison: ModelComparison) -> str:
    sure = [c for c in comparison.changes if c.kind == GAP and _is_established(c)]
    if sure:
        return _sentence(comparison, min(sure, key=lambda c: c.p_adjusted)) + "."
    return f"On the same people, no gap between groups is established to differ between “{comparison.first}” and “{comparison.second}”."


def _table(comparison: ModelComparison, kind: str) -> ReportTable:
    rows = []
    for change in (c for c in comparison.changes if c.kind == kind):
        signed = kind == GAP
        rows.append((
            text_cell(title(change.metric)), text_cell(_place(change)), Cell(number(change.first, 3, signed)),
            Cell(number(change.second, 3, signed)),
            Cell(number(change.value, 3, True), note=interval(change.low, change.high, 3, True) or change.reason or ""),
            Cell(probability(change.p_adjusted), note=change.test),
        ))  # fmt: skip
    header = (
        "score",
        "",
        comparison.first,
        comparison.second,
        f"{comparison.second} − {comparison.first}, 95 % interval",
        "p, adjusted",
    )
    return ReportTable(header, rows, _CAPTIONS[kind], kind != OVERALL)


def figure(comparison: ModelComparison, metrics: Sequence[str], attributes: Sequence[str]) -> Figure:
    """Draws paired differences with their intervals, of everyone and of groups; each metric has a panel.

    Args:
      comparison: the comparison.
      metrics: metrics to show, from top to bottom.
      attributes: attributes whose groups are shown; where there is no room for all groups, the first are.
    """
    panels = {}
    for metric in metrics[:_MOST_PANELS]:
        changes = [c for c in comparison.changes if c.metric == metric and c.kind in (OVERALL, GROUP)]
        panels[metric] = [c for c in changes if c.kind == OVERALL or c.attribute in attributes][:_MOST_ROWS]
    colour = {a: figures.COLOURS[i % 6] for i, a in enumerate(attributes)}
    marker = {a: figures.MARKERS[i % len(figures.MARKERS)] for i, a in enumerate(attributes)}
    height = sum(0.25 * len(rows) + 0.72 for rows in panels.values()) + 0.55
    with figures.style():
        canvas = Canvas(figsize=(figures.WIDTH, height), layout="constrained")
        ratios = [len(rows) + 2.6 for rows in panels.values()]
        drawn = np.atleast_1d(canvas.subplots(len(panels), 1, height_ratios=ratios))
        for axes, (metric, rows) in zip(drawn, panels.items(), strict=True):
            _panel(axes, rows, colour, marker)
            axes.set_title(
                figures.label(sentence(title(metric)), 58), loc="left", fontweight="bold", fontsize=10
            )
        drawn[-1].set_xlabel(figures.label(f"{comparison.second} − {comparison.first}", 60))
        legend = [
            matplotlib.lines.Line2D(
                [], [], ls="", marker="o", ms=5.5, color=figures.INK, mfc=fill, label=words
            )
            for fill, words in ((figures.INK, "established after Holm"), ("white", "not established"))
        ]
        canvas.legend(handles=legend, loc="outside lower center", ncols=2, handletextpad=0.2)
        differences = "; ".join(
            f"{metric} {_place(c)} {number(c.value, 3, True)}"
            for metric, rows in list(panels.items())[:2] for c in rows
        )  # fmt: skip
        return figures.finish(
            canvas, "comparison", f"{comparison.second} minus {comparison.first} with 95 % intervals: {differences}.",
            f"Each score of “{comparison.second}” minus that of “{comparison.first}” on the same people; lines are 95 % intervals of the paired "
            "difference. Filled markers are differences established after Holm's correction.",
        )  # fmt: skip


def _panel(axes: Axes, rows: Sequence[Change], colour: dict[str, str], marker: dict[str, str]) -> None:
    axes.axvline(0, color=figures.SOFT, lw=1)
    for place, change in enumerate(rows):
        shade = colour.get(change.attribute, figures.INK)
        if math.isfinite(change.low):
            axes.plot([change.low, change.high], [place, place], color=shade, lw=2, solid_capstyle="butt")
        if math.isfinite(change.value):
            axes.plot(
                change.value, place, marker.get(change.attribute, "D"), color=shade, ms=6, mew=1.4,
                mfc=shade if _is_established(change) else "white",
            )  # fmt: skip
    texts = [
        number(c.value, 3, True) + (f" ({interval(c.low, c.high, 3, True)})" if math.isfinite(c.low) else "")
        for c in rows
    ]
    figures.name_rows(axes, range(len(rows)), [figures.label(_place(c)) for c in rows], texts)
    reach = max([0.02, *(abs(x) for c in rows for x in (c.low, c.value, c.high) if math.isfinite(x))]) * 1.08
    axes.set(xlim=(-reach, reach), ylim=(len(rows) - 0.4, -0.6))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, symmetric=True))
    axes.grid(axis="x", color=figures.LINE, lw=0.7)
    axes.set_axisbelow(True)


def section(context: Context) -> Section | None:
    """The section on two compared models; None where nobody asked for a comparison."""
    comparison = context.comparison
    if comparison is None:
        return None
    text = (
        f"Differences are “{comparison.second}” minus “{comparison.first}” on the same {context.unit}, from the same resamples. What both models find "
        "easy or hard cancels, so a difference can be established although the two intervals overlap. AUROC uses DeLong's paired test, summed "
        "by patient; shares use MOVER with the correlation of the two models; other scores use a bootstrap of the difference. p is two-sided, "
        "tests the hypothesis of no difference, and is adjusted (Holm) over all scores and groups of one table and attribute."
    )  # fmt: skip
    metrics = list(dict.fromkeys([*findings.shown(context)[:1], *findings.compared(context)]))
    drawn = figure(comparison, metrics, list(context.simple))
    tables = [_table(comparison, kind) for kind in _CAPTIONS]
    return Section(
        "Two models compared", (text,), (drawn,), [t for t in tables if t.rows], points=_statements(comparison),
        headline=_headline(comparison) if any(c.kind == GAP for c in comparison.changes) else None,
    )  # fmt: skip
