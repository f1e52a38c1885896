"""Means over runs: drawn as dots with intervals, at the column width of a paper, or written as cells of a table."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from equipoise.engine.metrics.estimates.seeds import OverSeeds
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.page.page import Cell, Figure
from equipoise.engine.report.page.words import interval, number

COLUMN = 3.5  # inches, one column of most journals
_PAPER = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7.5,
}


class Row(NamedTuple):
    """A row of a panel.

    Attributes:
      label: text left of the row.
      value: mean over runs, the large dot.
      low: lower limit of the interval; NaN where there is none.
      high: upper limit of the interval.
      runs: value of each run, the small dots.
      text: text right of the row.
      low_sample: lower limit of the thin interval, which carries patients alone; NaN where it is not shown.
      high_sample: upper limit of the thin interval.
    """

    label: str
    value: float
    low: float
    high: float
    runs: Sequence[float]
    text: str
    low_sample: float = float("nan")
    high_sample: float = float("nan")


def draw(
    panels: Sequence[tuple[str, Sequence[Row]]], name: str, alt: str, caption: str, xlabel: str, *, zero: bool = False
) -> Figure:  # fmt: skip
    """Draws panels below each other on one axis; each row shows a mean, its interval and the runs.

    Args:
      panels: (title, rows) of each panel.
      name: name of the figure.
      alt: description for readers who cannot see the figure.
      caption: caption of the figure.
      xlabel: label of the common axis.
      zero: whether a line marks 0, as for differences; all rows then have one colour.
    """
    heights = [len(rows) + 0.9 for _, rows in panels]
    with figures.style(), matplotlib.rc_context(_PAPER):
        canvas = Canvas(figsize=(COLUMN, 0.2 * sum(heights) + 0.5), layout="constrained")
        drawn = canvas.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, rows) in zip(drawn, panels, strict=True):
            _panel(axes, title, rows, zero)
        shown = [
            x
            for _, rows in panels
            for r in rows
            for x in (r.value, r.low, r.high, r.low_sample, r.high_sample, *r.runs)
        ]
        shown = [*(x for x in shown if np.isfinite(x)), *([0.0] if zero else [])] or [0.0, 1.0]
        reach = (max(shown) - min(shown)) or 0.1
        drawn[-1].set_xlim(min(shown) - 0.05 * reach, max(shown) + 0.05 * reach)
        drawn[-1].xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, min_n_ticks=3))
        drawn[-1].set_xlabel(xlabel)
        return figures.finish(canvas, name, alt, caption, paper=True)


def _panel(axes: Axes, title: str, rows: Sequence[Row], zero: bool) -> None:
    if zero:
        axes.axvline(0, color=figures.SOFT, lw=0.8)
    for place, row in enumerate(rows):
        colour = figures.COLOURS[0 if zero else place % len(figures.COLOURS)]
        marker = "o" if zero else figures.MARKERS[place % len(figures.MARKERS)]
        known = [x for x in row.runs if np.isfinite(x)]
        below = place + (0.12 if known else 0)
        above = place - 0.2 + 0.1 * (np.arange(len(known)) % 2)  # neighbours stay apart
        axes.plot(known, above - 0.05, "o", ms=2.2, mew=0, color=colour, alpha=0.55)
        axes.plot([row.low_sample, row.high_sample], [below] * 2, color=colour, lw=0.8, ls=(0, (2, 1)))
        axes.plot([row.low, row.high], [below] * 2, color=colour, lw=1.5, solid_capstyle="butt")
        axes.plot(row.value, below, marker, color=colour, ms=4)
        axes.annotate(
            row.text, (1, place), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center", fontsize=7
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [figures.label(r.label, 30 if zero else 22) for r in rows])
    axes.tick_params(axis="y", length=0, labelcolor=figures.INK)
    axes.set(ylim=(len(rows) - 0.4, -0.6))
    axes.set_title(figures.label(title, 44), loc="left", fontweight="bold")
    axes.grid(axis="x", color=figures.LINE, lw=0.5)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def row(name: str, mean: OverSeeds, signed: bool = False) -> Row:
    """Makes a row of a mean over runs.

    The limits carry seeds and patients; where there is one run, they carry patients alone.
    """
    value, (low, high) = mean.estimate.value, mean.estimate.limits(CONFIDENCE)
    alone = mean.sample.limits(CONFIDENCE) if np.isnan(low) else (np.nan, np.nan)
    sd = f" ± {number(mean.seed_sd)}" if np.isfinite(mean.seed_sd) else ""
    return Row(name, value, low, high, mean.values, number(value, 3, signed) + sd, *alone)


def cell(mean: OverSeeds | None, signed: bool = True) -> Cell:
    """Makes a cell of a mean over runs, with limits as in :func:`row`; a dash for None."""
    if mean is None:
        return Cell("–")
    low, high = mean.estimate.limits(CONFIDENCE)
    if np.isnan(low):
        low, high = mean.sample.limits(CONFIDENCE)
    return Cell(number(mean.estimate.value, 3, signed), note=interval(low, high, 3, signed))
