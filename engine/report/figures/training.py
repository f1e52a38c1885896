"""Curves of training: loss and validation scores by step."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from equipoise.engine.report.figures.style import COLOURS, DASHES, INK, LINE, MARKERS, WIDTH, finish, style
from equipoise.engine.report.page.page import Figure


def draw(history: Sequence[Mapping[str, float]], chosen: int, metrics: Sequence[str]) -> Figure:
    """Draws loss and validation metrics by step, and marks the reported checkpoint.

    Args:
      history: rows of ``metrics.jsonl``.
      chosen: step of the reported checkpoint.
      metrics: validation metrics to draw; those without a value are left out.
    """
    train = [r for r in history if r.get("split") == "train" and r.get("loss") is not None]
    validation = [r for r in history if r.get("split") == "validation"]
    metrics = [m for m in metrics if any(r.get(m) is not None for r in validation)]
    with style():
        canvas = Canvas(figsize=(WIDTH, 4.6 if metrics else 2.6), layout="constrained")
        panels = np.atleast_1d(canvas.subplots(2 if metrics else 1, 1, sharex=True))
        panels[0].plot(
            [r["step"] for r in train], [r["loss"] for r in train], color=COLOURS[6], lw=1.1, label="training"
        )
        series = [("loss", "validation", panels[0], 0)] + [
            (m, m.replace("_", " "), panels[-1], i) for i, m in enumerate(metrics)
        ]
        for key, legend, axes, place in series:
            rows = [r for r in validation if r.get(key) is not None]
            axes.plot(
                [r["step"] for r in rows], [r[key] for r in rows], color=COLOURS[place % 6], marker=MARKERS[place % 6], ms=4.5,
                lw=1.6, ls=DASHES[place % 4], label=legend,
            )  # fmt: skip
        for axes in panels:
            axes.axvline(chosen, color=INK, lw=1, ls=(0, (2, 2)), zorder=0)
            axes.grid(axis="y", color=LINE, lw=0.7)
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), handlelength=1.8)
        panels[0].annotate(
            f"checkpoint {chosen}", (chosen, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="right" if train and chosen > 0.5 * train[-1]["step"] else "left", fontsize=9,
        )  # fmt: skip
        panels[0].set(ylabel="loss")
        panels[-1].set(xlabel="step")
        if metrics:
            panels[-1].set(ylabel="validation score")
        return finish(
            canvas, "training", f"Training and validation loss by step; checkpoint {chosen} is marked.",
            "Training and validation by step. The dashed line is the checkpoint reported here.",
        )  # fmt: skip
