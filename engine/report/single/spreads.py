"""How numbers spread within groups: the errors of a regression or the values of each case, as medians, quartiles and tails."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure as Canvas

from equipoise.engine.metrics.table.suppression import row_levels
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.page.page import Figure, Section
from equipoise.engine.report.single.context import Context

_PERCENTILES = (5, 25, 50, 75, 95)
MOST_PANELS = 6


def _percentiles(numbers: Float[np.ndarray, " n"], min_cell: int) -> Float[np.ndarray, " 5"]:
    """The percentiles ``_PERCENTILES``; NaN where fewer than ``min_cell`` numbers lie beyond one."""
    beyond = len(numbers) * np.minimum(_PERCENTILES, 100 - np.array(_PERCENTILES)) / 100
    return np.where((beyond >= min_cell) | (min_cell == 1), np.percentile(numbers, _PERCENTILES), np.nan)


def spread(
    values: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]], attribute: str, unit: str, min_cell: int = 1
) -> Figure:
    """Draws percentiles of numbers by group; each kind of number has a panel.

    Args:
      values: kind -> level -> numbers, none of them NaN; the row of a level without numbers stays empty.
      attribute: attribute that forms the levels.
      unit: what the numbers are, for the caption.
      min_cell: a percentile with fewer numbers beyond it is not shown, so that a shared figure shows nobody's number.
    """
    levels = list(next(iter(values.values())))
    with figures.style():
        height = (0.26 * len(levels) + 0.72) * len(values) + 0.2
        canvas = Canvas(figsize=(figures.WIDTH, height), layout="constrained")
        for axes, (kind, by_level) in zip(
            canvas.subplots(len(values), 1, squeeze=False)[:, 0], values.items(), strict=True
        ):
            for place, numbers in enumerate(by_level.values()):
                if not len(numbers):
                    continue
                colour = figures.COLOURS[place % len(figures.COLOURS)]
                lowest, low, middle, high, highest = _percentiles(numbers, min_cell)
                axes.plot([lowest, highest], [place, place], color=colour, lw=1.2)
                axes.plot([low, high], [place, place], color=colour, lw=6, alpha=0.45, solid_capstyle="butt")
                axes.plot(middle, place, figures.MARKERS[place % len(figures.MARKERS)], color=colour, ms=5.5)
            axes.set_yticks(range(len(levels)), [figures.label(f"{attribute}: {level}") for level in levels])
            axes.tick_params(axis="y", length=0, labelcolor=figures.INK)
            axes.set_title(figures.label(kind), loc="left", fontweight="bold", fontsize=10)
            axes.set(ylim=(len(levels) - 0.4, -0.6))
            axes.grid(axis="x", color=figures.LINE, lw=0.7)
            axes.set_axisbelow(True)
            axes.spines["left"].set_visible(False)
        medians = "; ".join(
            f"{level} {_percentiles(numbers, min_cell)[2]:.3g}" for level, numbers in next(iter(values.values())).items() if len(numbers)
        )  # fmt: skip
        return figures.finish(
            canvas, f"distribution_by_{figures.file_name(attribute)}", f"Spread of {', '.join(values)} by {attribute}; medians: {medians}.",
            f"{unit} by {attribute}: the marker is the median, the bar the middle half, and the line runs from the 5th to the 95th percentile.",
        )  # fmt: skip


def section(context: Context) -> Section:
    """The section on how errors of a regression, or values, spread by each attribute."""
    table = Table(context.table, context.schema)
    if context.schema.kind == "values":
        numbers = {name: table.columns(name)["value"] for name in table.models[:MOST_PANELS]}
        scores = {name: f"mean:{name}" for name in numbers}
        unit = "Values of the cases"
    else:
        columns = {name: table.columns(name) for name in table.models[:MOST_PANELS]}
        numbers = {f"error of {name}": c["score"] - c["truth"] for name, c in columns.items()}
        scores = dict.fromkeys(numbers, next(iter(context.frame.overall)))
        unit = "Score minus truth"
    drawn = []
    for attribute in context.simple:
        level_of = row_levels(context.table, attribute)
        levels = [v for v in context.levels(attribute) if not context.is_hidden(attribute, v)]
        cells = context.frame.groups[attribute]
        if levels:
            parts = {
                kind: {
                    v: x[(level_of == v) & np.isfinite(x) & (cells[v][scores[kind]].n is not None)] for v in levels
                }
                for kind, x in numbers.items()
            }  # fmt: skip
            drawn.append(spread(parts, attribute, unit, context.min_cell or 1))
    return Section("Distributions by group", (), drawn)
