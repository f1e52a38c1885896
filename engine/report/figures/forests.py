"""Forest plots: scores with their intervals, and differences around 0."""

from collections.abc import Mapping, Sequence

import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from equipoise.engine.metrics.comparing.methods import entry
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.figures.style import (
    COLOURS,
    INK,
    LINE,
    MARKERS,
    SOFT,
    WIDTH,
    file_name,
    finish,
    label,
    name_rows,
    style,
)
from equipoise.engine.report.page.page import Figure
from equipoise.engine.report.page.words import interval, number, title


def forest(
    metrics: Sequence[str],
    overall: Mapping[str, Estimate],
    groups: Mapping[str, Mapping[str, Estimate]],
    attribute: str,
) -> Figure:
    """Draws scores of everyone and of each level of an attribute, with 95 % intervals; each score has a panel.

    Args:
      metrics: metrics to show, from top to bottom.
      overall: metric -> estimate.
      groups: level -> metric -> estimate.
      attribute: name of the attribute.
    """
    sets = {"all": overall, **groups}
    height = (0.235 * len(sets) + 0.62) * len(metrics) + 0.2
    with style():
        canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
        for axes, metric in zip(np.atleast_1d(canvas.subplots(len(metrics), 1)), metrics, strict=True):
            _forest_panel(axes, metric, sets, attribute)
        values = "; ".join(
            f"{metric} {level} {number(e[metric].value, 2)}"
            for metric in metrics[:2]
            for level, e in list(sets.items())[:9]
        )
        return finish(
            canvas, f"scores_by_{file_name(attribute)}", f"Scores of everyone and by {attribute}, each with its 95 % interval: {values}.",
            f"Scores overall and by {attribute}. Lines are 95 % intervals; n is the denominator of the score.",
        )  # fmt: skip


def _forest_panel(
    axes: Axes, metric: str, sets: Mapping[str, Mapping[str, Estimate]], attribute: str
) -> None:
    about = entry(metric)
    names, texts, shown = [], [], []
    for place, (level, estimates) in enumerate(sets.items()):
        estimate = estimates[metric]
        low, high = estimate.limits(CONFIDENCE)
        shown += [x for x in (low, estimate.value, high) if np.isfinite(x)]
        colour = INK if place == 0 else COLOURS[(place - 1) % len(COLOURS)]
        if np.isfinite(low):
            axes.plot([low, high], [place, place], color=colour, lw=1.8, solid_capstyle="butt")
        if np.isfinite(estimate.value):
            marker = "D" if place == 0 else MARKERS[(place - 1) % len(MARKERS)]
            axes.plot(estimate.value, place, marker, color=colour, ms=5.5)
        names.append(level if place == 0 else label(f"{attribute}: {level}"))
        around = interval(low, high, 2)
        count = f"  n={estimate.n}" if estimate.n is not None else ""
        texts.append(number(estimate.value, 2) + (f" ({around})" if around else "") + count)
    name_rows(axes, range(len(sets)), names, texts)
    axes.set_title(label(title(metric), 58), loc="left", fontweight="bold", fontsize=10)
    axes.set(ylim=(len(sets) - 0.4, -0.6))
    if (about.low, about.high) == (0, 1):
        axes.set(xlim=(-0.01, 1.01), xticks=[0, 0.25, 0.5, 0.75, 1])
        axes.set_xticklabels(["0", ".25", ".5", ".75", "1"])
    elif shown:
        reach = (max(shown) - min(shown)) or abs(max(shown)) or 1.0
        axes.set_xlim(min(shown) - 0.06 * reach, max(shown) + 0.06 * reach)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    axes.grid(axis="x", color=LINE, lw=0.7)
    axes.set_axisbelow(True)


def gaps(
    rows: Sequence[tuple[str, float, float, float]],
    name: str,
    caption: str,
    markers: Mapping[str, Sequence[float | None]] | None = None,
    unit: str = "difference",
) -> Figure:
    """Draws signed differences with their intervals, and the expected values beside them.

    Args:
      rows: (label, value, low, high) from top to bottom.
      name: name of the figure.
      caption: caption of the figure.
      markers: legend entry -> expected value of each row; None where there is none.
      unit: label of the horizontal axis.
    """
    markers = markers or {}
    shown = [x for row in rows for x in row[1:]] + [x for m in markers.values() for x in m if x is not None]
    shown = [abs(x) for x in shown if np.isfinite(x)]
    reach = max([*shown, 0.05]) * 1.12
    with style():
        canvas = Canvas(figsize=(WIDTH, 0.42 * len(rows) + 0.85 + 0.25 * len(markers)), layout="constrained")
        axes = canvas.subplots()
        axes.axvline(0, color=SOFT, lw=1)
        for place, (_, value, low, high) in enumerate(rows):
            axes.plot([low, high], [place, place], color=COLOURS[0], lw=2.2, solid_capstyle="butt")
            axes.plot(
                value,
                place,
                "o",
                color=COLOURS[0],
                ms=6.5,
                label="measured, 95 % interval" if not place else None,
            )
        for kind, (legend, values) in enumerate(markers.items()):
            known = [(x, i) for i, x in enumerate(values) if x is not None]
            axes.plot(
                [x for x, _ in known], [i for _, i in known], ls="", marker=("d", "|", "x")[kind % 3], ms=(7, 13, 7)[kind % 3],
                mew=2, mfc="none", color=COLOURS[(1, 2, 3)[kind % 3]], label=legend,
            )  # fmt: skip
        texts = [
            f"{number(v, 3, True)}" + (f"\n({interval(low, high, 3, True)})" if np.isfinite(low) else "")
            for _, v, low, high in rows
        ]
        name_rows(axes, range(len(rows)), [label(r[0], 30) for r in rows], texts)
        axes.set(xlim=(-reach, reach), ylim=(len(rows) - 0.5, -0.5), xlabel=unit)
        axes.xaxis.set_major_locator(
            matplotlib.ticker.MaxNLocator(4 if max(len(r[0]) for r in rows) < 22 else 2, symmetric=True)
        )
        axes.grid(axis="x", color=LINE, lw=0.7)
        axes.set_axisbelow(True)
        if markers:
            canvas.legend(
                *axes.get_legend_handles_labels(), loc="outside lower center", ncols=1, handlelength=1.4
            )
        values = "; ".join(f"{r[0].replace(chr(10), ' ')} {number(r[1], 3, True)}" for r in rows)
        return finish(canvas, name, f"Differences with 95 % intervals: {values}.", caption)
