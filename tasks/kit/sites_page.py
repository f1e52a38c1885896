"""Errors by site on a page: a section that sets them against the sites' sizes and against chance."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.page import (
    Cell,
    Figure,
    KeyNumber,
    ReportTable,
    Section,
    interval,
    number,
    pointer,
    probability,
    text_cell,
)
from equipoise.engine.report.single.context import Context
from equipoise.tasks.kit import sites
from equipoise.tasks.kit.sites import LEADING, MIN_SCANS, SITE, Measure, SiteSpread


def spread_cells(measure: Measure) -> tuple[Cell, ...]:
    """A measure with its interval, what chance gives, and p."""
    band = (
        f"{number(measure.null_low, 2)} to {number(measure.null_high, 2)}"
        if np.isfinite(measure.null_low)
        else ""
    )
    return (
        Cell(number(measure.value), note=interval(measure.low, measure.high)),
        Cell(number(measure.null_mean), note=band),
        Cell(probability(measure.p)),
    )


def _training_scans(context: Context, attribute: str) -> dict[str, int]:
    """Site -> scans of the training split. A shared report leaves out sites with fewer than its smallest cell."""
    counts = context.cohort_report.get("counts", {}).get("train", {})
    sizes = counts.get("attributes", {}).get(attribute, {})
    return {site: n for site, n in sizes.items() if n >= (context.min_cell or 1)}


def _drawn(rates: Mapping[str, Estimate], size: Mapping[str, int], common: float) -> Figure:
    """Draws rates against sizes; sites of the same size stand beside each other."""
    shown = {site: e for site, e in rates.items() if site in size}
    by_size: dict[int, list[str]] = {}
    for site in shown:
        by_size.setdefault(size[site], []).append(site)
    with figures.style():
        canvas = Canvas(figsize=(1.4 * figures.WIDTH, 3.6), layout="constrained")
        axes = canvas.subplots()
        axes.axhline(common, color=figures.INK, lw=1, ls=(0, (4, 2)), zorder=1)
        for scans, sites in by_size.items():
            for place, site in enumerate(sites):
                estimate, x = rates[site], scans * np.exp(0.06 * (place - (len(sites) - 1) / 2))
                axes.plot(
                    [x, x],
                    estimate.limits(CONFIDENCE),
                    color=figures.COLOURS[0],
                    lw=0.8,
                    alpha=0.35,
                    zorder=2,
                )
                axes.scatter(
                    x,
                    estimate.value,
                    s=10 + 6 * estimate.n,
                    color=figures.COLOURS[0],
                    alpha=0.7,
                    lw=0,
                    zorder=3,
                )
        axes.set(
            xscale="log",
            ylim=(-0.04, 1.04),
            xlabel="training scans of the site",
            ylabel="misclassification rate",
        )
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.grid(axis="y", color=figures.LINE, lw=0.7)
        axes.set_axisbelow(True)
        said = "; ".join(f"{site} {number(e.value, 2)} of {e.n}" for site, e in list(shown.items())[:9])
        return figures.finish(
            canvas, "error_by_site_size", f"Misclassification rate of each site against its number of training scans: {said}.",
            f"Misclassification of each site's test scans against its size. Larger areas are more test scans; lines are 95 % intervals; "
            f"dashed: everyone, {number(common)}.",
            is_wide=True,
        )  # fmt: skip


def _spread_grid(spreads: Collection[SiteSpread]) -> ReportTable:
    """A table of how errors differ among sites, and by chance."""
    header = (
        "sites with at least", "sites", "test scans", "largest − smallest, 95 % interval", "by chance, 90 % of deals", "p",
        "SD over sites, 95 % interval", "by chance, 90 % of deals", "p",
    )  # fmt: skip
    rows = [
        (
            text_cell(f"{s.min_scans} test scan{'s' if s.min_scans > 1 else ''}"),
            Cell(str(s.num_sites)),
            Cell(str(s.num_scans)),
            *spread_cells(s.max_min),
            *spread_cells(s.sd),
        )
        for s in spreads
    ]
    return ReportTable(header, rows, "How misclassification differs among sites")


def _overall_grid(everyone: Mapping[str, Mapping[str, Estimate]]) -> ReportTable:
    """A table of accuracy and AUROC of everyone."""
    rows = []
    for metric, name in (("accuracy", "accuracy"), ("auroc", "AUROC")):
        by_unit = everyone[metric]
        limits = [Cell(interval(*e.limits(CONFIDENCE)) or "–") for e in by_unit.values()]
        rows.append(
            (text_cell(name), Cell(number(by_unit["patient"].value), pointer("overall", metric)), *limits)
        )
    return ReportTable(("", "value", "95 % interval, patients", "95 % interval, sites"), rows, "Everyone")


def _site_grid(rates: Mapping[str, Estimate], size: Mapping[str, int]) -> ReportTable:
    """A table of the errors of every site."""
    rows = [
        (
            text_cell(site),
            Cell(str(size.get(site, "–"))),
            Cell(str(e.n)),
            Cell(str(e.events)),
            Cell(number(e.value), note=interval(*e.limits(CONFIDENCE))),
        )
        for site, e in rates.items()
    ]
    header = ("site", "training scans", "test scans", "of them misclassified", "rate, 95 % interval")
    return ReportTable(header, rows, "Every site", True)


def _headline(lead: SiteSpread) -> str:
    """The sentence for the top of the page."""
    chance = lead.max_min
    p = probability(chance.p)
    p = p if p.startswith("<") else f"= {p}"
    return (
        f"In the {lead.num_sites} sites with at least {lead.min_scans} test scans the misclassification rate runs from "
        f"{number(lead.lowest)} to {number(lead.highest)}. The range is {number(chance.value)}. If all sites were served alike, it would be "
        f"{number(chance.null_mean)} on average, and {number(chance.null_low)} to {number(chance.null_high)} in nine deals of ten "
        f"(permutation test; null: errors fall regardless of site; p\u00a0{p})."
    )


def section(
    context: Context, attribute: str = SITE, text: Sequence[str] = (), tables: Sequence[ReportTable] = ()
) -> Section:
    """Errors of every site against its size, and what of their spread chance explains.

    Args:
      context: of the report of a binary task.
      attribute: whose levels are the sites.
      text: further paragraphs of the study.
      tables: further tables of the study.
    """
    table = Table(context.table, context.schema)
    fewest = context.min_cell or 1
    rates = {
        site: e
        for site, e in sites.errors(table, attribute).items()
        if e.n >= fewest and not context.is_hidden(attribute, site)
    }
    title = "Errors by site"
    if not rates:
        return Section(title, ("No site has enough test scans to be shown.",))
    size = _training_scans(context, attribute)
    spreads = [sites.spread(rates, n) for n in sorted({max(n, fewest) for n in MIN_SCANS})]
    everyone = sites.overall(table, attribute)
    lead = next((s for s in spreads if s.min_scans >= LEADING), spreads[-1])
    has_lead = np.isfinite(lead.max_min.value)
    paragraphs = [
        "A rate of few scans is coarse: for a single scan it is 0 or 1. The range and the SD are therefore also given for sites with more "
        "scans. Beside them stands what chance gives: the same errors, dealt at random to the same scans (a permutation test; null: errors "
        "fall regardless of site). p is the share of deals with at least as large a spread.",
    ]  # fmt: skip
    notes = [
        "Rate e: misclassified ÷ all test scans of a site, with Wilson's interval. Largest − smallest: max e − min e over the sites; its interval "
        "holds for all pairs together (MOVER, Bonferroni). SD: √(Σ(e − ē)²/K) over K sites that count the same, ē their mean. The interval for "
        "sites takes the patients of a site as one cluster: it is for new patients of new sites. The interval for patients is for new "
        "patients of these sites.",
    ]  # fmt: skip
    grids = [_overall_grid(everyone), _spread_grid(spreads), _site_grid(rates, size)]
    keys = [KeyNumber(
        f"range of error, {lead.num_sites} sites of {lead.min_scans} or more", number(lead.max_min.value),
        f"by chance {number(lead.max_min.null_low, 2)} to {number(lead.max_min.null_high, 2)}",
    )] if has_lead else []  # fmt: skip
    return Section(
        title,
        [*paragraphs, *text],
        (_drawn(rates, size, 1 - everyone["accuracy"]["patient"].value),) if size else (),
        [*grids, *tables],
        notes,
        headline=_headline(lead) if has_lead else None,
        key_numbers=keys,
    )
