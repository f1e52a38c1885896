"""What every report says around its findings, in which order, and the files it leaves."""

import math
import pathlib
from collections.abc import Sequence

from equipoise.engine.metrics.decisions.policy import to_json as verdicts_to_json
from equipoise.engine.metrics.frames import frame as metric_frame
from equipoise.engine.report.page import files
from equipoise.engine.report.page.page import (
    Cell,
    Context,
    Grid,
    Section,
    number,
    render,
    short_title,
    text_cell,
)
from equipoise.engine.report.single import (
    adjusted,
    appendix,
    card,
    comparison,
    findings,
    groups,
    layers,
    overlays,
    people,
    policy,
    regions,
    run,
    sharing,
)
from equipoise.engine.report.single import (
    methods_text as methods,
)


def plain(context: Context) -> Section | None:
    """The findings in plain language."""
    said = findings.statements(context)
    text = "Each sentence says no more than its 95 % interval; differences are called established after Holm's correction over all of them."
    return Section("Findings in words", (text,), points=said) if said else None


def limits(context: Context) -> Section:
    """What can and cannot be concluded from this many patients."""
    rows = []
    for (attribute, name), gap in findings.main_gaps(context).items():
        if not math.isfinite(gap.min_detectable):
            continue
        metric = findings.split_name(name, gap)[1]
        sizes = [context.frame.groups[attribute][level][metric].n for level in gap.levels]
        kind = {"sensitivity": "positive ", "fpr": "negative "}.get(metric, "")
        rows.append(
            (
                text_cell(
                    f"{findings.gap_symbol(metric) or short_title(metric)} by {attribute}: {' − '.join(gap.levels)}"
                ),
                text_cell("–" if None in sizes else f"{sizes[0]} and {sizes[1]} {kind}{context.unit}"),
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


def sections(context: Context, study: Sequence[Section] = ()) -> list[Section]:
    """All sections of the page in order; those that do not apply are left out."""
    found = [
        policy.section(context),
        people.composition(context),
        *([run.cohort(context)] if context.is_run else []),
        findings.scores(context),
        *groups.curve_sections(context),
        findings.gaps(context),
        adjusted.section(context),
        groups.crossed(context),
        groups.models(context),
        comparison.section(context),
        overlays.section(context),
        *study,
        *(
            [layers.section(context), run.training(context), run.saliency(context), regions.section(context)]
            if context.is_run
            else []
        ),
        plain(context),
        people.natural_frequencies(context),
        limits(context),
        methods.methods(context),
        methods.settings(context),
        appendix.scores(context),
        appendix.definitions(context),
    ]
    return [s for s in found if s is not None]


def write(context: Context, output: pathlib.Path, study: Sequence[Section] = ()) -> list[pathlib.Path]:
    """Writes ``report.html``, ``metrics.json``, ``metrics.csv``, ``model_card.md`` and ``figures/``.

    With saliency maps of a cohort that has a label map also ``region_scores.csv``.

    Args:
      context: what to report.
      output: folder, created where needed.
      study: sections that the study adds; they stand after what every report shows.

    Returns:
      The files written.
    """
    shown = sections(context, study)
    headlines = [findings.conclusion(context), *(s.headline for s in shown if s.headline)]
    keys = [*findings.key_numbers(context), *(k for s in study for k in s.key_numbers)]
    split = f", {context.split} split" if context.split != "all" else ""
    title = f"Fairness report: {context.schema.label} in {context.cohort}{split}"
    document = metric_frame.to_json(context.models or {context.model_names[0]: context.frame})
    if context.verdicts is not None:
        document["policy"] = verdicts_to_json(context.verdicts)
    if context.comparison is not None:
        document["comparison"] = context.comparison.to_json()
    if context.adjusted is not None:
        document["adjusted"] = adjusted.to_json(context)
    scored = regions.to_json(context)
    if scored is not None:
        document["region_scores"] = scored
    if context.min_cell is not None:
        document = sharing.rounded(document)
    tables = {regions.CSV: regions.to_csv(document["region_scores"]) if scored is not None else None}
    return files.write(
        output, render(title, headlines, keys, shown), document, card.text(context, title, headlines), shown, tables
    )  # fmt: skip
