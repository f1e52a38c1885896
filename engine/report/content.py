"""What every report says, whatever the study: the conclusion, the cohort, scores, gaps, training, limits, definitions."""

import collections
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.metrics import classification, intervals
from engine.metrics import frame as metric_frame
from engine.metrics.frame import CONFIDENCE, Disparity
from engine.metrics.table import UNKNOWN
from engine.report import figures, slices
from engine.report.page import (
    Cell,
    Context,
    Figure,
    Grid,
    KeyNumber,
    Section,
    interval,
    number,
    probability,
    render,
)
from engine.transforms.masks import decode_mask

SHOWN = ("auroc", "accuracy", "sensitivity", "fpr")
GAPS = {"sensitivity": "ΔTPR", "fpr": "ΔFPR"}
_HOW = {"validation": "chosen on the validation split", "fixed": "fixed in advance"}


def _text(text: Any, note: str = "") -> Cell:
    return Cell(str(text), note=note, is_number=False)


def _points(value: float) -> str:
    """A difference of proportions in percentage points."""
    return number(100 * value, 1, signed=True)


def _main_gaps(context: Context) -> dict[tuple[str, str], Disparity]:
    """(attribute, score name) -> gap in sensitivity or false-positive rate, over all attributes."""
    return {
        (attribute, name): found
        for attribute, scores in context.frame.disparities.items()
        for name, found in scores.items()
        if name.startswith("difference:") and name.split(":")[1] in GAPS
    }


def conclusion(context: Context) -> str:
    """One plain sentence: whom the model serves differently, or how large a gap could have stayed unseen."""
    gaps = {k: d for k, d in _main_gaps(context).items() if math.isfinite(d.value)}
    if not gaps:
        return "No two groups can be compared on sensitivity or false-positive rate: the table has no attribute with two filled levels."
    adjusted = dict(zip(gaps, intervals.holm([d.p for d in gaps.values()]), strict=True))
    (attribute, name), found = min(
        gaps.items(), key=lambda item: (np.nan_to_num(adjusted[item[0]], nan=2.0), -abs(item[1].value))
    )
    metric, (level, reference) = name.split(":")[1], found.levels
    if not adjusted[attribute, name] < 1 - CONFIDENCE:
        missed = max(
            (d.min_detectable for d in gaps.values() if math.isfinite(d.min_detectable)), default=float("nan")
        )
        return (
            "No difference between groups in sensitivity or false-positive rate is established; "
            f"with this many patients a gap under {number(100 * missed, 0)} points could have been missed."
        )
    groups = context.frame.groups[attribute]
    first, second = (f"{number(100 * groups[g][metric].value, 0)} %" for g in (level, reference))
    positive, label = context.schema.positive, context.schema.label
    others = (
        f"images with {label} {positive}" if metric == "sensitivity" else f"images without {label} {positive}"
    )
    verb = "finds" if metric == "sensitivity" else "wrongly calls positive"
    return (
        f"The model treats the groups of “{attribute}” differently: it {verb} {first} of {others} in group “{level}”, but {second} in group "
        f"“{reference}” ({_points(found.value)} points, 95 % interval {_points(found.low)} to {_points(found.high)})."
    )


def key_numbers(context: Context) -> list[KeyNumber]:
    """The numbers at the top: AUROC, accuracy, and the gaps of the first attribute that has them."""
    keys = []
    for metric in ("auroc", "accuracy"):
        estimate = context.frame.overall[metric]
        note = interval(*estimate.limits(CONFIDENCE))
        title = {"auroc": "AUROC"}.get(metric, classification.get(metric).title.capitalize())
        keys.append(KeyNumber(title, number(estimate.value), note, f"overall.{metric}"))
    for (attribute, name), found in list(_main_gaps(context).items())[:2]:
        metric = name.split(":")[1]
        title = f"{GAPS[metric]} by {attribute}: {' − '.join(found.levels)}"
        keys.append(
            KeyNumber(
                title,
                number(found.value, 3, True),
                interval(found.low, found.high, 3, True),
                f"disparities.{attribute}.{name}",
            )
        )
    return keys


