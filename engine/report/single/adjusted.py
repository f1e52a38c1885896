"""The section on adjusted gaps: what remains of a gap once the confounders of the groups are alike, beside the raw gap."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure as Canvas

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.confounding import balance
from equipoise.engine.metrics.confounding import gaps as confounded_gaps
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
from equipoise.engine.report.page.page import Cell, Figure, ReportTable, Section, text_cell
from equipoise.engine.report.page.words import interval, number, probability, short_title
from equipoise.engine.report.single import findings
from equipoise.engine.report.single.context import Context

_WORDS = {
    "standardization": "both groups were standardised to the target population within cells of the confounders",
    "weighting": "both groups were weighted to the target population by inverse propensity",
    "matching": "the people of the two groups were matched one to one",
}


@dataclasses.dataclass(frozen=True)
class Adjustment:
    """How groups are made alike before they are compared.

    Attributes:
      confounders: attributes in which the groups are made alike: numbers or levels.
      target: whose confounders both groups are given: ``reference``, ``group`` or ``pooled``.
      method: ``weighting``, ``standardization`` or ``matching``.
    """

    confounders: Sequence[str]
    target: str = "reference"
    method: str = "weighting"


def added(context: Context, adjustment: Adjustment, *, resamples: int = 500, seed: int = 0) -> Context:
    """Adds adjusted gaps to a report, for every attribute that is not a confounder.

    Args:
      context: the report.
      adjustment: confounders, target and method.
      resamples: resamples of the bootstrap.
      seed: seed of the bootstrap.

    Raises:
      UserError: for confounders that cannot be used.
    """
    confounders = adjustment.confounders
    table, metrics = Table(context.table, context.schema), findings.compared(context)
    settings = {
        "confounders": confounders,
        "target": adjustment.target,
        "method": _method(adjustment.method, table, confounders),
        "resamples": resamples,
        "seed": seed,
    }
    adjusted = {}
    for attribute in context.simple:
        if attribute in confounders or attribute not in context.frame.references:
            continue
        place = {"group": attribute, "reference": context.frame.references[attribute]}
        if context.schema.kind == "values":
            adjusted[attribute] = _adjust_columns(table, metrics, place | settings)
        else:
            adjusted[attribute] = confounded_gaps.evaluate(table, metrics=metrics, **place, **settings)
    if not adjusted:
        raise UserError(
            f"--adjust={','.join(confounders)}: no group is left to compare; name one with --group that is not a confounder"
        )
    return dataclasses.replace(context, adjusted=adjusted, adjusted_by=adjustment.method)


def _method(name: str, table: Table, confounders: Sequence[str]) -> balance.Balancer:
    """The method by its name; matching is exact, or by propensity where a confounder is a number."""
    if name == "matching":
        has_number = any(table.schema.attributes.get(c, ()) is None for c in confounders)
        return balance.Matching(balance.PROPENSITY if has_number else None)
    return {"standardization": balance.Standardization(), "weighting": balance.Weighting()}[name]


def _adjust_columns(table: Table, metrics: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Adjusted]:
    """Adjusts the gaps of several columns of values: level -> gaps in ``mean:dice_cup``, ``mean:hd95_cup``."""
    merged: dict[str, Adjusted] = {}
    for name in metrics:
        metric, _, column = name.partition(":")
        for level, gaps in confounded_gaps.evaluate(
            table, metrics=[metric], model=column, **settings
        ).items():
            parts = {k: {name: getattr(gaps, k)[metric]} for k in ("raw", "gaps", "explained", "estimates")}
            if level in merged:
                parts = {k: getattr(merged[level], k) | part for k, part in parts.items()}
            merged[level] = dataclasses.replace(merged.get(level, gaps), **parts)
    return merged


def to_json(context: Context) -> dict[str, Any]:
    """Makes the part ``adjusted`` of ``metrics.json``: attribute -> level -> settings, overlap, and raw and adjusted gap of each score."""
    return {
        attribute: {
            level: {
                "reference": result.reference, "target": result.target, "confounders": list(result.confounders), "method": context.adjusted_by,
                "left_out": result.left_out,
                "overlap": {name: clean(support.overlap) for name, support in result.support.items()},
                "gaps": {
                    metric: {kind: _numbers(gaps[metric]) for kind, gaps in (("raw", result.raw), ("adjusted", result.gaps), ("explained", result.explained))}
                    for metric in result.gaps
                },
            }
            for level, result in levels.items()
        }
        for attribute, levels in context.adjusted.items()
    }  # fmt: skip


def _numbers(gap: Disparity) -> dict[str, Any]:
    return clean({k: getattr(gap, k) for k in ("value", "low", "high", "p", "p_adjusted", "reason")})


def section(context: Context) -> Section | None:
    """The section on raw and adjusted gaps, side by side; None where nobody asked for adjusted gaps."""
    if context.adjusted is None:
        return None
    some = next(iter(next(iter(context.adjusted.values())).values()))
    text = (
        f"Groups may differ because one is older or was scanned elsewhere. Here {_WORDS[context.adjusted_by]}, so that both have the "
        f"same {_joined(some.confounders)} within each outcome class. The adjustment was estimated again in every resample. The explained part "
        "of a gap is what it loses by the adjustment.",
        "An adjusted gap says what remains once these confounders are alike, but not why. Confounders that no column holds remain in it.",
    )  # fmt: skip
    drawn, tables, notes = [], [], []
    for attribute, levels in context.adjusted.items():
        drawn += _gap_figures(context, attribute, levels)
        tables.append(_gap_table(attribute, levels))
        tables.append(_support_table(attribute, levels))
        drawn.append(_balance_figure(attribute, levels))
        left = sum(result.left_out for result in levels.values())
        if left:
            notes.append(
                f"By {attribute}, {left} {context.unit} with an unknown confounder are left out of both the raw and the adjusted gaps."
            )
    notes.append(
        "Overlap is the share of the target population that has a counterpart in the other group. Effective patients are what the weights leave "
        "of the number of patients. A gap is left blank where too few people have a counterpart."
    )
    return Section("Raw and adjusted gaps", text, drawn, tables, notes=notes)


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _gap_figures(context: Context, attribute: str, levels: Mapping[str, Adjusted]) -> list[Figure]:
    """Draws, for each score, the raw gap of each group above its adjusted gap."""
    drawn = []
    for metric in next(iter(levels.values())).gaps:
        rows = [(level, result.raw[metric], result.gaps[metric]) for level, result in levels.items()]
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
            values = "; ".join(
                f"{level}: raw {number(raw.value, 2, True)}, adjusted {number(gap.value, 2, True)}"
                for level, raw, gap in rows[:8]
            )
            drawn.append(
                finish(
                    canvas, f"adjusted_gaps_by_{file_name(attribute)}_{file_name(metric)}",
                    f"Raw and adjusted differences in {short_title(metric)} by {attribute}: {values}.",
                    f"{short_title(metric)[0].upper()}{short_title(metric)[1:]} by {attribute}: the raw gap to “{reference}” and what remains of it.",
                )
            )  # fmt: skip
    return drawn


def _gap_table(attribute: str, levels: Mapping[str, Adjusted]) -> ReportTable:
    def shown(gap: Disparity) -> Cell:
        return Cell(number(gap.value, 3, True), note=interval(gap.low, gap.high, 3, True))

    rows = []
    for level, result in levels.items():
        for metric, gap in result.gaps.items():
            rows.append(
                (
                    text_cell(short_title(metric), gap.reason or ""), text_cell(f"{level} − {result.reference}"), shown(result.raw[metric]), shown(gap),
                    shown(result.explained[metric]), Cell(probability(gap.p_adjusted)),
                )
            )  # fmt: skip
    some = next(iter(levels.values()))
    header = ("difference in", attribute, "raw", "adjusted", "explained", "p of the adjusted gap")
    return ReportTable(
        header, rows, f"Gaps by {attribute}, with the {_joined(some.confounders)} of {some.target}"
    )


def _support_table(attribute: str, levels: Mapping[str, Adjusted]) -> ReportTable:
    rows = [
        (
            text_cell(f"{level} − {result.reference}"), text_cell(name), Cell(f"{number(100 * support.overlap, 0)} %"),
            Cell(" and ".join(number(support.effective[k], 0) for k in support.effective)),
            Cell(" and ".join(str(support.n[k]) for k in support.n)),
            Cell(f"{number(100 * max(support.largest.values(), default=math.nan), 1)} %"),
        )
        for level, result in levels.items()
        for name, support in result.support.items()
    ]  # fmt: skip
    header = ("groups", "outcome", "overlap", "effective patients", "images", "largest weight")
    return ReportTable(header, rows, f"How far the groups of {attribute} can be made alike", True)


def _balance_figure(attribute: str, levels: Mapping[str, Adjusted]) -> Figure:
    """Draws the standardised mean differences of the confounders before and after the adjustment."""
    rows = [
        (f"{level}, {name}: {feature}", *ends)
        for level, result in levels.items()
        for name, support in result.support.items()
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
        caption = f"Confounders of the groups by {attribute}, before and after the adjustment. The shaded range, within 0.1, is usually called balanced."
        return finish(
            canvas,
            f"balance_by_{file_name(attribute)}",
            f"Balance of the confounders by {attribute}.",
            caption,
        )
