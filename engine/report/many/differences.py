"""The differences between methods, paired by seed and by patient."""

import math

from equipoise.engine.metrics.comparing.methods import Contrast
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.figures import dots
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.many.comparison import RunComparison
from equipoise.engine.report.many.words import around_or_why, limits, score_title, short_name
from equipoise.engine.report.page.page import (
    Cell,
    Figure,
    ReportTable,
    Section,
    text_cell,
)
from equipoise.engine.report.page.words import interval, number, probability, sentence

_MOST_OPEN = 16  # most rows of a table that is not folded
_MOST_PAIRS = 15  # most pairs of methods in a figure
_FEW_PAIRS = 3  # most pairs of methods whose scores share one figure


def conclusion(comparison: RunComparison) -> str:
    """The conclusion in one sentence: which methods differ after Holm's correction, and in which score."""
    if len(comparison.methods) < 2:
        name, method = next(iter(comparison.methods.items()))
        metric = comparison.metrics[0]
        mean = method.overall[metric]
        around = interval(*limits(mean))
        what = f"{short_name(metric)} is {number(mean.estimate.value)}" + (
            f" (95 % interval {around})" if around else ""
        )
        return f"There is one method, “{name}”; over {len(mean.values)} run{'s' * (len(mean.values) > 1)} its {what}."
    sure = [c for c in comparison.contrasts if c.p_adjusted < 1 - CONFIDENCE and not c.attribute]
    sure += [
        c
        for c in comparison.contrasts
        if c.p_adjusted < 1 - CONFIDENCE and c.score.startswith("worst_group:")
    ]
    if not sure:
        return f"No difference between the {len(comparison.methods)} methods is established, overall or in a worst group."
    surest = min(
        sure,
        key=lambda c: (
            c.attribute != "",
            comparison.metrics.index(c.score.removeprefix("worst_group:")),
            c.p_adjusted,
        ),
    )
    more = (
        f" {len(sure) - 1} more differences are established after Holm's correction." if len(sure) > 1 else ""
    )
    around = interval(surest.low, surest.high, 3, True)
    return f"{sentence(score_title(surest))}: “{surest.first}” minus “{surest.second}” is {number(surest.value, 3, True)} ({around}).{more}"


def _difference_figures(comparison: RunComparison) -> list[Figure]:
    """Draws the differences over everyone: one figure for all scores where there are few pairs of methods, else one for each score."""
    panels = []
    for metric in comparison.metrics:
        known = [c for c in comparison.between(metric) if math.isfinite(c.value)]
        rows = [
            dots.Row(f"{c.first} − {c.second}", c.value, c.low, c.high, (), number(c.value, 3, True))
            for c in known
        ]
        if rows:
            panels.append((metric, (short_name(metric), rows)))
    few = all(len(rows) <= _FEW_PAIRS for _, (_, rows) in panels)
    figure_panels = [("differences", [p for _, p in panels])] if few and panels else [
        (f"differences_{figures.file_name(metric)}", [panel]) for metric, panel in panels
    ]  # fmt: skip
    return [
        dots.draw(
            shown, name, "Differences between methods with 95 % intervals: "
            + "; ".join(f"{heading}: {', '.join(f'{r.label} {r.text}' for r in rows)}" for heading, rows in shown) + ".",
            "Differences between methods over everyone, paired by seed and by patient, with 95 % intervals (not adjusted for their number).",
            "first − second", zero=True,
        )
        for name, shown in figure_panels
    ]  # fmt: skip


def differences(comparison: RunComparison) -> Section | None:
    """The section on the differences between every two methods; None for a single method."""
    if len(comparison.methods) < 2:
        return None
    pairs = len(comparison.methods) * (len(comparison.methods) - 1) // 2
    lead = [
        c
        for c in comparison.contrasts
        if c.num_runs and (not c.attribute or c.score.startswith("worst_group:"))
    ]
    leading = set(map(id, lead))
    rest = [c for c in comparison.contrasts if c.num_runs and id(c) not in leading]
    drawn = _difference_figures(comparison) if pairs <= _MOST_PAIRS else []

    def order(c: Contrast) -> tuple:
        return (
            c.attribute,
            c.score.rpartition(":")[0],
            comparison.metrics.index(c.score.removeprefix("worst_group:").removeprefix("difference:")),
        )

    tables = []
    for contrasts, caption, is_folded in ((lead, "Overall and worst groups", len(lead) > 4 * _MOST_OPEN), (rest, "By group, and gaps between groups", True)):  # fmt: skip
        rows = []
        inside = set(map(id, contrasts))
        for place, c in sorted(enumerate(comparison.contrasts), key=lambda item: order(item[1])):
            if id(c) in inside:
                value = Cell(
                    number(c.value, 3, True),
                    f"/contrasts/{place}",
                    around_or_why(c.low, c.high, c.reason, True),
                )
                sd = Cell(number(c.seed_sd))
                rows.append((text_cell(score_title(c)), text_cell(f"{c.first} − {c.second}"), Cell(str(c.num_runs)), value, sd,
                             Cell(probability(c.p)), Cell(probability(c.p_adjusted))))  # fmt: skip
        header = (
            "score",
            "methods",
            "paired seeds",
            "difference, 95 % interval",
            "SD between pairs",
            "p",
            "p (Holm)",
        )
        tables.append(ReportTable(header, rows, caption, is_folded))
    text = (
        "Both methods of a pair are scored on the same patients, and each run is paired with the run of the same seed. p tests the hypothesis of no "
        "difference in the mean over seeds (t with Satterthwaite's degrees of freedom). Holm's correction is over the "
        f"{pairs} pair{'s' * (pairs > 1)} of methods in one score."
    )  # fmt: skip
    notes = (
        [
            f"These methods are not compared, because they have no seed in common: {', '.join(comparison.unpaired)}."
        ]
        if comparison.unpaired
        else []
    )
    return Section("Differences between methods", (text,), drawn, [t for t in tables if t.rows], notes=notes)