def about(context: Context) -> Section:
    """What was scored, by what, and where the threshold comes from."""
    settings, config = context.frame.settings, context.config
    threshold = settings["threshold"]
    shown = number(threshold) if isinstance(threshold, float) else "several"
    how = _HOW.get(settings["threshold_split"], f"from {settings['threshold_split']}")
    rule = config.get("task", {}).get("threshold", "")
    best = config.get("checkpoint", {}).get("best_metric", "")
    evaluated = [r for r in context.history if r.get("split") == "validation" and r.get(best) is not None]
    chosen = ""
    if evaluated:
        better = max if metric_frame.higher_is_better(best) else min
        top = better(r[best] for r in evaluated)
        mine = [r[best] for r in evaluated if r["step"] == context.step]
        chosen = (
            f"best validation {best} ({number(top)})"
            if mine and mine[0] == top
            else f"not the best by validation {best}"
        )
    rows = [
        (
            "cohort and split",
            f"{context.cohort}, {context.split}",
            f"{settings['num_images']} images of {settings['num_subjects']} patients",
        ),
        (
            "question",
            f"{context.schema.label}: {context.schema.positive}?",
            f"{settings['num_positive']} of {settings['num_images']} images are",
        ),
        (
            "model",
            str(config.get("model", {}).get("name", "")),
            f"trained on {config.get('data', {}).get('cohort', '')}",
        ),
        ("checkpoint", f"step {context.step}", chosen),
        (
            "threshold",
            f"{shown}, {how}",
            f"rule {rule}; a score at or above it is a positive; never chosen on the split reported here",
        ),
        (
            "intervals",
            "95 %, clustered by patient",
            f"bootstrap scores: {settings['resamples']} resamples, seed {settings['seed']}",
        ),
    ]
    grid = Grid(("", ""), [(_text(a), _text(b, c)) for a, b, c in rows])
    text = (
        "One trained model, judged on people it was not trained on: how well it does overall, whether it does equally well for every group, "
        "and how sure that is. The unit of certainty is the patient, not the image."
    )  # fmt: skip
    return Section("What this is", (text,), tables=(grid,))


def _reason(reason: str) -> str:
    """A reason without anything that could name a person or a place: digits and paths are dropped with their text."""
    safe = not any(c.isdigit() or c in "/\\" for c in reason)
    return reason if safe else "another reason (kept beside the cohort)"


def cohort(context: Context) -> Section:
    """Who is in each split, and who was left out."""
    report = context.cohort_report
    counts = report.get("counts", {})
    sizes = Grid(
        ("split", "patients", "images"),
        [(_text(s), Cell(str(c["subjects"])), Cell(str(c["scans"]))) for s, c in counts.items()],
    )
    variables: dict[str, dict[str, dict[str, int]]] = collections.defaultdict(dict)
    for split, found in counts.items():
        for name, levels in {**found.get("labels", {}), **found.get("attributes", {})}.items():
            if isinstance(levels, dict) and levels and all(isinstance(n, int) for n in levels.values()):
                variables[name][split] = levels
    drawn = (figures.composition(variables),) if variables else ()
    skipped = collections.Counter(_reason(s["reason"]) for s in report.get("skipped", ()))
    total = report.get("skipped_total", sum(skipped.values()))
    if not report:
        text = "No cohort report was found beside the prepared cohort, so that its composition and what was skipped cannot be shown."
    elif total:
        text = (
            f"{total} scans could not be used and are in no split: "
            + "; ".join(f"{n} × {why}" for why, n in skipped.most_common())
            + "."
        )
    else:
        text = "No scan was skipped: every scan of the source is in a split, and every image of the reported split is scored."
    return Section("Cohort", (text,), drawn, (*((sizes,) if counts else ()), *_cross(context)))


def _cross(context: Context) -> list[Grid]:
    """Label by attribute in the reported split: what is confounded with what."""
    classes, grids = context.schema.classes, []
    for attribute, levels in context.frame.groups.items():
        rows = []
        for level in levels:
            inside = context.table[context.table[attribute] == level]["target"]
            shares = [
                Cell(
                    str((inside == i).sum()),
                    note=f"{number(100 * (inside == i).mean(), 0)} %" if len(inside) else "",
                )
                for i in range(len(classes))
            ]
            rows.append((_text(f"{attribute}: {level}"), *shares))
        grids.append(
            Grid((f"{context.split} images", *(f"{context.schema.label} {c}" for c in classes)), rows)
        )
    return grids


