"""The report's figures: drawn once, kept as PNG files, inlined as vectors (slices of images as pixels).

Colours are Okabe and Ito's, which people with any colour vision tell apart; groups also differ in marker and line.
"""

import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.ticker
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from engine.metrics import classification
from engine.metrics.frame import CONFIDENCE
from engine.metrics.intervals import Estimate
from engine.report.page import Figure, interval, number

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A7A7A")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), "-.")
_INK, _SOFT, _LINE = "#1b1f24", "#57606a", "#d5dae0"
_WIDTH = 5.0  # inches; at 400 px the text still reads
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _INK,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "equipoise",  # equal reports are equal bytes
    "svg.fonttype": "path",
}


def finish(
    canvas: Canvas, name: str, alt: str, caption: str, *, pixels: bool = False, is_wide: bool = False
) -> Figure:
    """Turns a drawing into what the page holds; ``pixels`` inlines the PNG instead of vectors."""
    png, shown = io.BytesIO(), io.BytesIO()
    canvas.savefig(png, format="png", dpi=180, facecolor="white", metadata={"Software": None})
    if pixels:
        source = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    else:
        canvas.savefig(shown, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
        source = f"data:image/svg+xml;base64,{base64.b64encode(shown.getvalue()).decode()}"
    return Figure(name, alt, caption, png.getvalue(), source, is_wide)


def style() -> matplotlib.rc_context:
    """The look that all figures share, while drawing and saving."""
    return matplotlib.rc_context(_STYLE)


def _rows(axes: Axes, positions: Sequence[float], names: Sequence[str], texts: Sequence[str]) -> None:
    """Names left of a forest plot and numbers right of it."""
    axes.set_yticks(positions, names)
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    axes.spines["left"].set_visible(False)
    for y, text in zip(positions, texts, strict=True):
        axes.annotate(
            text,
            (1, y),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )


def forest(
    metrics: Sequence[str],
    overall: Mapping[str, Estimate],
    groups: Mapping[str, Mapping[str, Estimate]],
    attribute: str,
) -> Figure:
    """Scores of everyone and of each level of an attribute, with 95 % intervals.

    Args:
      metrics: to show, from top to bottom.
      overall: metric -> estimate.
      groups: level -> metric -> estimate.
      attribute: its name.
    """
    sets = {"all": overall, **groups}
    height = len(metrics) * (len(sets) + 1.35) * 0.235 + 0.75
    with style():
        canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
        axes = canvas.subplots()
        positions, names, texts, y = [], [], [], 0.0
        for metric in metrics:
            axes.text(
                0,
                y,
                classification.get(metric).title,
                fontsize=10,
                fontweight="bold",
                va="center",
                transform=axes.get_yaxis_transform(),
            )
            for place, (level, estimates) in enumerate(sets.items()):
                y += 1
                estimate = estimates[metric]
                low, high = estimate.limits(CONFIDENCE)
                colour = _INK if place == 0 else COLOURS[(place - 1) % len(COLOURS)]
                if np.isfinite(low):
                    axes.plot([low, high], [y, y], color=colour, lw=1.8, solid_capstyle="butt")
                if np.isfinite(estimate.value):
                    marker = "D" if place == 0 else _MARKERS[(place - 1) % len(_MARKERS)]
                    axes.plot(estimate.value, y, marker, color=colour, ms=5.5)
                positions.append(y)
                names.append(level if place == 0 else f"{attribute}: {level}")
                around = interval(low, high, 2)
                texts.append(
                    f"{number(estimate.value, 2)}" + (f" ({around})" if around else "") + f"  n={estimate.n}"
                )
            y += 1.35
        _rows(axes, positions, names, texts)
        axes.set(
            xlim=(-0.01, 1.01),
            ylim=(y - 0.6, -0.7),
            xlabel="score, with 95 % interval",
            xticks=[0, 0.25, 0.5, 0.75, 1],
        )
        axes.set_xticklabels(["0", ".25", ".5", ".75", "1"])
        axes.grid(axis="x", color=_LINE, lw=0.7)
        axes.set_axisbelow(True)
        return finish(
            canvas, f"scores_by_{attribute}", f"Scores of everyone and by {attribute}, each with its 95 % interval.",
            f"Scores overall and by {attribute}. Lines are 95 % intervals; n counts the images a score is made of.",
        )  # fmt: skip


def gaps(
    rows: Sequence[tuple[str, float, float, float]],
    name: str,
    caption: str,
    markers: Mapping[str, Sequence[float | None]] | None = None,
    unit: str = "difference",
) -> Figure:
    """Signed differences with intervals around 0, and what was expected beside them.

    Args:
      rows: (label, value, low, high) from top to bottom.
      name: of the figure.
      caption: of the figure.
      markers: legend entry -> expected value of each row, None where there is none.
      unit: of the horizontal axis.
    """
    markers = markers or {}
    shown = [x for row in rows for x in row[1:]] + [x for m in markers.values() for x in m if x is not None]
    shown = [abs(x) for x in shown if np.isfinite(x)]
    reach = max([*shown, 0.05]) * 1.12
    with style():
        canvas = Canvas(figsize=(_WIDTH, 0.42 * len(rows) + 0.85 + 0.25 * len(markers)), layout="constrained")
        axes = canvas.subplots()
        axes.axvline(0, color=_SOFT, lw=1)
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
        _rows(axes, range(len(rows)), [r[0] for r in rows], texts)
        axes.set(xlim=(-reach, reach), ylim=(len(rows) - 0.5, -0.5), xlabel=unit)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, symmetric=True))
        axes.grid(axis="x", color=_LINE, lw=0.7)
        axes.set_axisbelow(True)
        if markers:
            canvas.legend(
                *axes.get_legend_handles_labels(), loc="outside lower center", ncols=1, handlelength=1.4
            )
        said = "; ".join(f"{r[0].replace(chr(10), ' ')} {number(r[1], 3, True)}" for r in rows)
        return finish(canvas, name, f"Differences with 95 % intervals: {said}.", caption)


