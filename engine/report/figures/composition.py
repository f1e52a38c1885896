"""The composition of a cohort: the share of every level in every split, as bars."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure as Canvas

from equipoise.engine.report.figures.style import COLOURS, INK, WIDTH, finish, style
from equipoise.engine.report.page.page import Figure
from equipoise.engine.vocabulary import UNKNOWN


def _levels(splits: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The levels that any split has, in the order in which the splits name them."""
    named = dict.fromkeys(level for levels in splits.values() for level in levels)
    return [level for level in named if any(s.get(level) for s in splits.values())]


def draw(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Figure:
    """Draws the share of every level in every split.

    Args:
      counts: variable -> split -> level -> number of scans.
    """
    shown = {variable: _levels(splits) for variable, splits in counts.items()}
    legends = [-(-len(levels) // 3) for levels in shown.values()]  # rows, between title and bars
    num_bars = sum(len(splits) for splits in counts.values())
    heights = [len(splits) + 0.9 for splits in counts.values()]
    height = 0.3 * num_bars + 0.5 * len(counts) + 0.22 * sum(legends) + 0.35
    with style():
        canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
        panels = np.atleast_1d(canvas.subplots(len(counts), 1, sharex=True, height_ratios=heights))
        for axes, rows, (variable, splits) in zip(panels, legends, counts.items(), strict=True):
            levels = shown[variable]
            for place, sizes in enumerate(splits.values()):
                total, left = sum(sizes.values()), 0.0
                for kind, level in enumerate(levels):
                    share = sizes.get(level, 0) / total if total else 0.0
                    colour = COLOURS[6] if level == UNKNOWN else COLOURS[kind % 6]
                    axes.barh(
                        place,
                        share,
                        left=left,
                        height=0.72,
                        color=colour,
                        edgecolor="white",
                        label=level if not place else None,
                    )
                    if share > 0.09:
                        axes.text(
                            left + share / 2,
                            place,
                            f"{sizes[level]}",
                            ha="center",
                            va="center",
                            color="white",
                            fontsize=9,
                            fontweight="bold",
                        )
                    left += share
            axes.set_yticks(range(len(splits)), list(splits))
            axes.tick_params(axis="y", length=0, labelcolor=INK)
            axes.set(xlim=(0, 1), ylim=(len(splits) - 0.4, -0.6))
            axes.set_title(variable, loc="left", fontweight="bold", pad=6 + 15 * rows)
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0.1, borderaxespad=0.2, handlelength=1, columnspacing=1,
            )  # fmt: skip
            axes.spines["left"].set_visible(False)
        panels[-1].set(xlabel="share of scans", xticks=[0, 0.25, 0.5, 0.75, 1])
        panels[-1].set_xticklabels(["0", "25 %", "50 %", "75 %", "100 %"])
        return finish(
            canvas, "composition", f"Share of each level of {', '.join(counts)} in each split.",
            "Who is in each split. Numbers count scans.",
        )  # fmt: skip