def _score_cell(context: Context, metric: str, place: tuple[str, str] | None) -> Cell:
    estimate = context.frame.groups[place[0]][place[1]][metric] if place else context.frame.overall[metric]
    note = interval(*estimate.limits(CONFIDENCE))
    flag = " †" if estimate.reason and math.isfinite(estimate.value) else ""
    note = f"{note} · n={estimate.n}{flag}" if note else f"n={estimate.n} · {estimate.reason}"
    key = f"groups.{place[0]}.{place[1]}.{metric}" if place else f"overall.{metric}"
    return Cell(number(estimate.value), key, note)


def scores(context: Context) -> Section:
    """Every score overall and by group, with its interval."""
    drawn: list[Figure] = []
    grids = []
    truth = (context.table["target"] == context.schema.classes.index(context.schema.positive)).to_numpy()
    for attribute, levels in context.frame.groups.items():
        drawn.append(figures.forest(SHOWN, context.frame.overall, levels, attribute))
        curves = {}
        for level in levels:
            rows = (context.table[attribute] == level).to_numpy()
            inside = context.table[rows]
            if len(inside):
                curves[level] = (truth[rows], inside["score"].to_numpy(), float(inside["threshold"].iloc[0]))
        drawn.append(figures.roc(curves, attribute))
    for attribute, levels in (context.frame.groups or {"": {}}).items():
        rows = []
        for metric in context.frame.overall:
            entry = classification.get(metric)
            name = entry.title + (" *" if entry.depends_on_prevalence else "")
            cells = [_score_cell(context, metric, (attribute, level)) for level in levels]
            rows.append(
                (
                    _text(name, "" if entry.higher_is_better else "lower is better"),
                    _score_cell(context, metric, None),
                    *cells,
                )
            )
        grids.append(Grid(("score", "all", *(f"{attribute}: {level}" for level in levels)), rows))
    notes = [
        "* moves with the share of positives, so that groups can differ in it without being treated differently."
    ]
    flagged = any(
        e.reason for g in context.frame.groups.values() for cells in g.values() for e in cells.values()
    )
    if flagged or any(e.reason for e in context.frame.overall.values()):
        notes.append(
            "† a small cell, or one in which some resamples are undefined: read with care (metrics.json says which)."
        )
    numeric = [name for name, levels in context.schema.attributes.items() if levels is None]
    if numeric:
        notes.append(f"Attributes that are numbers are not grouped: {', '.join(numeric)}.")
    return Section("Scores, overall and by group", notes, drawn, grids)


def gaps(context: Context) -> Section:
    """Signed differences against the reference group, the worst group, and the range."""
    drawn, grids, notes = [], [], []
    for attribute, found in context.frame.disparities.items():
        if not found:
            notes.append(f"“{attribute}” has fewer than two filled levels: nothing to compare.")
            continue
        reference = context.frame.references[attribute]
        main = {k: d for (a, k), d in _main_gaps(context).items() if a == attribute}
        rows = [
            (f"{GAPS[k.split(':')[1]]}: {' − '.join(d.levels)}", d.value, d.low, d.high)
            for k, d in main.items()
            if math.isfinite(d.value)
        ]
        if rows:
            caption = (
                f"Gaps by {attribute}: group minus “{reference}”. Left of 0 the group has the lower rate."
            )
            drawn.append(figures.gaps(rows, f"gaps_by_{attribute}", caption))
        grids.append(_difference_grid(attribute, found))
        grids.append(_extreme_grid(attribute, found))
    notes.append(
        "ΔTPR and ΔFPR are differences in sensitivity and in false-positive rate; equal odds means that both are 0. "
        "p is two-sided, for the hypothesis that the difference is 0, and adjusted (Holm) for the number of levels compared."
    )
    notes.append(
        "A worst group or a range is picked because it is extreme, so that equal groups also show one; their intervals allow for that "
        "(Bonferroni), and the last column says how large a range chance alone gives. People of unknown group are shown above and compared nowhere."
    )
    return Section("Gaps between groups", notes, drawn, grids)