def roc(
    groups: Mapping[str, tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"], float]], attribute: str
) -> Figure:
    """ROC curve of each group, its operating point marked.

    Args:
      groups: level -> (truth, score, threshold); groups without both classes are left out.
      attribute: its name.
    """
    with style():
        canvas = Canvas(figsize=(_WIDTH, 4.75), layout="constrained")
        axes = canvas.subplots()
        axes.plot([0, 1], [0, 1], color=_LINE, lw=1)
        for place, (level, (truth, score, threshold)) in enumerate(groups.items()):
            if truth.all() or not truth.any():
                continue
            colour = COLOURS[place % len(COLOURS)]
            cuts = np.unique(score)[::-1]
            positive, negative = np.sort(score[truth]), np.sort(score[~truth])
            rate = lambda sorted_scores, cut: 1 - np.searchsorted(sorted_scores, cut) / len(sorted_scores)  # noqa: E731
            x, y = np.append(0, rate(negative, cuts)), np.append(0, rate(positive, cuts))
            label = f"{attribute}: {level}, AUROC {number(classification.auroc(truth, score), 3)}"
            axes.plot(
                x,
                y,
                color=colour,
                lw=1.8,
                ls=_DASHES[place % len(_DASHES)],
                drawstyle="steps-post",
                label=label,
            )
            axes.plot(
                rate(negative, threshold),
                rate(positive, threshold),
                _MARKERS[place % len(_MARKERS)],
                color=colour,
                ms=9,
                mec="white",
                mew=1.2,
            )
        axes.set(
            xlim=(-0.015, 1.015),
            ylim=(-0.015, 1.015),
            xlabel="false-positive rate",
            ylabel="sensitivity (true-positive rate)",
            aspect="equal",
        )
        axes.grid(color=_LINE, lw=0.6)
        axes.set_axisbelow(True)
        axes.legend(loc="lower right")
        return finish(
            canvas, f"roc_by_{attribute}", f"ROC curves by {attribute}.",
            f"ROC curve by {attribute}. Markers show where the threshold puts each group: one threshold, different error rates.",
        )  # fmt: skip


def training(history: Sequence[Mapping[str, float]], chosen: int, metrics: Sequence[str]) -> Figure:
    """Loss and validation metrics by step, the chosen checkpoint marked."""
    train = [r for r in history if r.get("split") == "train" and r.get("loss") is not None]
    validation = [r for r in history if r.get("split") == "validation"]
    metrics = [m for m in metrics if any(r.get(m) is not None for r in validation)]
    with style():
        canvas = Canvas(figsize=(_WIDTH, 4.6 if metrics else 2.6), layout="constrained")
        panels = np.atleast_1d(canvas.subplots(2 if metrics else 1, 1, sharex=True))
        panels[0].plot(
            [r["step"] for r in train], [r["loss"] for r in train], color=COLOURS[6], lw=1.1, label="training"
        )
        series = [("loss", "validation", panels[0], 0)] + [
            (m, m.replace("_", " "), panels[-1], i) for i, m in enumerate(metrics)
        ]
        for key, label, axes, place in series:
            rows = [r for r in validation if r.get(key) is not None]
            axes.plot(
                [r["step"] for r in rows], [r[key] for r in rows], color=COLOURS[place % 6], marker=_MARKERS[place % 6], ms=4.5,
                lw=1.6, ls=_DASHES[place % 4], label=label,
            )  # fmt: skip
        for axes in panels:
            axes.axvline(chosen, color=_INK, lw=1, ls=(0, (2, 2)), zorder=0)
            axes.grid(axis="y", color=_LINE, lw=0.7)
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


def composition(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Figure:
    """Shares of every level in every split.

    Args:
      counts: variable -> split -> level -> number of scans.
    """
    num_bars = sum(len(splits) for splits in counts.values())
    heights = [len(splits) + 0.9 for splits in counts.values()]
    with style():
        canvas = Canvas(figsize=(_WIDTH, 0.3 * num_bars + 0.62 * len(counts) + 0.35), layout="constrained")
        panels = np.atleast_1d(canvas.subplots(len(counts), 1, sharex=True, height_ratios=heights))
        for axes, (variable, splits) in zip(panels, counts.items(), strict=True):
            levels = list(
                dict.fromkeys(
                    level
                    for found in splits.values()
                    for level in found
                    if any(s.get(level) for s in splits.values())
                )
            )
            for place, (_, found) in enumerate(splits.items()):
                total, left = sum(found.values()), 0.0
                for kind, level in enumerate(levels):
                    share = found.get(level, 0) / total if total else 0.0
                    colour = COLOURS[6] if level == "unknown" else COLOURS[kind % 6]
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
                            f"{found[level]}",
                            ha="center",
                            va="center",
                            color="white",
                            fontsize=9,
                            fontweight="bold",
                        )
                    left += share
            axes.set_yticks(range(len(splits)), list(splits))
            axes.tick_params(axis="y", length=0, labelcolor=_INK)
            axes.set(xlim=(0, 1), ylim=(len(splits) - 0.4, -0.6))
            axes.set_title(variable, loc="left", fontweight="bold")
            axes.legend(
                loc="lower right",
                bbox_to_anchor=(1, 1),
                ncols=4,
                borderpad=0.1,
                borderaxespad=0.2,
                handlelength=1,
                columnspacing=1,
            )
            axes.spines["left"].set_visible(False)
        panels[-1].set(xlabel="share of scans", xticks=[0, 0.25, 0.5, 0.75, 1])
        panels[-1].set_xticklabels(["0", "25 %", "50 %", "75 %", "100 %"])
        return finish(
            canvas, "composition", f"Share of each level of {', '.join(counts)} in each split.",
            "Who is in each split. Numbers count scans.",
        )  # fmt: skip
