"""What the layers of a model know: probes by block, and groups along the component that decides."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from scipy import stats

from equipoise.engine import rundir
from equipoise.engine.report.figures.style import (
    COLOURS,
    DASHES,
    INK,
    MARKERS,
    SOFT,
    WIDTH,
    file_name,
    finish,
    label,
    style,
)
from equipoise.engine.report.page.page import Cell, Figure, ReportTable, Section, text_cell
from equipoise.engine.report.page.words import interval, number
from equipoise.engine.report.single.context import Context


def section(context: Context) -> Section | None:
    """The section on probes of the reported checkpoint on the reported split; None where there are none."""
    path = rundir.RunFolder(context.workdir).probes(context.cohort, context.split, context.step)
    if not path.exists():
        return None
    results = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as arrays:
        scores = dict(arrays)
    text = (
        "A probe is a logistic regression of a label on the principal components of a block's activations, cross-validated by patient. "
        "Its control learns labels that were shuffled among patients. What a probe can tell is in the features; whether the model uses it is "
        "another question, which the gaps answer.",
    )  # fmt: skip
    drawn = [_by_block(results)]
    density = _densities(context, results, scores)
    if density is not None:
        drawn.append(density)
    rows = [
        (
            text_cell(p["block"]), text_cell(p["label"]), _cell(p["accuracy"]), _cell(p["auroc"]),
            Cell("–" if p["control_mean"] is None else number(p["control_mean"])), Cell(number(p["chance"])), Cell(number(p["in_sample"])),
            Cell(number(p["components"], 0)),
        )
        for p in results["probes"]
    ]  # fmt: skip
    header = (
        "block",
        "label",
        "accuracy, 95 % interval",
        "AUROC",
        "control",
        "commonest class",
        "in-sample",
        "components",
    )
    note = "In-sample accuracy is that on the images to which the probe was fitted; it rises with the number of components alone."
    return Section("What the layers know", text, drawn, (ReportTable(header, rows),), notes=(note,))


def _cell(score: Mapping[str, float | None] | None) -> Cell:
    if score is None or score["value"] is None:
        return Cell("–")
    low, high = (math.nan if score[k] is None else score[k] for k in ("low", "high"))
    return Cell(number(score["value"]), note=interval(low, high))


def _by_block(results: Mapping[str, Any]) -> Figure:
    """Draws the accuracy of the probe of every label from block to block, with its control."""
    rows = results["probes"]
    blocks = list(dict.fromkeys(p["block"] for p in rows))
    names = list(dict.fromkeys(p["label"] for p in rows))
    places = np.arange(len(blocks), dtype=float)
    with style():
        canvas = Canvas(figsize=(WIDTH, 3.4), layout="constrained")
        axes = canvas.subplots()
        for i, name in enumerate(names):
            probes_of_label = [next(p for p in rows if (p["block"], p["label"]) == (b, name)) for b in blocks]
            value = np.array([p["accuracy"]["value"] for p in probes_of_label], float)
            ends = np.array([[p["accuracy"]["low"], p["accuracy"]["high"]] for p in probes_of_label], float)
            x = places + 0.08 * (i - (len(names) - 1) / 2)
            colour = COLOURS[i % len(COLOURS)]
            spread = np.abs(ends.T - value)
            axes.errorbar(
                x, value, spread, color=colour, marker=MARKERS[i % len(MARKERS)], linestyle=DASHES[i % len(DASHES)],
                label=label(name), markersize=5, linewidth=1.4,
            )  # fmt: skip
            if probes_of_label[0]["control_mean"] is not None:
                control = [p["control_mean"] for p in probes_of_label]
                axes.plot(x, control, color=colour, linestyle=":", linewidth=1)
        axes.set_xticks(places, [label(b, 12) for b in blocks])
        axes.set_ylabel("accuracy of the probe")
        axes.set_ylim(top=1.02)
        axes.grid(axis="y", color="#e6e9ee")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=min(len(names), 4))
        accuracies = "; ".join(f"{p['block']} {p['label']} {number(p['accuracy']['value'], 2)}" for p in rows)
        caption = "How well each label can be told from each block, with 95 % intervals. Dotted lines: the same probe with shuffled labels."
        return finish(canvas, "probes_by_block", f"Accuracy of probes by block: {accuracies}.", caption)


def _densities(
    context: Context, results: Mapping[str, Any], scores: Mapping[str, np.ndarray]
) -> Figure | None:
    """Draws where the groups of the first two labels lie along the component that tells the first label best, in each block."""
    names = [k.removeprefix("label_") for k in scores if k.startswith("label_")]
    blocks = [b for b, a in results["alone"].items() if a["shares"]]
    if len(names) < 2 or not blocks:
        return None
    first, second = names[:2]
    known = {name: _levels(context, name) for name in (first, second)}
    a, b = scores[f"label_{first}"], scores[f"label_{second}"]
    if len(np.unique(a[a >= 0])) != 2 or len(np.unique(b[b >= 0])) > 6:
        return None
    columns = min(len(blocks), 2)
    rows = -(-len(blocks) // columns)
    with style():
        canvas = Canvas(figsize=(1.1 * WIDTH * columns / 1.6, 2.2 * rows + 0.5), layout="constrained")
        panels = np.atleast_1d(canvas.subplots(rows, columns, squeeze=False)).ravel()
        for axes, block in zip(panels, blocks, strict=False):
            alone = results["alone"][block]
            place = scores[f"scores_{block}"][:, alone["dominant"]].astype(float)
            _density_panel(axes, place, a, b, known[first], known[second])
            if alone["boundary"] is not None:
                axes.axvline(alone["boundary"], color=INK, linewidth=1, linestyle="--")
            accuracy = alone["accuracy"][first][alone["dominant"]]
            axes.set_title(f"{label(block, 12)}: component {alone['dominant'] + 1} ({100 * accuracy:.0f} %)")
        for axes in panels[len(blocks) :]:
            axes.set_visible(False)
        handles, words = panels[0].get_legend_handles_labels()
        canvas.legend(handles, words, loc="outside lower center", ncols=2)
        caption = (
            f"Images along the component that tells “{first}” best, in each block. The dashed line is where its probe changes its mind. "
            f"Of the groups of “{second}” with the same “{first}”, the one that lies nearer to the line is misjudged more often."
        )
        alt = f"Densities of the groups of {first} and {second} along one component of each block."
        return finish(canvas, f"component_by_{file_name(second)}", alt, caption)


def _levels(context: Context, name: str) -> list[str]:
    levels = context.schema.classes if name == context.schema.label else context.schema.attributes.get(name)
    return [str(level) for level in levels or ()]


def _density_panel(
    axes: Axes, place: np.ndarray, a: np.ndarray, b: np.ndarray, first: list[str], second: list[str]
) -> None:
    ends = np.quantile(place, [0.002, 0.998])
    x = np.linspace(*ends, 200)
    for i in np.unique(a[a >= 0]):
        for j in np.unique(b[b >= 0]):
            values = place[(a == i) & (b == j)]
            if len(values) < 5 or np.ptp(values) == 0:
                continue
            words = (
                first[i] if i < len(first) else str(i),
                second[j] if j < len(second) else str(j),
            )
            axes.plot(
                x, stats.gaussian_kde(values)(x), color=COLOURS[i], linestyle=DASHES[j % len(DASHES)], linewidth=1.5,
                label=label(f"{words[0]}, {words[1]}"),
            )  # fmt: skip
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.tick_params(colors=SOFT)
