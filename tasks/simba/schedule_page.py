"""Learning across sites on the study's page: whom each schedule serves, what it sends, what its features tell of the scanner."""

import numpy as np
from matplotlib.figure import Figure as Canvas

from equipoise.engine.metrics.estimates.seeds import OverSeeds
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.figures import dots
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.page import (
    Cell,
    Figure,
    ReportTable,
    Section,
    number,
    text_cell,
)
from equipoise.tasks.kit import pages, sites_page
from equipoise.tasks.simba import schedule_outcomes as schedules
from equipoise.tasks.simba.schedule_outcomes import BANDS, CENTRAL, MIN_SCANS, Schedules

_FEDERATED = "FedAvg, by size"
_AVERAGED = ("FedAvg, equal weights", _FEDERATED, "FedProx, squared", "FedProx, norm")
_NEAR = 0.03  # AUROC: as far as the published travelling model and central training are apart
_MEGABYTE = 1e6


def _served(study: Schedules) -> ReportTable:
    """Everyone, and central training beside it."""
    central = study.runs.get(CENTRAL)
    rows = []
    for name, runs in study.runs.items():
        apart = [
            schedules.against(runs, central, what) if central and name != CENTRAL else None
            for what in ("accuracy", "auroc")
        ]
        rows.append(
            (
                text_cell(name), Cell(str(len(runs))), dots.cell(schedules.over(runs, "accuracy"), False),
                dots.cell(schedules.over(runs, "auroc"), False), *map(dots.cell, apart),
            )
        )  # fmt: skip
    header = ("schedule", "seeds", "accuracy", "AUROC", "accuracy − central", "AUROC − central")
    return ReportTable(header, rows, "Everyone: mean over seeds, 95 % interval over seeds and patients")


def _bands(study: Schedules) -> ReportTable:
    """Errors by the size of the site."""
    found = [b for b in BANDS if all(b in run.bands for runs in study.runs.values() for run in runs)]
    rows = [
        (text_cell(name), *(dots.cell(schedules.error_over(runs, "bands", band), False) for band in found))
        for name, runs in study.runs.items()
    ]
    first = next(iter(study.runs.values()))[0]
    header = ("schedule", *(f"{band} scans (n = {first.bands[band].n})" for band in found))
    return ReportTable(header, rows, "Misclassification by how many training scans the patient's site has")


def _spreads(study: Schedules) -> ReportTable:
    """How errors differ among sites, beside chance."""
    rows = []
    for name, runs in study.runs.items():
        spread = schedules.spread(runs)
        cells = (*sites_page.spread_cells(spread.max_min), *sites_page.spread_cells(spread.sd))
        rows.append((text_cell(name), Cell(str(spread.num_sites)), *cells))
    header = (
        "schedule", "sites", "largest − smallest", "by chance, 90 % of deals", "p", "SD over sites", "by chance, 90 % of deals", "p",
    )  # fmt: skip
    return ReportTable(header, rows, f"Disparity: errors among the sites with {MIN_SCANS} test scans or more")


def _every_site(study: Schedules) -> ReportTable:
    """Errors of every site under every schedule."""
    some = next(iter(study.runs.values()))[0]
    ordered = sorted(some.sites, key=lambda site: -study.sizes.get(site, 0))
    rows = []
    for site in ordered:
        errors = (dots.cell(schedules.error_over(runs, "sites", site), False) for runs in study.runs.values())
        rows.append(
            (text_cell(site), Cell(str(study.sizes.get(site, 0))), Cell(str(some.sites[site].n)), *errors)
        )
    header = ("site", "training scans", "test scans", *study.runs)
    return ReportTable(header, rows, "Misclassification at every site", True)


def _sent(study: Schedules) -> ReportTable:
    """What the network of sites carries."""
    rows = []
    for name, runs in study.runs.items():
        cost = runs[0].cost  # depends on the settings alone, not on the seed
        if cost:
            counts = [Cell(f"{cost[k]:,}") for k in ("cycles", "transfers")]
            sizes = [Cell(number(cost[k] / _MEGABYTE, 1)) for k in ("network_bytes", "optimizer_bytes")]
            rows.append((text_cell(name), *counts, *sizes))
    header = ("schedule", "cycles", "models sent", "networks, MB", "optimizers, MB")
    return ReportTable(header, rows, "Communication of one run")


def _curves(study: Schedules) -> Figure:
    """Validation AUROC by cycle."""
    with figures.style():
        canvas = Canvas(figsize=(figures.WIDTH, 3.9), layout="constrained")
        axes = canvas.subplots()
        said = []
        for place, (name, runs) in enumerate(study.runs.items()):
            cycles = sorted(set.intersection(*(set(run.curve) for run in runs)))
            mean = [float(np.mean([run.curve[c] for run in runs])) for c in cycles]
            colour = figures.INK if name == CENTRAL else figures.COLOURS[(place - 1) % len(figures.COLOURS)]
            marker = "" if name == CENTRAL else figures.MARKERS[(place - 1) % len(figures.MARKERS)]
            axes.plot(cycles, mean, color=colour, marker=marker, ms=4, lw=1.4, ls="--" if name == CENTRAL else "-", label=name)  # fmt: skip
            said.append(f"{name} {number(mean[-1], 2)} after {cycles[-1]:g}")
        axes.axhline(0.5, color=figures.LINE, lw=1)
        axes.set(xlabel="cycles over all sites (central: passes over all images)", ylabel="validation AUROC")
        axes.grid(axis="y", color=figures.LINE, lw=0.5)
        axes.set_axisbelow(True)
        canvas.legend(loc="outside upper center", ncols=3)
        return figures.finish(
            canvas, "sites_learning", f"Validation AUROC by cycle: {'; '.join(said)}.",
            "How fast each schedule learns, mean over seeds. A cycle sends every site's model twice where models are averaged and once where one travels.",
        )  # fmt: skip


