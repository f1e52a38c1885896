"""The section on adjusted gaps: what remains between groups once their confounders are alike, beside the raw gap."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure as Canvas

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.confounding import balance
from equipoise.engine.metrics.confounding import gaps as adjustment
from equipoise.engine.metrics.confounding.gaps import Adjusted
from equipoise.engine.metrics.frames.disparities import Disparity
from equipoise.engine.metrics.frames.export import clean
from equipoise.engine.metrics.table.table import Table
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
    style,
)
from equipoise.engine.report.page.page import (
    Cell,
    Context,
    Figure,
    Grid,
    Section,
    interval,
    number,
    probability,
    short_title,
    text_cell,
)
from equipoise.engine.report.single import findings

_WORDS = {
    "standardization": "both groups were standardised to the target within cells of the confounders",
    "weighting": "both groups were weighted to the target by inverse propensity",
    "matching": "people of the two groups were matched one to one",
}


def added(
    context: Context,
    *,
    confounders: Sequence[str],
    target: str = "reference",
    method: str = "weighting",
    resamples: int = 500,
    seed: int = 0,
) -> Context:
    """The context with the adjusted gaps of every attribute that is no confounder.

    Raises:
      UserError: for confounders that cannot be used.
    """
    table, metrics = Table(context.table, context.schema), findings.compared(context)
    settings = {
        "confounders": confounders,
        "target": target,
        "method": _method(method, table, confounders),
        "resamples": resamples,
        "seed": seed,
    }
    found = {}
    for attribute in context.simple:
        if attribute in confounders or attribute not in context.frame.references:
            continue
        place = {"group": attribute, "reference": context.frame.references[attribute]}
        if context.schema.kind == "values":
            found[attribute] = _of_columns(table, metrics, place | settings)
        else:
            found[attribute] = adjustment.evaluate(table, metrics=metrics, **place, **settings)
    if not found:
        raise UserError(
            f"--adjust={','.join(confounders)}: no group is left to compare; name one in --group that is no confounder"
        )
    return dataclasses.replace(context, adjusted=found, adjusted_by=method)


def _method(name: str, table: Table, confounders: Sequence[str]) -> balance.Balancer:
    """Pairs are exact in levels; where a number is among the confounders they are of like propensity."""
    if name == "matching":
        has_number = any(table.schema.attributes.get(c, ()) is None for c in confounders)
        return balance.Matching(balance.PROPENSITY if has_number else None)
    return {"standardization": balance.Standardization(), "weighting": balance.Weighting()}[name]


def _of_columns(table: Table, metrics: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Adjusted]:
    """Of several columns of values together: level -> gaps in ``mean:dice_cup``, ``mean:hd95_cup``."""
    merged: dict[str, Adjusted] = {}
    for name in metrics:
        metric, _, column = name.partition(":")
        for level, one in adjustment.evaluate(table, metrics=[metric], model=column, **settings).items():
            parts = {k: {name: getattr(one, k)[metric]} for k in ("raw", "gaps", "explained", "estimates")}
            if level in merged:
                parts = {k: getattr(merged[level], k) | found for k, found in parts.items()}
            merged[level] = dataclasses.replace(merged.get(level, one), **parts)
    return merged


def to_json(context: Context) -> dict[str, Any]:
    """The part ``adjusted`` of ``metrics.json``: attribute -> level -> what was made alike, and each score's raw and adjusted gap."""
    return {
        attribute: {
            level: {
                "reference": one.reference, "target": one.target, "confounders": list(one.confounders), "method": context.adjusted_by,
                "left_out": one.left_out,
                "overlap": {name: clean(support.overlap) for name, support in one.support.items()},
                "gaps": {
                    metric: {kind: _numbers(found[metric]) for kind, found in (("raw", one.raw), ("adjusted", one.gaps), ("explained", one.explained))}
                    for metric in one.gaps
                },
            }
            for level, one in levels.items()
        }
        for attribute, levels in context.adjusted.items()
    }  # fmt: skip


def _numbers(found: Disparity) -> dict[str, Any]:
    return clean({k: getattr(found, k) for k in ("value", "low", "high", "p", "p_adjusted", "reason")})


