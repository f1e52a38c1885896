"""The contents of a report: which sections the page has, in which order, and the files that are written."""

import math
import pathlib
from collections.abc import Sequence

from equipoise.engine.metrics.decisions.policy import to_json as verdicts_to_json
from equipoise.engine.metrics.frames import frame as metric_frame
from equipoise.engine.report.page import files
from equipoise.engine.report.page.page import Cell, ReportTable, Section, render, text_cell
from equipoise.engine.report.page.words import number, short_title
from equipoise.engine.report.single import (
    adjusted,
    appendix,
    card,
    comparison,
    findings,
    gaps,
    groups,
    layers,
    overlays,
    people,
    policy,
    regions,
    run,
    saliency,
    scores,
    sharing,
)
from equipoise.engine.report.single import (
    methods_text as methods,
)
from equipoise.engine.report.single.context import Context


def plain(context: Context) -> Section | None:
    """The section with the findings in plain language."""
    sentences = findings.statements(context)
    text = "No sentence says more than its 95 % interval. A difference is called established after Holm's correction over all differences."
    return Section("Findings in words", (text,), points=sentences) if sentences else None


def limits(context: Context) -> Section:
    """The section on what can and cannot be concluded from this many patients."""
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
    table = ReportTable(("gap", "made of", "smallest detectable"), rows)
    text = [
        "With this many patients, a gap smaller than the one below has a chance of less than four in five to be seen (80 % power at the 5 % level). "
        "Not seeing a gap is not evidence that there is none.",
        "The intervals cover the choice of patients, but not the choice of the random seed: another training run gives another model. "
        "They hold for people who are drawn like this cohort, and for the attributes that it records.",
    ]  # fmt: skip
    if not rows:
        text = ["There are no two groups to compare, so this report says nothing about fairness.", text[1]]
    return Section("What this report can and cannot see", text, tables=(table,) if rows else ())


def sections(context: Context, study: Sequence[Section] = ()) -> list[Section]:
    """All sections of the page in order, without those that do not apply.

    Args:
      context: the report.
      study: sections that the study adds.
    """
    every = [
        policy.section(context),
        people.composition(context),
        *([run.cohort(context)] if context.is_run else []),
        scores.section(context),
        *groups.curve_sections(context),
        gaps.section(context),
        adjusted.section(context),
        groups.crossed(context),
        groups.models(context),
        comparison.section(context),
        overlays.section(context),
        *study,
        *(
            [
                layers.section(context),
                run.training(context),
                saliency.section(context),
                regions.section(context),
            ]
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
    return [s for s in every if s is not None]


def write_report(context: Context, output: pathlib.Path, study: Sequence[Section] = ()) -> list[pathlib.Path]:
    """Writes ``report.html``, ``metrics.json``, ``metrics.csv``, ``model_card.md`` and ``figures/``.

    With saliency maps of a cohort that has a label map, ``region_scores.csv`` is written as well.

    Args:
      context: what the page shows, from ``audit_table`` or ``audit_run``.
      output: folder, created where needed.
      study: sections that the study adds, after the findings that every report shows.

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
    region_scores = regions.to_json(context)
    if region_scores is not None:
        document["region_scores"] = region_scores
    if context.min_cell is not None:
        document = sharing.rounded(document)
    tables = {regions.CSV: regions.to_csv(document["region_scores"]) if region_scores is not None else None}
    return files.write(
        output, render(title, headlines, keys, shown), document, card.text(context, title, headlines), shown, tables
    )  # fmt: skip
