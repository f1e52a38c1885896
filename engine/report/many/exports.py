"""The files of a report on many runs: ``metrics.json``, ``runs.csv``, ``summary.csv`` and ``table.tex``."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from equipoise.engine.metrics.comparing import methods as over_runs
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.many.comparison import RunComparison
from equipoise.engine.report.many.words import excludes_zero, limits, short_name
from equipoise.engine.report.page import files, latex


def document(comparison: RunComparison) -> dict[str, Any]:
    """The content of ``metrics.json``, as ``runs.schema.json`` describes it."""
    listed = [
        {"name": m.name, "method": m.method, "block": m.block, "step": m.step, "factors": dict(m.factors)}
        for m in comparison.gathered.members
    ]
    excluded = [{"name": name, "reason": why} for name, why in comparison.gathered.excluded]
    factors = {"factors": list(comparison.gathered.factors), "within": list(comparison.gathered.within)}
    return over_runs.to_json(
        comparison.methods,
        comparison.contrasts,
        runs=listed,
        excluded=excluded,
        **factors,
        settings=dict(comparison.settings),
    )


def runs_csv(comparison: RunComparison) -> str:
    """The content of ``runs.csv``: a line for each run, metric and group, with the run's own interval over patients."""
    rows = []
    for member in comparison.gathered.members:
        frame = comparison.methods[member.method].runs[member.block]
        head = {
            "run": member.name,
            "method": member.method,
            "seed": member.block,
            "step": member.step,
            **member.factors,
        }
        places = [("overall", "", "", frame.overall)]
        places += [
            ("group", a, level, cells)
            for a, levels in frame.groups.items()
            for level, cells in levels.items()
        ]
        for part, attribute, level, cells in places:
            for metric, e in cells.items():
                low, high = e.limits(CONFIDENCE)
                rows.append(head | {
                    "part": part, "attribute": attribute, "level": level, "score": metric, "value": e.value, "low": low, "high": high, "sd_patients": e.se,
                    "n": e.n, "n_subjects": e.n_subjects, "events": e.events, "interval": e.method, "reason": e.reason or "",
                })  # fmt: skip
    return files.safe_csv(pd.DataFrame(rows))


def summary_csv(numbers: Mapping[str, Any]) -> str:
    """The content of ``summary.csv``: a line for each score of a method and for each difference between two methods."""
    rows = []
    for name, method in numbers["methods"].items():
        rows += [
            {"part": "overall", "method": name, "score": k, **cell} for k, cell in method["overall"].items()
        ]
        for attribute, levels in method["groups"].items():
            place = {"part": "group", "method": name, "attribute": attribute}
            rows += [
                {**place, "level": level, "score": k, **cell}
                for level, cells in levels.items()
                for k, cell in cells.items()
            ]
        for attribute, gaps in method["disparities"].items():
            place = {"part": "disparity", "method": name, "attribute": attribute}
            rows += [{**place, "score": k, **d, "level": " - ".join(d["levels"])} for k, d in gaps.items()]
    rows += [
        {
            "part": "contrast",
            "method": f"{c['first']} - {c['second']}",
            **c,
            "unpaired": "; ".join(c["unpaired"]),
        }
        for c in numbers["contrasts"]
    ]
    columns = ["part", "method", "attribute", "level", "score", "value", "low", "high", "num_runs", "seed_sd", "sample_sd", "sample_low", "sample_high",
               "variance_seed", "variance_patients", "variance_both", "mean_of_runs", "p", "p_adjusted", "test", "null", "n", "n_subjects", "events",
               "unpaired", "reason"]  # fmt: skip
    return files.safe_csv(pd.DataFrame(rows).reindex(columns=columns))


def _best(
    comparison: RunComparison, score: str, attribute: str, values: Mapping[str, float]
) -> dict[str, bool]:
    """Method -> whether it is clearly the best: its paired interval against every other method excludes 0.

    All comparisons must exclude 0, so none needs a correction (intersection-union test).
    """
    about = over_runs.entry(score.removeprefix("worst_group:"))
    known = {k: v for k, v in values.items() if math.isfinite(v)}
    if not known:
        return dict.fromkeys(values, False)
    if about.target is not None:
        top = min(known, key=lambda k: abs(known[k] - about.target))
    else:
        top = (max if about.higher_is_better else min)(known, key=known.__getitem__)
    against = [c for c in comparison.between(score, attribute) if top in (c.first, c.second)]
    clear = len(against) == len(values) - 1 > 0 and all(excludes_zero(c) for c in against)
    return {name: clear and name == top for name in values}


def table_tex(comparison: RunComparison) -> str:
    """The content of ``table.tex``: the metrics overall, and the worst groups of the first metric by attribute."""
    columns: list[tuple[str, str, str]] = [(short_name(m), m, "") for m in comparison.metrics]
    columns += [
        (f"worst {short_name(comparison.metrics[0])}, {a}", f"worst_group:{comparison.metrics[0]}", a)
        for a in comparison.attributes
    ]
    cells: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in comparison.methods}
    best: dict[str, list[bool]] = {name: [] for name in comparison.methods}
    for _, score, attribute in columns:
        values = {}
        for name, method in comparison.methods.items():
            if attribute:
                worst = method.disparities[attribute][score]
                cell = worst.value, worst.seed_sd, worst.low, worst.high
            else:
                mean = method.overall[score]
                cell = mean.estimate.value, mean.seed_sd, *limits(mean)
            cells[name].append(cell)
            values[name] = cell[0]
        for name, bold in _best(comparison, score, attribute, values).items():
            best[name].append(bold)
    counts = sorted({len(m.runs) for m in comparison.methods.values()})
    size = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    frame = comparison.gathered.members[0].base.frame
    caption = (
        f"Mean ± standard deviation between seeds ({size} run{'s' * (size != '1')} of each method), with the 95 % interval of the mean over seeds and patients "
        f"below ({comparison.gathered.cohort}, {comparison.gathered.split} split, {len(frame)} images of {frame['subject_id'].nunique()} patients). "
        "Bold marks the best method, where its paired 95 % interval against every other method excludes 0."
    )  # fmt: skip
    return latex.table([heading for heading, _, _ in columns], cells, best, caption)
