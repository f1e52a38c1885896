"""What every report says around its findings: what was scored, the cohort, training, saliency, limits, definitions."""

import collections
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from engine.metrics import classification
from engine.metrics import frame as metric_frame
from engine.report import figures, findings, slices
from engine.report.page import (
    Cell,
    Context,
    Grid,
    Section,
    number,
    render,
    text_cell,
)
from engine.transforms.masks import decode_mask

_HOW = {"validation": "chosen on the validation split", "fixed": "fixed in advance"}


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
    grid = Grid(("", ""), [(text_cell(a), text_cell(b, c)) for a, b, c in rows])
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
        [(text_cell(s), Cell(str(c["subjects"])), Cell(str(c["scans"]))) for s, c in counts.items()],
    )
    variables: dict[str, dict[str, dict[str, int]]] = collections.defaultdict(dict)
    known = {context.schema.label: context.schema.classes} | {
        k: v for k, v in context.schema.attributes.items() if v
    }
    for split, found in counts.items():
        for name, levels in {**found.get("labels", {}), **found.get("attributes", {})}.items():
            if isinstance(levels, dict) and levels and all(isinstance(n, int) for n in levels.values()):
                order = [*known.get(name, ()), *levels]  # so that a level has one colour throughout
                variables[name][split] = {
                    level: levels[level] for level in dict.fromkeys(order) if level in levels
                }
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
            rows.append((text_cell(f"{attribute}: {level}"), *shares))
        grids.append(
            Grid((f"{context.split} images", *(f"{context.schema.label} {c}" for c in classes)), rows)
        )
    return grids


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
    arrays = context.saliency or {}
    maps = {}
    for key, values in arrays.items():
        if key.startswith("mean_"):
            name = key.removeprefix("mean_")
            size = f" (n={int(arrays[f'count_{name}'])})" if f"count_{name}" in arrays else ""
            target, _, level = name.partition("_")
            of = next(
                (a for a, levels in context.schema.attributes.items() if level in (levels or ())), "group"
            )
            maps[f"{context.schema.label} {target}, {of} {level}{size}"] = values
    if not maps or "template" not in arrays:
        command = (
            f"equipoise evaluate --workdir=... --cohort={context.cohort} --split={context.split} --saliency"
        )
        return Section(
            title, ("No saliency maps were made for this checkpoint. To make them:",), command=command
        )
    background = np.asarray(arrays["template"], np.float64)
    names = context.metadata.get("region_names", {})
    regions = {
        f"{k} region" + (f" ({names[k]})" if k in names else ""): decode_mask(m)
        for k, m in context.metadata.get("regions", {}).items()
    }
    fitting = {k: m for k, m in regions.items() if m.shape == background.shape}
    notes = [
        f"The {k} has another grid than the maps and is not outlined."
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
            (text_cell(group), *(Cell(number(found[k], 2)) for k in fitting))
            for group, found in ratios.items()
        ]
        grids = [
            Grid(
                ("group", *fitting),
                rows,
                "Mean saliency in a region ÷ mean saliency of the object (1: no preference)",
            )
        ]
    return Section(title, notes, (slices.saliency(maps, background, fitting),), grids)


def limits(context: Context) -> Section:
    """What can and cannot be concluded from this many patients."""
    rows = []
    for (attribute, name), gap in findings.main_gaps(context).items():
        metric = name.split(":")[1]
        sizes = " and ".join(str(context.frame.groups[attribute][level][metric].n) for level in gap.levels)
        kind = "positive" if metric == "sensitivity" else "negative"
        rows.append(
            (
                text_cell(f"{findings.GAPS[metric]} by {attribute}: {' − '.join(gap.levels)}"),
                text_cell(f"{sizes} {kind} images"),
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
                text_cell(m.title, name),
                text_cell(m.formula),
                text_cell(f"{direction} is better", f"{m.low:g} to {m.high:g}".replace("inf", "∞")),
                text_cell(m.undefined),
                text_cell(m.reference),
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
        "Versions and fingerprints",
        (),
        tables=(Grid(("", ""), [(text_cell(a), text_cell(b)) for a, b in rows]),),
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
        findings.scores(context),
        findings.gaps(context),
        *study,
        training(context),
        saliency(context),
    ]
    sections += [limits(context), definitions(context), provenance(context)]
    headlines = [findings.conclusion(context), *(s.headline for s in study if s.headline)]
    keys = [*findings.key_numbers(context), *(k for s in study for k in s.key_numbers)]
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