def section(context: Context) -> Section | None:
    """Raw and adjusted gaps side by side; None where none were asked for."""
    if context.adjusted is None:
        return None
    some = next(iter(next(iter(context.adjusted.values())).values()))
    text = (
        f"Groups may differ because one is older, or was scanned elsewhere. Here {_WORDS[context.adjusted_by]}, so that both have the "
        f"same {_joined(some.confounders)}, within each outcome class, estimated again in every resample. Explained is what the gap loses.",
        "An adjusted gap says what remains once these confounders are alike, not why it does. Confounders that no column holds remain in it.",
    )  # fmt: skip
    drawn, grids, notes = [], [], []
    for attribute, levels in context.adjusted.items():
        drawn += _gap_figures(context, attribute, levels)
        grids.append(_gap_grid(attribute, levels))
        grids.append(_support_grid(attribute, levels))
        drawn.append(_balance_figure(attribute, levels))
        left = sum(one.left_out for one in levels.values())
        if left:
            notes.append(
                f"By {attribute}, {left} {context.unit} with an unknown confounder are left out of raw and adjusted gaps alike."
            )
    notes.append(
        "Overlap: share of the target population that has a counterpart in the other group. Effective patients: what the weights leave of "
        "the number. A gap is left blank where too few have a counterpart."
    )
    return Section("Raw and adjusted gaps", text, drawn, grids, notes=notes)


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _gap_figures(context: Context, attribute: str, levels: Mapping[str, Adjusted]) -> list[Figure]:
    """For each score, each group's raw gap above its adjusted one."""
    drawn = []
    for metric in next(iter(levels.values())).gaps:
        rows = [(level, one.raw[metric], one.gaps[metric]) for level, one in levels.items()]
        if not any(math.isfinite(d.value) for _, raw, gap in rows for d in (raw, gap)):
            continue
        with style():
            canvas = Canvas(figsize=(WIDTH, 0.5 * len(rows) + 1.1), layout="constrained")
            axes = canvas.subplots()
            axes.axvline(0, color=SOFT, linewidth=1)
            for place, (_, *pair) in enumerate(rows):
                for shift, kind, gap in zip((0.14, -0.14), (0, 1), pair, strict=True):
                    if not math.isfinite(gap.value):
                        continue
                    axes.plot([gap.low, gap.high], [-place + shift] * 2, color=COLOURS[kind], linewidth=1.8)
                    axes.plot(gap.value, -place + shift, MARKERS[kind], color=COLOURS[kind], markersize=6,
                              label=("raw", "adjusted")[kind] if place == 0 else None)  # fmt: skip
            reference = next(iter(levels.values())).reference
            axes.set_yticks(-np.arange(len(rows)), [label(f"{level} − {reference}") for level, *_ in rows])
            axes.tick_params(axis="y", length=0, labelcolor=INK)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="x", color=LINE, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.set_xlabel(f"difference in {short_title(metric)}")
            axes.set_ylim(-len(rows) + 0.5, 0.5)
            handles, words = axes.get_legend_handles_labels()
            canvas.legend(handles, words, loc="outside upper right", ncols=2)
            said = "; ".join(
                f"{level}: raw {number(raw.value, 2, True)}, adjusted {number(gap.value, 2, True)}"
                for level, raw, gap in rows[:8]
            )
            drawn.append(
                finish(
                    canvas, f"adjusted_gaps_by_{file_name(attribute)}_{file_name(metric)}",
                    f"Raw and adjusted differences in {short_title(metric)} by {attribute}: {said}.",
                    f"{short_title(metric)[0].upper()}{short_title(metric)[1:]} by {attribute}: the raw gap to “{reference}” and what remains of it.",
                )
            )  # fmt: skip
    return drawn


def _gap_grid(attribute: str, levels: Mapping[str, Adjusted]) -> Grid:
    def shown(gap) -> Cell:
        return Cell(number(gap.value, 3, True), note=interval(gap.low, gap.high, 3, True))

    rows = []
    for level, one in levels.items():
        for metric, gap in one.gaps.items():
            rows.append(
                (
                    text_cell(short_title(metric), gap.reason or ""), text_cell(f"{level} − {one.reference}"), shown(one.raw[metric]), shown(gap),
                    shown(one.explained[metric]), Cell(probability(gap.p_adjusted)),
                )
            )  # fmt: skip
    some = next(iter(levels.values()))
    header = ("difference in", attribute, "raw", "adjusted", "explained", "p of the adjusted")
    return Grid(header, rows, f"Gaps by {attribute}, with the {_joined(some.confounders)} of {some.target}")


def _support_grid(attribute: str, levels: Mapping[str, Adjusted]) -> Grid:
    rows = [
        (
            text_cell(f"{level} − {one.reference}"), text_cell(name), Cell(f"{number(100 * support.overlap, 0)} %"),
            Cell(" and ".join(number(support.effective[k], 0) for k in support.effective)),
            Cell(" and ".join(str(support.n[k]) for k in support.n)),
            Cell(f"{number(100 * max(support.largest.values(), default=math.nan), 1)} %"),
        )
        for level, one in levels.items()
        for name, support in one.support.items()
    ]  # fmt: skip
    header = ("groups", "outcome", "overlap", "effective patients", "images", "largest weight")
    return Grid(header, rows, f"How far the groups of {attribute} can be made alike", True)


def _balance_figure(attribute: str, levels: Mapping[str, Adjusted]) -> Figure:
    """Standardised mean differences of the confounders before and after."""
    rows = [
        (f"{level}, {name}: {feature}", *ends)
        for level, one in levels.items()
        for name, support in one.support.items()
        for feature, ends in support.differences.items()
    ][:40]
    with style():
        canvas = Canvas(figsize=(WIDTH, 0.24 * max(len(rows), 1) + 1.1), layout="constrained")
        axes = canvas.subplots()
        axes.axvspan(-0.1, 0.1, color="#eef1f4")
        axes.axvline(0, color=SOFT, linewidth=1)
        for kind, name in enumerate(("before", "after")):
            axes.plot(
                [row[1 + kind] for row in rows], -np.arange(len(rows)), MARKERS[kind], color=COLOURS[kind], markersize=5, label=name, linestyle=""
            )  # fmt: skip
        axes.set_yticks(-np.arange(len(rows)), [label(row[0], 44) for row in rows], fontsize=8)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
        axes.set_xlabel("standardised mean difference")
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2)
        caption = f"Confounders of the groups by {attribute}, before and after. Shaded: within 0.1, usually called balanced."
        return finish(
            canvas,
            f"balance_by_{file_name(attribute)}",
            f"Balance of the confounders by {attribute}.",
            caption,
        )
