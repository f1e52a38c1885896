"""The scores of every method: means over its runs, overall and by group, and how much they spread between seeds."""

import math

from equipoise.engine.metrics.estimates.seeds import OverSeeds
from equipoise.engine.metrics.frames.export import CONFIDENCE
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

_MOST_OPEN = 16  # most rows of a table that is not folded


def _metric_figure(comparison: RunComparison, metric: str) -> Figure:
    """Draws all methods in one metric, overall and in the worst group of each attribute."""
    panels = [("everyone", [dots.row(name, m.overall[metric]) for name, m in comparison.methods.items()])]
    for attribute in comparison.attributes:
        rows = []
        for name, method in comparison.methods.items():
            worst = method.disparities[attribute][f"worst_group:{metric}"]
            if worst.levels:
                mean = method.groups[attribute][worst.levels[0]][metric]
                row = dots.row(f"{name}: {worst.levels[0]}", mean)
                rows.append(row._replace(low=worst.low, high=worst.high))
        if rows:
            panels.append((f"worst group by {attribute}", rows))
    values = "; ".join(f"{r.label} {r.text}" for r in panels[0][1])
    return dots.draw(
        panels, f"methods_{figures.file_name(metric)}", f"{title(metric)} of each method over its runs: {values}.",
        f"{title(metric)[:1].upper()}{title(metric)[1:]}: mean over runs (marker), 95 % interval over seeds and patients (line), each run (small dots); "
        "numbers are mean ± SD between seeds. A dashed line is an interval over patients alone, where there is one run. The worst group is that of the "
        "mean over runs.",
        short_name(metric),
    )  # fmt: skip


def _score(key: str, mean: OverSeeds) -> Cell:
    sd = f"± {number(mean.seed_sd)} · " if math.isfinite(mean.seed_sd) else ""
    return Cell(number(mean.estimate.value), key, sd + around_or_why(*limits(mean), mean.estimate.reason))


def scores(comparison: RunComparison) -> Section:
    """The section on scores: every metric of every method, overall and by group."""
    tables = []
    rows = [
        (text_cell(name), *(_score(pointer("methods", name, "overall", m), method.overall[m]) for m in comparison.metrics))
        for name, method in comparison.methods.items()
    ]  # fmt: skip
    tables.append(
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
                *(_score(pointer("methods", name, "groups", attribute, level, m), method.groups[attribute][level][m]) for m in comparison.metrics),
            )
            for name, method in comparison.methods.items() for level in levels
        ]  # fmt: skip
        tables.append(
            ReportTable(
                ("method", attribute, *map(short_name, comparison.metrics)), rows, f"By {attribute}", True
            )
        )
    text = (
        "± is the standard deviation between runs that differ by their seed and were scored on the same patients. The interval is that of "
        "the mean over seeds; it carries both another choice of seeds and another choice of patients."
    )  # fmt: skip
    drawn = [_metric_figure(comparison, m) for m in comparison.metrics]
    return Section("Scores by method", (text,), drawn, tables)


def groups(comparison: RunComparison) -> Section | None:
    """The section on worst groups, ranges and gaps by attribute; None where there are none."""
    tables = []
    for attribute in comparison.attributes:
        worst, gaps = [], []
        for name, method in comparison.methods.items():
            for score, gap in method.disparities[attribute].items():
                key = pointer("methods", name, "disparities", attribute, score)
                kind, _, rest = score.partition(":")
                sd = f"± {number(gap.seed_sd)}" if math.isfinite(gap.seed_sd) else "–"
                if kind == "difference":
                    metric = rest.removesuffix(f":{'-'.join(gap.levels)}")
                    value = Cell(
                        number(gap.value, 3, True), key, around_or_why(gap.low, gap.high, gap.reason, True)
                    )
                    ps = (Cell(probability(gap.p)), Cell(probability(gap.p_adjusted)))
                    gaps.append(
                        (
                            text_cell(name),
                            text_cell(short_name(metric)),
                            text_cell(" − ".join(gap.levels)),
                            value,
                            Cell(sd),
                            *ps,
                        )
                    )
                else:
                    what = {"worst_group": "worst group", "max_min": "largest − smallest"}[kind]
                    value = Cell(number(gap.value), key, around_or_why(gap.low, gap.high, gap.reason))
                    runs = Cell(number(gap.mean_of_runs), note=sd if sd != "–" else "")
                    worst.append(
                        (
                            text_cell(name),
                            text_cell(short_name(rest)),
                            text_cell(what, ", ".join(gap.levels)),
                            value,
                            runs,
                        )
                    )
        header = ("method", "score", "", "in the mean over runs", "mean of the runs' own")
        tables.append(
            ReportTable(header, worst, f"Worst group and range by {attribute}", len(worst) > _MOST_OPEN)
        )
        header = ("method", "score", "gap", "mean, 95 % interval", "SD between seeds", "p", "p (Holm)")
        tables.append(ReportTable(header, gaps, f"Gaps by {attribute}", len(gaps) > _MOST_OPEN))
    tables = [t for t in tables if t.rows]
    text = (
        "The worst group in the mean over runs is one group. The worst group of a single run may be another one, so the mean over the runs' own "
        "worst groups is lower by chance alone. Intervals are those of the worst group in the mean; they hold whichever group is worst "
        "(Bonferroni). An extreme is not bootstrapped."
    )  # fmt: skip
    return Section("Groups", (text,), tables=tables) if tables else None


def sources(comparison: RunComparison) -> Section:
    """The section on how much of the spread comes from seeds, and how much from patients."""
    rows = []
    for name, method in comparison.methods.items():
        for metric in comparison.metrics:
            mean = method.overall[metric]
            key = pointer("methods", name, "overall", metric)
            alone = interval(*mean.sample.limits(CONFIDENCE))
            rows.append((
                text_cell(name), text_cell(short_name(metric)), Cell(number(mean.seed_sd, 4)), Cell(number(math.sqrt(mean.variance_seed), 4)),
                Cell(number(mean.sample_sd, 4)), Cell(number(mean.estimate.value), key, f"patients alone: {alone}" if alone else ""), Cell(interval(*limits(mean)) or "–"),
            ))  # fmt: skip
    header = (
        "method",
        "score",
        "SD between seeds",
        "SD of the seed alone",
        "SD over patients, one run",
        "mean",
        "95 % interval over both",
    )
    text = (
        "The spread has two sources, which are never added into one ±. The SD between seeds is what another training run changes on the same "
        "patients; a part of it belongs to these patients, and the SD of the seed alone leaves that part out. The SD over patients is what "
        "another draw of patients changes in one run. More seeds narrow the first source, more patients the second."
    )  # fmt: skip
    return Section(
        "Seeds and patients", (text,), tables=[ReportTable(header, rows, "", len(rows) > 2 * _MOST_OPEN)]
    )