def _difference_grid(attribute: str, found: dict[str, Disparity]) -> Grid:
    rows = []
    for name, gap in found.items():
        kind, metric, *_ = name.split(":")
        if kind == "difference":
            title = classification.get(metric).title + (f", {GAPS[metric]}" if metric in GAPS else "")
            value = Cell(
                number(gap.value, 3, True),
                f"disparities.{attribute}.{name}",
                interval(gap.low, gap.high, 3, True),
            )
            rows.append(
                (
                    _text(title, gap.reason or ""),
                    _text(" − ".join(gap.levels)),
                    value,
                    Cell(probability(gap.p_adjusted)),
                    Cell(number(gap.min_detectable)),
                )
            )
    return Grid(
        ("difference in", attribute, "value, 95 % interval", "p, adjusted", "smallest detectable"),
        rows,
        f"Differences by {attribute}",
    )


def _extreme_grid(attribute: str, found: dict[str, Disparity]) -> Grid:
    rows = []
    for metric in classification.METRICS:
        worst, spread = found.get(f"worst_group:{metric}"), found.get(f"max_min:{metric}")
        if worst is None or spread is None:
            continue
        path = f"disparities.{attribute}"
        cells = [
            Cell(number(d.value), f"{path}.{k}:{metric}", interval(d.low, d.high))
            for k, d in (("worst_group", worst), ("max_min", spread))
        ]
        chance = spread.null.rsplit("up to ", 1)[1].split(" ")[0] if spread.test else "–"
        rows.append(
            (
                _text(classification.get(metric).title, worst.reason or ""),
                _text(", ".join(worst.levels)),
                *cells,
                Cell(chance),
            )
        )
    return Grid(
        ("score", "worst group", "its value", "largest − smallest", "largest − smallest by chance"),
        rows,
        f"Extremes by {attribute}",
    )


def training(context: Context) -> Section:
    """Loss and validation score by step."""
    if not context.history:
        return Section(
            "Training", ("The run's metrics.jsonl holds no row, so that there is no curve to show.",)
        )
    best = context.config.get("checkpoint", {}).get("best_metric", "auroc")
    metrics = list(dict.fromkeys([*([best] if best != "loss" else []), "accuracy"]))
    return Section("Training", (), (figures.training(context.history, context.step, metrics),))


def saliency(context: Context) -> Section:
    """Where in the image the decision comes from."""
    title = "Where the model looks"
    maps = {
        k.removeprefix("mean_").replace("_", ", "): v
        for k, v in (context.saliency or {}).items()
        if k.startswith("mean_")
    }
    if not maps or "template" not in (context.saliency or {}):
        command = (
            f"equipoise evaluate --workdir=... --cohort={context.cohort} --split={context.split} --saliency"
        )
        return Section(
            title, ("No saliency maps were made for this checkpoint. To make them:",), command=command
        )
    background = np.asarray(context.saliency["template"], np.float64)
    regions = {k: decode_mask(m) for k, m in context.metadata.get("regions", {}).items()}
    fitting = {k: m for k, m in regions.items() if m.shape == background.shape}
    notes = [
        f"The cohort's {k} region has another grid than the maps and is not outlined."
        for k in regions.keys() - fitting.keys()
    ]
    notes.append(
        "Brighter means that the decision changes more when the image changes there. A map shows sensitivity, not proof of use: "
        "the comparison of the same subjects with and without a feature is the stronger evidence."
    )
    grids = []
    if fitting:
        inside = background > background.min() + 0.1 * np.ptp(background)
        ratios = slices.density(maps, fitting, inside)
        rows = [
            (_text(group), *(Cell(number(found[k], 2)) for k in fitting)) for group, found in ratios.items()
        ]
        grids = [
            Grid(
                ("group", *(f"{k} region" for k in fitting)),
                rows,
                "Mean saliency in a region ÷ mean saliency of the object (1: no preference)",
            )
        ]
    return Section(title, notes, (slices.saliency(maps, background, fitting),), grids)


