"""The worst cases of every group: outlines of the predicted and the reference mask on the image.

These are images of people, so a report that may be shared has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.lines
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.page.page import Figure, Section
from equipoise.engine.report.page.words import number
from equipoise.engine.report.single.context import Context

if TYPE_CHECKING:
    from equipoise.engine.explain.worst_cases import WorstCase

_PANEL = 1.9  # inches


def _outline(axes: Axes, codes: np.ndarray, line: str) -> None:
    for code, colour in zip(range(1, int(codes.max(initial=0)) + 1), figures.COLOURS, strict=False):
        if (codes == code).any():
            axes.contour((codes == code).astype(float), [0.5], colors=colour, linestyles=line, linewidths=1.2)


def _figure(attribute: str, cases: Sequence[WorstCase], classes: Sequence[str], value: str) -> Figure:
    levels = list(dict.fromkeys(case.level for case in cases))
    rows = [[case for case in cases if case.level == level] for level in levels]
    columns = max(map(len, rows))
    with figures.style():
        size = (_PANEL * max(columns, 2) + 0.5, (_PANEL + 0.2) * len(rows) + 0.4)
        canvas = Canvas(figsize=size, layout="constrained")
        for line, shown_cases in zip(canvas.subplots(len(rows), columns, squeeze=False), rows, strict=True):
            for axes in line:
                axes.axis("off")
            for axes, case in zip(line, shown_cases, strict=False):
                shown = case.image[..., :3] if case.image.shape[-1] >= 3 else case.image[..., 0]
                low, high = float(shown.min()), float(shown.max())
                axes.imshow((shown - low) / ((high - low) or 1), cmap="gray", vmin=0, vmax=1)
                _outline(axes, case.reference, "-")
                _outline(axes, case.prediction, "--")
                axes.set_title(f"{figures.label(case.level)}: {number(case.value, 2)}", fontsize=9)
        handles = [
            matplotlib.lines.Line2D([], [], color=colour, label=figures.label(name))
            for name, colour in zip(classes[1:], figures.COLOURS, strict=False)
        ]
        for line, name in (("-", "reference"), ("--", "predicted")):
            handles.append(matplotlib.lines.Line2D([], [], color=figures.INK, ls=line, label=name))
        canvas.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
        which = f"the images with the lowest {value} of each level of {attribute}"
        return figures.finish(
            canvas, f"worst_cases_{figures.file_name(attribute)}", f"Outlines on {which}.",
            f"Reference (solid) and prediction (dashed) on {which}; the number is the {value} of the image.", pixels=True,
        )  # fmt: skip


def section(context: Context) -> Section | None:
    """The section on the worst cases by group; None where there are none, and in a report that may be shared."""
    cases = [case for case in context.worst if not context.is_hidden(case.attribute, case.level)]
    if not cases or context.min_cell is not None:
        return None
    classes = context.metadata.get("mask_classes", ())
    drawn = [
        _figure(attribute, [case for case in cases if case.attribute == attribute], classes, cases[0].metric)
        for attribute in dict.fromkeys(case.attribute for case in cases)
    ]
    text = (
        "The images of each group on which the prediction is worst. Single images show what kinds of failure there are, but not how often they occur.",
        "These are images of people. Leave this section out (--worst=0) before you give the page to anyone who may not see them.",
    )
    return Section("The worst cases of every group", text, drawn)