def _dots(study: Schedules) -> Figure:
    panels = [
        (title, [dots.row(name, schedules.over(runs, what)) for name, runs in study.runs.items()])
        for what, title in (("auroc", "AUROC"), ("accuracy", "accuracy"))
    ]
    smallest = [b for b in BANDS if all(b in run.bands for runs in study.runs.values() for run in runs)]
    ends = [smallest[0], smallest[-1]] if len(smallest) > 1 else smallest
    panels += [
        (
            f"error at sites of {band}",
            [dots.row(name, schedules.error_over(runs, "bands", band)) for name, runs in study.runs.items()],
        )
        for band in ends
    ]
    return dots.draw(
        panels, "sites_schedules", "AUROC, accuracy and errors at the smallest and the largest sites by schedule, with 95 % intervals.",
        "Large: mean over seeds with its 95 % interval over seeds and patients; small: each seed.", "",
    )  # fmt: skip


def _told(study: Schedules) -> ReportTable | None:
    """Probes of every block."""
    rows, labels = [], ()
    for name, runs in study.runs.items():
        for block in runs[0].told if all(run.told for run in runs) else ():
            labels = labels or tuple(runs[0].told[block])
            cells = [
                pages.mean_and_sd([run.told[block][label]["accuracy"] for run in runs]) for label in labels
            ]
            rows.append((text_cell(name), text_cell(block), *cells))
    if not rows:
        return None
    some = next(run for runs in study.runs.values() for run in runs if run.told)
    chance = next(iter(some.told.values()))
    header = (
        "schedule",
        "block",
        *(f"{label} (commonest: {number(chance[label]['chance'])})" for label in labels),
    )
    return ReportTable(header, rows, "Accuracy of the probes, mean and ± SD between seeds", True)


def _verdict(found: OverSeeds, low: float, high: float) -> str:
    """Whether the 95 % interval lies within (low, high), outside, or across an end."""
    a, b = found.estimate.limits(CONFIDENCE)
    if not np.isfinite([a, b]).all():
        return "one seed says nothing"
    if low < a and b < high:
        return "holds"
    return "does not hold" if b <= low or a >= high else "not settled"


def _claims(study: Schedules) -> tuple[ReportTable, str] | None:
    """The published orderings beside ours, and the sentence for the top of the page."""
    runs, rows, said = study.runs, [], []

    def claim(text: str, published: str, found: OverSeeds | None, low: float, high: float) -> None:
        if found is not None:
            verdict = _verdict(found, low, high)
            rows.append((text_cell(text), text_cell(published), dots.cell(found), text_cell(verdict)))
            said.append(f"{text}: {verdict} ({number(found.estimate.value, 3, True)})")

    travelling = runs.get("travelling", ())
    averaged = [name for name in _AVERAGED if name in runs]
    claim(
        f"travelling within {_NEAR} of central in AUROC", "0.83 against 0.80",
        schedules.against(travelling, runs.get(CENTRAL, ()), "auroc"), -_NEAR, _NEAR,
    )  # fmt: skip
    if averaged:
        best = max(averaged, key=lambda name: schedules.over(runs[name], "auroc").estimate.value)
        found = schedules.against(runs.get("FedTM", ()), runs[best], "auroc")
        claim(
            f"FedTM above averages alone in AUROC (the best: {best})", "0.82 against 0.77", found, 0, np.inf
        )
    told = [run for run in travelling if run.told]
    if told:
        block = list(told[0].told)[-1]
        found = schedules.told_against(runs.get("HarmonyTM", ()), travelling, block, "scanner")
        claim(f"HarmonyTM lowers how well {block} tells the scanner", "0.30 against 0.53", found, -np.inf, 0)
        found = schedules.against(runs.get("HarmonyTM", ()), travelling, "accuracy")
        claim("HarmonyTM above travelling in accuracy", "0.76 against 0.72", found, 0, np.inf)
    if not rows:
        return None
    header = ("published ordering", "published", "difference here, 95 % interval", "")
    text = f"Across sites: {'; '.join(said)}."
    return ReportTable(header, rows, "Do the published orderings hold?"), text


def section(study: Schedules) -> Section | None:
    """Everything about learning across sites; None without a run that could be read."""
    if not study.runs:
        return None
    claims, told = _claims(study), _told(study)
    sizes = sorted(study.sizes.values())
    text = [
        f"{sum(sizes):,} training scans lie at {len(sizes)} sites, {sizes[0]} to {sizes[-1]} each ({sizes.count(1)} with a single one). No site shows another its "
        "images: averages (FedAvg, FedProx) send every site's model there and back in each round; a travelling model goes from site to site, "
        "with its optimizer; HarmonyTM also unlearns the scanner; FedTM averages over the large sites first and then travels. Every model is judged "
        "after its last cycle: separate hospitals have no common validation split to choose a step by.",
    ]  # fmt: skip
    notes = [
        "Differences are paired by seed and by patient. Disparity: a site's rate is its mean over the seeds; the interval of largest − smallest holds for all "
        "pairs together (Bonferroni) and carries the seeds. Chance deals whole patients, with what every seed did to them, to the sites; p is the "
        "share of deals that spread at least as far (null: errors fall regardless of site). Differences of probes carry the seeds alone.",
    ]  # fmt: skip
    tables: list[ReportTable] = [
        *([claims[0]] if claims else []),
        _served(study),
        _bands(study),
        _spreads(study),
        _sent(study),
    ]
    tables += [*([told] if told else []), _every_site(study)]
    return Section(
        "Learning across sites", text, (_curves(study), _dots(study)), tables, notes, headline=claims[1] if claims else None,
    )  # fmt: skip
