"""The page for many runs: methods by seeds, what differs between them, and how surely."""

import json
import math
import pathlib

from equipoise.engine.metrics.comparing.methods import Contrast
from equipoise.engine.metrics.estimates.seeds import FEW, OverSeeds
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.figures import dots
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.many import exports
from equipoise.engine.report.many.context import Comparison, around_or_why, limits, score_title, short_name
from equipoise.engine.report.page import files
from equipoise.engine.report.page.page import (
    Cell,
    Figure,
    Grid,
    KeyNumber,
    Section,
    interval,
    number,
    pointer,
    probability,
    render,
    sentence,
    text_cell,
    title,
)

_MOST_OPEN = 16  # rows of a table that is not folded
_MOST_PAIRS = 15  # of methods in a figure
_FEW_PAIRS = 3  # that share a figure over all scores
_NAN = float("nan")


def conclusion(comparison: Comparison) -> str:
    """One sentence: which methods differ, after Holm, in what."""
    if len(comparison.methods) < 2:
        name, found = next(iter(comparison.methods.items()))
        metric = comparison.metrics[0]
        mean = found.overall[metric]
        around = interval(*limits(mean))
        what = f"{short_name(metric)} {number(mean.estimate.value)}" + (
            f" (95 % interval {around})" if around else ""
        )
        return f"One method, “{name}”, over {len(mean.values)} run{'s' * (len(mean.values) > 1)}: {what}."
    sure = [c for c in comparison.contrasts if c.p_adjusted < 1 - CONFIDENCE and not c.attribute]
    sure += [
        c
        for c in comparison.contrasts
        if c.p_adjusted < 1 - CONFIDENCE and c.score.startswith("worst_group:")
    ]
    if not sure:
        return f"No difference between the {len(comparison.methods)} methods is established, overall or in a worst group."
    found = min(
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
    around = interval(found.low, found.high, 3, True)
    return f"{sentence(score_title(found))}: “{found.first}” minus “{found.second}” is {number(found.value, 3, True)} ({around}).{more}"


def arrangement(comparison: Comparison) -> Section:
    """Which runs make which method, and which could not be compared."""
    gathered, rows = comparison.gathered, []
    for name, members in gathered.methods.items():
        seeds = ", ".join(m.block.removeprefix("seed ") for m in members)
        values = [
            text_cell(" / ".join(dict.fromkeys(m.factors[f] for m in members))) for f in gathered.factors
        ]
        rows.append((text_cell(name), Cell(str(len(members))), text_cell(seeds), *values))
    grids = [Grid(("method", "runs", "seeds", *gathered.factors), rows)]
    first = gathered.members[0].base.frame
    text = [
        f"{len(gathered.members)} runs were scored on the same {len(first)} images of {first['subject_id'].nunique()} patients "
        f"({gathered.cohort}, {gathered.split} split)."
    ]  # fmt: skip
    if gathered.within:
        text.append(
            f"Within a method runs also differ in {', '.join(gathered.within)}: their spread is not of the seed alone."
        )
    if gathered.excluded:
        left = [(text_cell(name), text_cell(why)) for name, why in gathered.excluded]
        grids.append(
            Grid(
                ("left out", "because"),
                left,
                f"{len(left)} of {len(left) + len(gathered.members)} runs are left out",
            )
        )
    unpaired = list(dict.fromkeys(s for c in comparison.contrasts for s in c.unpaired))
    notes = [f"Without a partner in a comparison of two methods: {', '.join(unpaired)}."] if unpaired else []
    return Section("Runs", text, tables=grids, notes=notes)


def _metric_figure(comparison: Comparison, metric: str) -> Figure:
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


def scores(comparison: Comparison) -> Section:
    """Every leading metric of every method, overall and by group."""
    grids = []
    rows = [
        (text_cell(name), *(_score(pointer("methods", name, "overall", m), found.overall[m]) for m in comparison.metrics))
        for name, found in comparison.methods.items()
    ]  # fmt: skip
    grids.append(
        Grid(
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
            Grid(("method", attribute, *map(short_name, comparison.metrics)), rows, f"By {attribute}", True)
        )
    text = (
        "± is the standard deviation between runs that differ by their seed, scored on the same patients. The interval is of the "
        "mean over seeds and carries both another choice of seeds and another choice of patients."
    )  # fmt: skip
    drawn = [_metric_figure(comparison, m) for m in comparison.metrics]
    return Section("Scores by method", (text,), drawn, grids)


def groups(comparison: Comparison) -> Section | None:
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
        grids.append(Grid(header, worst, f"Worst group and range by {attribute}", len(worst) > _MOST_OPEN))
        header = ("method", "score", "gap", "mean, 95 % interval", "SD between seeds", "p", "p (Holm)")
        grids.append(Grid(header, gaps, f"Gaps by {attribute}", len(gaps) > _MOST_OPEN))
    grids = [g for g in grids if g.rows]
    text = (
        "The worst group of a mean over runs is one group; each run's own worst group may be another, and its mean is lower by chance "
        "alone. Intervals are of the former and hold whichever group is worst (Bonferroni); no bootstrap is taken of an extreme."
    )  # fmt: skip
    return Section("Groups", (text,), tables=grids) if grids else None


def _difference_figures(comparison: Comparison) -> list[Figure]:
    """Differences over everyone: one figure for all scores of a few pairs of methods, else one for each score."""
    panels = []
    for metric in comparison.metrics:
        found = [c for c in comparison.between(metric) if math.isfinite(c.value)]
        rows = [
            dots.Row(f"{c.first} − {c.second}", c.value, c.low, c.high, (), number(c.value, 3, True))
            for c in found
        ]
        if rows:
            panels.append((metric, (short_name(metric), rows)))
    few = all(len(rows) <= _FEW_PAIRS for _, (_, rows) in panels)
    each = [("differences", [p for _, p in panels])] if few and panels else [
        (f"differences_{figures.file_name(metric)}", [panel]) for metric, panel in panels
    ]  # fmt: skip
    return [
        dots.draw(
            shown, name, "Differences between methods with 95 % intervals: "
            + "; ".join(f"{heading}: {', '.join(f'{r.label} {r.text}' for r in rows)}" for heading, rows in shown) + ".",
            "Differences between methods over everyone, paired by seed and by patient, with 95 % intervals (not adjusted for their number).",
            "first − second", zero=True,
        )
        for name, shown in each
    ]  # fmt: skip


def differences(comparison: Comparison) -> Section | None:
    """Every pair of methods, paired by seed and by patient."""
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

    grids = []
    for found, caption, is_folded in ((lead, "Overall and worst groups", len(lead) > 4 * _MOST_OPEN), (rest, "By group, and gaps between groups", True)):  # fmt: skip
        rows = []
        inside = set(map(id, found))
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
        grids.append(Grid(header, rows, caption, is_folded))
    text = (
        "Both methods of a pair are scored on the same patients, run by run with the same seed. p is of no difference in the mean over "
        f"seeds (t with Satterthwaite's degrees of freedom); Holm's correction is over the {pairs} pair{'s' * (pairs > 1)} of methods in one score."
    )  # fmt: skip
    notes = (
        [f"Not compared, because they have no seed in common: {', '.join(comparison.unpaired)}."]
        if comparison.unpaired
        else []
    )
    return Section("Differences between methods", (text,), drawn, [g for g in grids if g.rows], notes=notes)


def sources(comparison: Comparison) -> Section:
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
    return Section("Seeds and patients", (text,), tables=[Grid(header, rows, "", len(rows) > 2 * _MOST_OPEN)])


def reading(comparison: Comparison) -> Section:
    """What the intervals are, and what few seeds allow."""
    fewest = min(len(m.runs) for m in comparison.methods.values())
    points = [
        "Interval of a mean over K runs: variance between seeds beyond that of patients, divided by K, plus the clustered variance of the mean over "
        "patients; t with Satterthwaite's degrees of freedom. In simulations with 6 and 10 seeds it holds the mean 93 to 97 % of the time; a percentile "
        "bootstrap of seeds and patients holds it 86 to 91 % of the time with 6 seeds.",
        "Patients are the same for all runs, so that differences are paired by patient; seeds are paired where both methods have them.",
    ]  # fmt: skip
    if fewest == 1:
        points.append(
            "A method with one run has no SD between seeds and no interval that carries seeds: nothing is known of them."
        )
    if 1 < fewest < FEW:
        points.append(
            "With fewer than five runs the intervals may cover less than they say where seeds matter more than patients: about 90 % with three, 87 % with two."
        )
    settings = [
        (k, str(v)) for k, v in comparison.settings.items() if isinstance(v, str | int | float) and str(v)
    ]
    settings += list(comparison.settings.get("versions", {}).items())
    grid = Grid(
        ("", ""),
        [(text_cell(k.replace("_", " ")), text_cell(v)) for k, v in settings],
        "Settings and versions",
        True,
    )
    return Section("How to read this", points=points, tables=[grid], command=comparison.made_by or None)


def sections(comparison: Comparison) -> list[Section]:
    """All sections of the page in order."""
    found = [
        scores(comparison),
        differences(comparison),
        groups(comparison),
        sources(comparison),
        arrangement(comparison),
        reading(comparison),
    ]
    return [s for s in found if s is not None]


def _key_numbers(comparison: Comparison) -> list[KeyNumber]:
    metric, keys = comparison.metrics[0], []
    for name, found in list(comparison.methods.items())[:4]:
        mean = found.overall[metric]
        note = (
            f"± {number(mean.seed_sd)} between {len(mean.values)} seeds"
            if len(mean.values) > 1
            else "one run"
        )
        keys.append(
            KeyNumber(
                f"{short_name(metric)}: {name}",
                number(mean.estimate.value),
                note,
                pointer("methods", name, "overall", metric),
            )
        )
    return keys


def write(comparison: Comparison, output: pathlib.Path) -> list[pathlib.Path]:
    """Writes ``report.html``, ``metrics.json``, ``runs.csv``, ``summary.csv``, ``table.tex`` and ``figures/``.

    Returns:
      The files written.
    """
    shown, found = sections(comparison), exports.document(comparison)
    heading = f"{len(comparison.gathered.members)} runs: {comparison.gathered.members[0].base.schema.label} in {comparison.gathered.cohort}, {comparison.gathered.split} split"
    page = render(heading, [conclusion(comparison)], _key_numbers(comparison), shown)
    texts = {
        "report.html": page, "metrics.json": json.dumps(found, indent=1, allow_nan=False) + "\n", "runs.csv": exports.runs_csv(comparison),
        "summary.csv": exports.summary_csv(found), "table.tex": exports.table_tex(comparison),
    }  # fmt: skip
    return files.write_all(output, texts, shown)
