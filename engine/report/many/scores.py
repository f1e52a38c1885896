"""The scores of every method: means over its runs, by group, and how much of their spread is due to seeds."""

import math

from equipoise.engine.metrics.estimates.seeds import OverSeeds
from equipoise.engine.metrics.frame.evaluate import CONFIDENCE
from equipoise.engine.report.figures import dots
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.many.comparison import RunComparison
from equipoise.engine.report.many.words import around_or_why, limits, short_name
from equipoise.engine.report.page.page import (
    Cell,
    Figure,
    ReportTable,
    Section,
    pointer,
    text_cell,
)
from equipoise.engine.report.page.words import interval, number, probability, title

_MOST_OPEN = 16  # rows of a table that is not folded


def _metric_figure(comparison: RunComparison, metric: str) -> Figure:
    """All methods in one metric, overall and in the worst group of each attribute."""
    panels = [("everyone", [dots.row(name, m.overall[metric]) for name, m in comparison.methods.items()])]
    for attribute in comparison.attributes:
        rows = []
        for name, found in comparison.methods.items():
            worst = found.disparities[attribute][f"worst_group:{metric}"]
            if worst.levels:
                own = found.groups[attribute][worst.levels[0]][metric]
                row = dots.row(f"{name}: {worst.levels[0]}", own)
                rows.append(row._replace(low=worst.low, high=worst.high))
        if rows:
            panels.append((f"worst group by {attribute}", rows))
    said = "; ".join(f"{r.label} {r.text}" for r in panels[0][1])
    return dots.draw(
        panels, f"methods_{figures.file_name(metric)}", f"{title(metric)} of each method over its runs: {said}.",
        f"{title(metric)[:1].upper()}{title(metric)[1:]}: mean over runs (marker), 95 % interval over seeds and patients (line), each run (small dots); "
        "numbers are mean ± SD between seeds. Dashed: patients alone, where there is one run. The worst group is that of the mean over runs.",
        short_name(metric),
    )  # fmt: skip


def _score(key: str, found: OverSeeds) -> Cell:
    sd = f"± {number(found.seed_sd)} · " if math.isfinite(found.seed_sd) else ""
    return Cell(number(found.estimate.value), key, sd + around_or_why(*limits(found), found.estimate.reason))


def scores(comparison: RunComparison) -> Section:
    """Every leading metric of every method, overall and by group."""
    grids = []
    rows = [
        (text_cell(name), *(_score(pointer("methods", name, "overall", m), found.overall[m]) for m in comparison.metrics))
        for name, found in comparison.methods.items()
    ]  # fmt: skip
    grids.append(
        ReportTable(
            ("method", *map(short_name, comparison.metrics)),
            rows,
            "Everyone: mean, ± SD between seeds, 95 % interval",
        )
    )
    for attribute in comparison.attributes:
        levels = next(iter(comparison.methods.values())).groups[attribute]
        rows = [
            (
                text_cell(name), text_cell(level),
                *(_score(pointer("methods", name, "groups", attribute, level, m), found.groups[attribute][level][m]) for m in comparison.metrics),
            )
            for name, found in comparison.methods.items() for level in levels
        ]  # fmt: skip
        grids.append(
            ReportTable(
                ("method", attribute, *map(short_name, comparison.metrics)), rows, f"By {attribute}", True
            )
        )
    text = (
        "± is the standard deviation between runs that differ by their seed, scored on the same patients. The interval is of the "
        "mean over seeds and carries both another choice of seeds and another choice of patients."
    )  # fmt: skip
    drawn = [_metric_figure(comparison, m) for m in comparison.metrics]
    return Section("Scores by method", (text,), drawn, grids)


def groups(comparison: RunComparison) -> Section | None:
    """Worst groups, ranges and gaps by attribute."""
    grids = []
    for attribute in comparison.attributes:
        worst, gaps = [], []
        for name, found in comparison.methods.items():
            for score, one in found.disparities[attribute].items():
                key = pointer("methods", name, "disparities", attribute, score)
                kind, _, rest = score.partition(":")
                sd = f"± {number(one.seed_sd)}" if math.isfinite(one.seed_sd) else "–"
                if kind == "difference":
                    metric = rest.removesuffix(f":{'-'.join(one.levels)}")
                    value = Cell(
                        number(one.value, 3, True), key, around_or_why(one.low, one.high, one.reason, True)
                    )
                    ps = (Cell(probability(one.p)), Cell(probability(one.p_adjusted)))
                    gaps.append(
                        (
                            text_cell(name),
                            text_cell(short_name(metric)),
                            text_cell(" − ".join(one.levels)),
                            value,
                            Cell(sd),
                            *ps,
                        )
                    )
                else:
                    what = {"worst_group": "worst group", "max_min": "largest − smallest"}[kind]
                    value = Cell(number(one.value), key, around_or_why(one.low, one.high, one.reason))
                    runs = Cell(number(one.mean_of_runs), note=sd if sd != "–" else "")
                    worst.append(
                        (
                            text_cell(name),
                            text_cell(short_name(rest)),
                            text_cell(what, ", ".join(one.levels)),
                            value,
                            runs,
                        )
                    )
        header = ("method", "score", "", "of the mean over runs", "mean of each run's own")
        grids.append(
            ReportTable(header, worst, f"Worst group and range by {attribute}", len(worst) > _MOST_OPEN)
        )
        header = ("method", "score", "gap", "mean, 95 % interval", "SD between seeds", "p", "p (Holm)")
        grids.append(ReportTable(header, gaps, f"Gaps by {attribute}", len(gaps) > _MOST_OPEN))
    grids = [g for g in grids if g.rows]
    text = (
        "The worst group of a mean over runs is one group; each run's own worst group may be another, and its mean is lower by chance "
        "alone. Intervals are of the former and hold whichever group is worst (Bonferroni); no bootstrap is taken of an extreme."
    )  # fmt: skip
    return Section("Groups", (text,), tables=grids) if grids else None


def sources(comparison: RunComparison) -> Section:
    """How much of the spread is of seeds, and how much of patients."""
    rows = []
    for name, found in comparison.methods.items():
        for metric in comparison.metrics:
            o = found.overall[metric]
            key = pointer("methods", name, "overall", metric)
            alone = interval(*o.sample.limits(CONFIDENCE))
            rows.append((
                text_cell(name), text_cell(short_name(metric)), Cell(number(o.seed_sd, 4)), Cell(number(math.sqrt(o.variance_seed), 4)),
                Cell(number(o.sample_sd, 4)), Cell(number(o.estimate.value), key, f"patients alone: {alone}" if alone else ""), Cell(interval(*limits(o)) or "–"),
            ))  # fmt: skip
    header = (
        "method",
        "score",
        "SD between seeds",
        "of it the seed's own",
        "SD over patients, one run",
        "mean",
        "95 % interval, both",
    )
    text = (
        "Two sources, never added into one ±. Between seeds: what another training run changes on the same patients; a part of it is "
        "these patients' too, and the seed's own part leaves that out. Over patients: what another draw of patients changes in one run. More seeds "
        "narrow the first, more patients the second."
    )  # fmt: skip
    return Section(
        "Seeds and patients", (text,), tables=[ReportTable(header, rows, "", len(rows) > 2 * _MOST_OPEN)]
    )
