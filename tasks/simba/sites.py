"""How errors differ between the sites of a cohort, and a report's section that sets them against the sites' sizes.

Of a site with a single test scan the misclassification rate is 0 or 1, so that over all sites the range is 1 whatever the
model does. Every spread is therefore also given for sites with enough scans, and stands beside what chance alone makes of it:
the very same errors, dealt at random to the very same scans.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure as Canvas

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import chance, comparisons, intervals
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.metrics.table import groupings
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
from equipoise.engine.vocabulary import UNKNOWN
from equipoise.tasks.simba import renderings
from equipoise.tasks.simba.renderings import PairedEffect

SITE = "site"
MIN_SCANS = (1, 5, 10, 20)  # of a site, for each line of the table of spreads
LEADING = 10  # the line that the top of the page takes over
DRAWS = 10_000


@dataclasses.dataclass(frozen=True)
class Measure:
    """One measure of how rates differ, with what chance gives.

    Attributes:
      value: NaN of fewer than two sites.
      low: limit of the 95 % interval.
      high: limit.
      null_mean: on average while every scan is equally likely to be in error.
      null_low: one deal in twenty gives less.
      null_high: one in twenty gives more.
      p: share of deals that give at least ``value``. Null: errors fall on scans regardless of their site. Test: permutation.
    """

    value: float
    low: float
    high: float
    null_mean: float
    null_low: float
    null_high: float
    p: float


@dataclasses.dataclass(frozen=True)
class Spread:
    """How the misclassification rates e of K sites differ; of several runs, the rates are their means.

    Attributes:
      min_scans: fewest test scans of a site that counts.
      num_sites: K.
      num_scans: of these sites.
      lowest: min e.
      highest: max e.
      max_min: max e − min e; limits by MOVER of all pairs (:func:`equipoise.engine.metrics.estimates.comparisons.max_min`).
      sd: √(Σ (e − ē)² / K), ē = Σ e / K: every site counts alike (:func:`equipoise.engine.metrics.estimates.comparisons.sd`).
    """

    min_scans: int
    num_sites: int
    num_scans: int
    lowest: float
    highest: float
    max_min: Measure
    sd: Measure


def errors(table: Table) -> dict[str, Estimate]:
    """The misclassification rate of every site with a test scan, in the schema's order, with Wilson limits.

    Args:
      table: predictions of a binary task with a column ``site``.
    """
    columns = table.columns()
    wrong = columns["called"] != columns["truth"]
    patient = intervals.subject_codes(table.frame["subject_id"])[0]
    found = {}
    for level in groupings.levels_of(table.frame, table.schema, SITE):
        rows = (table.frame[SITE] == level).to_numpy()
        if level != UNKNOWN and rows.any():
            found[level] = intervals.proportion(wrong[rows], patient[rows])
    return found


def spread(found: Mapping[str, Estimate], min_scans: int = 1, *, draws: int = DRAWS, seed: int = 0) -> Spread:
    """How rates differ among sites, with what chance alone gives.

    Chance deals the errors of the counted sites to their scans: the number in error at each site is multivariate
    hypergeometric.

    Args:
      found: from :func:`errors`.
      min_scans: fewest scans of a site that counts.
      draws: of the deal.
      seed: of the deal.

    Raises:
      UserError: for patients with several scans, whose errors cannot be dealt one by one.
    """
    several = sum(e.n - e.n_subjects for e in found.values())
    if several:
        raise UserError(
            f"column 'subject_id' repeats in {several} rows within sites: the spread over sites needs one image per subject; keep one of each"
        )
    counted = [e for e in found.values() if e.n >= min_scans]
    scans = np.array([e.n for e in counted], np.int64)
    if len(counted) < 2:
        nothing = Measure(*[float("nan")] * 7)
        rate = counted[0].value if counted else float("nan")
        return Spread(min_scans, len(counted), int(scans.sum()), rate, rate, nothing, nothing)
    wrong = np.array([e.events for e in counted])
    rates = wrong / scans
    dealt = np.random.default_rng(seed).multivariate_hypergeometric(scans, wrong.sum(), draws) / scans
    measures = (
        measured(float(np.ptp(rates)), comparisons.max_min(counted)[1:], np.ptp(dealt, axis=1)),
        measured(float(rates.std()), comparisons.sd(counted)[1:], dealt.std(axis=1)),
    )
    return Spread(
        min_scans, len(counted), int(scans.sum()), float(rates.min()), float(rates.max()), *measures
    )


def measured(value: float, limits: tuple[float, float], drawn: Float[np.ndarray, " draws"]) -> Measure:
    """A measure beside what deals of the errors gave."""
    as_far = int((drawn >= value - 1e-12).sum())  # equal up to rounding
    return Measure(value, *limits, *chance.band(drawn), (1 + as_far) / (1 + len(drawn)))


def overall(table: Table) -> dict[str, dict[str, Estimate]]:
    """Accuracy and AUROC of everyone, with limits for new patients and for new sites.

    Limits for new sites take the site as the cluster: patients of a site may resemble each other, and be served alike.

    Args:
      table: predictions of a binary task with a column ``site``; images of unknown site are one cluster.

    Returns:
      "accuracy" and "auroc" -> "patient" and "site", the cluster -> estimate; the value is the same.
    """
    columns = table.columns()
    right = columns["called"] == columns["truth"]
    clusters = {"patient": table.frame["subject_id"], "site": table.frame[SITE]}
    codes = {unit: intervals.subject_codes(names)[0] for unit, names in clusters.items()}
    return {
        "accuracy": {unit: intervals.proportion(right, code) for unit, code in codes.items()},
        "auroc": {
            unit: intervals.area(columns["truth"], columns["score"], code) for unit, code in codes.items()
        },
    }


def _training_scans(context: Context) -> dict[str, int]:
    """Site -> scans of the training split; of a shared report not those of fewer than its smallest cell."""
    counts = context.cohort_report.get("counts", {}).get("train", {})
    found = counts.get("attributes", {}).get(SITE, {})
    return {site: n for site, n in found.items() if n >= (context.min_cell or 1)}


def _drawn(found: Mapping[str, Estimate], size: Mapping[str, int], common: float) -> Figure:
    """Rates against sizes; sites of one size stand beside each other."""
    shown = {site: e for site, e in found.items() if site in size}
    by_size: dict[int, list[str]] = {}
    for site in shown:
        by_size.setdefault(size[site], []).append(site)
    with figures.style():
        canvas = Canvas(figsize=(1.4 * figures.WIDTH, 3.6), layout="constrained")
        axes = canvas.subplots()
        axes.axhline(common, color=figures.INK, lw=1, ls=(0, (4, 2)), zorder=1)
        for scans, sites in by_size.items():
            for place, site in enumerate(sites):
                estimate, x = found[site], scans * np.exp(0.06 * (place - (len(sites) - 1) / 2))
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
            f"Misclassification of each site's test scans against its size. Areas grow with the number of test scans; lines are 95 % intervals; "
            f"dashed: everyone, {number(common)}.",
            is_wide=True,
        )  # fmt: skip


def _spread_grid(spreads: Collection[Spread]) -> ReportTable:
    def cells(m: Measure) -> tuple[Cell, ...]:
        band = f"{number(m.null_low, 2)} to {number(m.null_high, 2)}" if np.isfinite(m.null_low) else ""
        return (
            Cell(number(m.value), note=interval(m.low, m.high)),
            Cell(number(m.null_mean), note=band),
            Cell(probability(m.p)),
        )

    header = (
        "sites with at least", "sites", "test scans", "largest − smallest, 95 % interval", "by chance, 90 % of deals", "p",
        "SD over sites, 95 % interval", "by chance, 90 % of deals", "p",
    )  # fmt: skip
    rows = [
        (
            text_cell(f"{s.min_scans} test scan{'s' if s.min_scans > 1 else ''}"),
            Cell(str(s.num_sites)),
            Cell(str(s.num_scans)),
            *cells(s.max_min),
            *cells(s.sd),
        )
        for s in spreads
    ]
    return ReportTable(header, rows, "How misclassification differs among sites")


def _overall_grid(everyone: Mapping[str, Mapping[str, Estimate]]) -> ReportTable:
    rows = []
    for metric, name in (("accuracy", "accuracy"), ("auroc", "AUROC")):
        found = everyone[metric]
        limits = [Cell(interval(*e.limits(CONFIDENCE)) or "–") for e in found.values()]
        rows.append(
            (text_cell(name), Cell(number(found["patient"].value), pointer("overall", metric)), *limits)
        )
    return ReportTable(("", "value", "95 % interval, patients", "95 % interval, sites"), rows, "Everyone")


def _site_grid(found: Mapping[str, Estimate], size: Mapping[str, int]) -> ReportTable:
    rows = [
        (
            text_cell(site),
            Cell(str(size.get(site, "–"))),
            Cell(str(e.n)),
            Cell(str(e.events)),
            Cell(number(e.value), note=interval(*e.limits(CONFIDENCE))),
        )
        for site, e in found.items()
    ]
    header = ("site", "training scans", "test scans", "of them misclassified", "rate, 95 % interval")
    return ReportTable(header, rows, "Every site", True)


def _as_one_scanner(context: Context) -> PairedEffect | None:
    """What happens to decisions when all images look as from one scanner; None where these were not scored."""
    name = re.sub(r"(?<=\d)mm(?!_counterfactual)", "mm_counterfactual", context.cohort, count=1)
    other = context.tables.get((name, context.split))
    if other is None or name == context.cohort:
        return None
    pair = renderings.side_by_side(context.table, other, ())
    first, second = ((pair[f"score_{end}"] >= pair[f"threshold_{end}"]).to_numpy() for end in "ab")
    diseased = (pair["target_a"] == context.schema.classes.index(context.schema.positive)).to_numpy()
    return PairedEffect(
        *(intervals.paired_change(first[rows], second[rows]) for rows in (diseased, ~diseased))
    )


def _scanner_grid(effect: PairedEffect) -> ReportTable:
    header = (
        "rate", "subjects", "own scanner", "one scanner", "change, 95 % interval", "negative → positive", "positive → negative",
    )  # fmt: skip
    rows = [renderings.cells(rate, change) for rate, change in effect.changes.items()]
    return ReportTable(
        header, rows, "The same subjects as their own scanner shows them, and all as one scanner does"
    )


def _headline(lead: Spread) -> str:
    chance = lead.max_min
    p = probability(chance.p)
    p = p if p.startswith("<") else f"= {p}"
    return (
        f"In the {lead.num_sites} sites with at least {lead.min_scans} test scans the misclassification rate runs from "
        f"{number(lead.lowest)} to {number(lead.highest)}. Were all sites served alike, the range of {number(chance.value)} would be "
        f"{number(chance.null_mean)} on average, and {number(chance.null_low)} to {number(chance.null_high)} in nine deals of ten "
        f"(permutation test of errors that fall regardless of site: p\u00a0{p})."
    )


def section(context: Context) -> Section:
    """Errors of every site against its size, and what of their spread chance explains."""
    table = Table(context.table, context.schema)
    fewest = context.min_cell or 1
    found = {
        site: e for site, e in errors(table).items() if e.n >= fewest and not context.is_hidden(SITE, site)
    }
    title = "Errors by site"
    if not found:
        return Section(title, ("No site has enough test scans to be shown.",))
    size = _training_scans(context)
    spreads = [spread(found, n) for n in sorted({max(n, fewest) for n in MIN_SCANS})]
    everyone = overall(table)
    lead = next((s for s in spreads if s.min_scans >= LEADING), spreads[-1])
    has_lead = np.isfinite(lead.max_min.value)
    text = [
        "A rate of few scans is coarse: of a single scan it is 0 or 1. The range and the SD are therefore also given for sites with more "
        "scans, and beside what chance makes of them: the same errors dealt at random to the same scans, a permutation test of errors that "
        "fall regardless of site. p is the share of deals that spread at least as far.",
    ]  # fmt: skip
    notes = [
        "Rate e: misclassified ÷ all test scans of a site, with Wilson's interval. Largest − smallest: max e − min e over the sites; its interval "
        "holds for all pairs together (MOVER, Bonferroni). SD: √(Σ(e − ē)²/K) over K sites that count alike, ē their mean. The interval for "
        "sites takes a site's patients as one cluster: it is for new patients of new sites, that for patients for new patients of these.",
    ]  # fmt: skip
    effect = _as_one_scanner(context)
    if effect:
        text.append(
            "Every test subject was also rendered as one scanner shows all: what changes then is the scanners' doing alone."
        )
    grids = [_overall_grid(everyone), _spread_grid(spreads), _site_grid(found, size)]
    keys = [KeyNumber(
        f"range of error, {lead.num_sites} sites of {lead.min_scans} or more", number(lead.max_min.value),
        f"by chance {number(lead.max_min.null_low, 2)} to {number(lead.max_min.null_high, 2)}",
    )] if has_lead else []  # fmt: skip
    return Section(
        title,
        text,
        (_drawn(found, size, 1 - everyone["accuracy"]["patient"].value),) if size else (),
        [*grids, *([_scanner_grid(effect)] if effect else [])],
        notes,
        headline=_headline(lead) if has_lead else None,
        key_numbers=keys,
    )