def limits(context: Context) -> Section:
    """What can and cannot be concluded from this many patients."""
    rows = []
    for (attribute, name), gap in _main_gaps(context).items():
        metric = name.split(":")[1]
        sizes = " and ".join(str(context.frame.groups[attribute][level][metric].n) for level in gap.levels)
        kind = "positive" if metric == "sensitivity" else "negative"
        rows.append(
            (
                _text(f"{GAPS[metric]} by {attribute}: {' − '.join(gap.levels)}"),
                _text(f"{sizes} {kind} images"),
                Cell(number(gap.min_detectable)),
            )
        )
    grid = Grid(("gap", "made of", "smallest detectable"), rows)
    text = [
        "A gap smaller than the one below has less than four chances in five to be seen with this many patients (80 % power at the 5 % level). "
        "Not seeing a gap is not evidence that there is none.",
        "The intervals cover the choice of patients, not the choice of random seed: another training run gives another model. "
        "They speak for people drawn like this cohort, and for the attributes that it records.",
    ]  # fmt: skip
    if not rows:
        text = ["With no two groups to compare, this report says nothing about fairness.", text[1]]
    return Section("What this report can and cannot see", text, tables=(grid,) if rows else ())


def definitions(context: Context) -> Section:
    """The formula of every score shown."""
    rows = []
    for name in context.frame.overall:
        m = classification.get(name)
        direction = "higher" if m.higher_is_better else "lower"
        rows.append(
            (
                _text(m.title, name),
                _text(m.formula),
                _text(f"{direction} is better", f"{m.low:g} to {m.high:g}".replace("inf", "∞")),
                _text(m.undefined),
                _text(m.reference),
            )
        )
    grid = Grid(("score", "formula", "direction and range", "undefined when", "reference"), rows)
    text = (
        "TP, FP, FN and TN count images: true and false positives, false and true negatives. A score that is undefined is left blank with its n, never set to 0.",
        "Proportions: Wilson limits with an effective n for patients with several images. AUROC: Obuchowski 1997 on the logit scale. "
        "Differences: MOVER (Zou and Donner 2008). Worst group and largest − smallest: Bonferroni. F1, Brier score and log loss: percentile "
        "bootstrap over patients.",
    )  # fmt: skip
    return Section("Definitions", text, tables=(grid,))


def provenance(context: Context) -> Section:
    """Versions and fingerprints."""
    settings = context.frame.settings
    rows = [
        ("configuration", settings["config_fingerprint"]),
        ("checkpoint", settings["checkpoint_fingerprint"]),
    ]
    rows += list(settings["versions"].items())
    built = context.cohort_report.get("built")
    if isinstance(built, dict):
        rows += [(f"cohort built with {k}", v) for k, v in built.items() if isinstance(v, str | int | float)]
    if context.cohort_report.get("version"):
        rows.append(("cohort version", context.cohort_report["version"]))
    return Section(
        "Versions and fingerprints", (), tables=(Grid(("", ""), [(_text(a), _text(b)) for a, b in rows]),)
    )


def write(context: Context, output: pathlib.Path, study: Sequence[Section] = ()) -> list[pathlib.Path]:
    """Writes ``report.html``, ``metrics.json``, ``metrics.csv`` and ``figures/``.

    Args:
      context: what to report.
      output: folder, created where needed.
      study: sections that the study adds; they stand after the gaps.

    Returns:
      The files written.
    """
    sections = [
        about(context),
        cohort(context),
        scores(context),
        gaps(context),
        *study,
        training(context),
        saliency(context),
    ]
    sections += [limits(context), definitions(context), provenance(context)]
    headlines = [conclusion(context), *(s.headline for s in study if s.headline)]
    keys = [*key_numbers(context), *(k for s in study for k in s.key_numbers)]
    title = f"Fairness report: {context.schema.label} in {context.cohort}, {context.split} split"
    document = metric_frame.to_json(
        {str(context.config.get("model", {}).get("name") or "model"): context.frame}
    )
    folder = output / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        output / "report.html": render(title, headlines, keys, sections).encode(),
        output / "metrics.json": (json.dumps(document, indent=1, allow_nan=False) + "\n").encode(),
        output / "metrics.csv": metric_frame.to_csv(document).encode(),
    }
    files |= {folder / f"{f.name}.png": f.png for s in sections for f in s.figures}
    for path, content in files.items():
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(content)
        temporary.replace(path)
    return list(files)
