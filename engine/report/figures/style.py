"""The report's figures: drawn once, kept as PNG files, inlined as vectors (slices of images as pixels).

Colours are Okabe and Ito's, which people with any colour vision tell apart; groups also differ in marker and line.
"""

import base64
import functools
import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.font_manager
import matplotlib.ft2font
import matplotlib.patches
import matplotlib.ticker
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.page.page import Figure, entry, interval, number, title
from equipoise.engine.vocabulary import UNKNOWN

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A7A7A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), "-.")
INK, SOFT, LINE = "#1b1f24", "#57606a", "#d5dae0"
WIDTH = 5.0  # inches; at 400 px the text still reads
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "equipoise",  # equal reports are equal bytes
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # journals refuse fonts of type 3
}


def finish(
    canvas: Canvas, name: str, alt: str, caption: str, *, pixels: bool = False, is_wide: bool = False, paper: bool = False
) -> Figure:  # fmt: skip
    """Turns a drawing into what the page holds; ``pixels`` inlines the PNG instead of vectors, ``paper`` adds a PDF."""
    png, shown, pdf = io.BytesIO(), io.BytesIO(), io.BytesIO()
    canvas.savefig(png, format="png", dpi=180, facecolor="white", metadata={"Software": None})
    if pixels:
        source = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    else:
        canvas.set_layout_engine("none")  # everything is in its place already
        canvas.savefig(shown, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
        source = f"data:image/svg+xml;base64,{base64.b64encode(shown.getvalue()).decode()}"
        if paper:
            canvas.savefig(
                pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}
            )
    return Figure(name, alt, caption, png.getvalue(), source, is_wide, shown.getvalue(), pdf.getvalue())


def style() -> matplotlib.rc_context:
    """The look that all figures share, while drawing and saving."""
    return matplotlib.rc_context(_STYLE)


def name_rows(axes: Axes, positions: Sequence[float], names: Sequence[str], texts: Sequence[str]) -> None:
    """Names left of a forest plot and numbers right of it."""
    axes.set_yticks(positions, names)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
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


def file_name(text: str) -> str:
    """An attribute or model as part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", text.replace("*", "_x_").replace("|", "_by_")).strip("_")


@functools.cache
def _font() -> matplotlib.ft2font.FT2Font:
    return matplotlib.font_manager.get_font(matplotlib.font_manager.findfont("DejaVu Sans"))


def label(text: str, most: int = 26) -> str:
    """Text as Matplotlib can draw it: no mathematics, not too long, ``‹5317›`` for a sign that its font lacks."""
    shown = "\n".join(line if len(line) <= most else line[: most - 1] + "…" for line in text.split("\n"))
    drawn = (c if c == "\n" or _font().get_char_index(ord(c)) else f"‹{ord(c):X}›" for c in shown)
    return "".join(drawn).replace("$", r"\$")


def forest(
    metrics: Sequence[str],
    overall: Mapping[str, Estimate],
    groups: Mapping[str, Mapping[str, Estimate]],
    attribute: str,
) -> Figure:
    """Scores of everyone and of each level of an attribute, with 95 % intervals; one panel for each score.

    Args:
      metrics: to show, from top to bottom.
      overall: metric -> estimate.
      groups: level -> metric -> estimate.
      attribute: its name.
    """
    sets = {"all": overall, **groups}
    height = (0.235 * len(sets) + 0.62) * len(metrics) + 0.2
    with style():
        canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
        for axes, metric in zip(np.atleast_1d(canvas.subplots(len(metrics), 1)), metrics, strict=True):
            _forest_panel(axes, metric, sets, attribute)
        said = "; ".join(
            f"{metric} {level} {number(e[metric].value, 2)}"
            for metric in metrics[:2]
            for level, e in list(sets.items())[:9]
        )
        return finish(
            canvas, f"scores_by_{file_name(attribute)}", f"Scores of everyone and by {attribute}, each with its 95 % interval: {said}.",
            f"Scores overall and by {attribute}. Lines are 95 % intervals; n is what a score is made of, its denominator.",
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


def heat(
    values: Float[np.ndarray, "r c"],
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    name: str,
    heading: str,
    caption: str,
) -> Figure:
    """A score in every cell of two crossed attributes; cells without one are hatched.

    Args:
      values: NaN where there is no value to show.
      texts: written into the cells.
      rows: names of the first attribute's levels.
      columns: of the second's.
      name: of the figure.
      heading: what the colour means.
      caption: of the figure.
    """
    with style():
        size = (max(WIDTH, 1.3 * len(columns) + 1.6), 0.62 * len(rows) + 1.2)
        canvas = Canvas(figsize=size, layout="constrained")
        axes = canvas.subplots()
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
        axes.set_facecolor("#eceff2")
        image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            is_dark = np.isfinite(value) and (value - low) / (high - low) < 0.55
            if not np.isfinite(value):
                axes.add_patch(
                    matplotlib.patches.Rectangle(
                        (j - 0.5, i - 0.5), 1, 1, fill=False, hatch="///", ec="#b4bcc5", lw=0
                    )
                )
            axes.text(
                j, i, texts[i][j], ha="center", va="center", fontsize=8.5, color="white" if is_dark else INK,
                bbox=None if np.isfinite(value) else {"fc": "white", "ec": "none", "pad": 1.5},
            )  # fmt: skip
        axes.set_xticks(range(len(columns)), [label(c, 14) for c in columns])
        axes.set_yticks(range(len(rows)), [label(r) for r in rows])
        axes.tick_params(length=0, labelcolor=INK)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_title(heading, loc="left", fontweight="bold", fontsize=10)
        if len(np.unique(known)) > 1:
            canvas.colorbar(image, ax=axes, shrink=0.8, aspect=18).outline.set_visible(False)
        said = "; ".join(
            f"{r}, {c}: {texts[i][j]}".replace("\n", " ")
            for i, r in enumerate(rows)
            for j, c in enumerate(columns)
        )
        return finish(canvas, name, f"{heading}. {said}.", caption)


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
        said = "; ".join(f"{r[0].replace(chr(10), ' ')} {number(r[1], 3, True)}" for r in rows)
        return finish(canvas, name, f"Differences with 95 % intervals: {said}.", caption)


def training(history: Sequence[Mapping[str, float]], chosen: int, metrics: Sequence[str]) -> Figure:
    """Loss and validation metrics by step, the chosen checkpoint marked."""
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


def _levels(splits: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Levels that any split has, in the order of their first mention."""
    named = dict.fromkeys(level for found in splits.values() for level in found)
    return [level for level in named if any(s.get(level) for s in splits.values())]


def composition(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Figure:
    """Shares of every level in every split.

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
            for place, (_, found) in enumerate(splits.items()):
                total, left = sum(found.values()), 0.0
                for kind, level in enumerate(levels):
                    share = found.get(level, 0) / total if total else 0.0
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
                            f"{found[level]}",
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
