"""Learning across sites, a section of the study's page: whom each schedule serves, what it sends, what its features tell of the scanner."""

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
_NEAR = 0.03  # difference in AUROC between the published travelling model and central training
_MEGABYTE = 1e6


def _served(study: Schedules) -> ReportTable:
    """A table of accuracy and AUROC of everyone, and of differences from central training."""
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
    """A table of errors by the size of the site."""
    bands = [b for b in BANDS if all(b in run.bands for runs in study.runs.values() for run in runs)]
    rows = [
        (text_cell(name), *(dots.cell(schedules.error_over(runs, "bands", band), False) for band in bands))
        for name, runs in study.runs.items()
    ]
    first = next(iter(study.runs.values()))[0]
    header = ("schedule", *(f"{band} scans (n = {first.bands[band].n})" for band in bands))
    return ReportTable(header, rows, "Misclassification by how many training scans the patient's site has")


def _spreads(study: Schedules) -> ReportTable:
    """A table of how errors differ among sites, and by chance."""
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
    """A table of the errors of every site under every schedule."""
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
    """A table of what the sites send each other."""
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
    """A figure of validation AUROC by cycle."""
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
            "How fast each schedule learns, mean over seeds. A cycle sends the model of every site twice where models are averaged, and once where one model travels.",
        )  # fmt: skip


def _dots(study: Schedules) -> Figure:
    """A figure of scores and errors by schedule."""
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


def _probes(study: Schedules) -> ReportTable | None:
    """A table of the probes of every block; None where there are none."""
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


def _verdict(difference: OverSeeds, low: float, high: float) -> str:
    """Says whether the 95 % interval lies within (low, high), outside, or across an end."""
    a, b = difference.estimate.limits(CONFIDENCE)
    if not np.isfinite([a, b]).all():
        return "one seed says nothing"
    if low < a and b < high:
        return "holds"
    return "does not hold" if b <= low or a >= high else "not settled"


def _claims(study: Schedules) -> tuple[ReportTable, str] | None:
    """A table of the published orderings beside ours, and the sentence for the top of the page; None without a comparison."""
    runs, rows, said = study.runs, [], []

    def claim(text: str, published: str, difference: OverSeeds | None, low: float, high: float) -> None:
        if difference is not None:
            verdict = _verdict(difference, low, high)
            rows.append((text_cell(text), text_cell(published), dots.cell(difference), text_cell(verdict)))
            said.append(f"{text}: {verdict} ({number(difference.estimate.value, 3, True)})")

    travelling = runs.get("travelling", ())
    averaged = [name for name in _AVERAGED if name in runs]
    claim(
        f"travelling within {_NEAR} of central in AUROC", "0.83 against 0.80",
        schedules.against(travelling, runs.get(CENTRAL, ()), "auroc"), -_NEAR, _NEAR,
    )  # fmt: skip
    if averaged:
        best = max(averaged, key=lambda name: schedules.over(runs[name], "auroc").estimate.value)
        difference = schedules.against(runs.get("FedTM", ()), runs[best], "auroc")
        claim(
            f"FedTM above averages alone in AUROC (the best: {best})",
            "0.82 against 0.77",
            difference,
            0,
            np.inf,
        )
    probed = [run for run in travelling if run.told]
    if probed:
        block = list(probed[0].told)[-1]
        difference = schedules.told_against(runs.get("HarmonyTM", ()), travelling, block, "scanner")
        claim(
            f"HarmonyTM lowers how well {block} tells the scanner",
            "0.30 against 0.53",
            difference,
            -np.inf,
            0,
        )
        difference = schedules.against(runs.get("HarmonyTM", ()), travelling, "accuracy")
        claim("HarmonyTM above travelling in accuracy", "0.76 against 0.72", difference, 0, np.inf)
    if not rows:
        return None
    header = ("published ordering", "published", "difference here, 95 % interval", "")
    text = f"Across sites: {'; '.join(said)}."
    return ReportTable(header, rows, "Do the published orderings hold?"), text


def section(study: Schedules) -> Section | None:
    """The section; None without a run that could be read."""
    if not study.runs:
        return None
    claims, probes = _claims(study), _probes(study)
    sizes = sorted(study.sizes.values())
    text = [
        f"{sum(sizes):,} training scans lie at {len(sizes)} sites, {sizes[0]} to {sizes[-1]} scans at each ({sizes.count(1)} with a single scan). No site "
        "shows its images to another. With averages (FedAvg, FedProx), the model goes to every site and back in each round. A travelling model "
        "goes from site to site with its optimizer. HarmonyTM also unlearns the scanner. FedTM first averages over the large sites and then "
        "travels. Every model is scored after its last cycle, because separate hospitals share no validation split that could choose a step.",
    ]  # fmt: skip
    notes = [
        "Differences are paired by seed and by patient. Disparity: the rate of a site is its mean over the seeds. The interval of largest − smallest holds for "
        "all pairs together (Bonferroni) and includes the spread over seeds. Chance deals whole patients, each with its errors under every seed, to "
        "the sites; p is the share of deals with at least as large a spread (null: errors fall regardless of site). Intervals of differences "
        "between probes hold the spread over seeds alone.",
    ]  # fmt: skip
    tables: list[ReportTable] = [
        *([claims[0]] if claims else []),
        _served(study),
        _bands(study),
        _spreads(study),
        _sent(study),
    ]
    tables += [*([probes] if probes else []), _every_site(study)]
    return Section(
        "Learning across sites", text, (_curves(study), _dots(study)), tables, notes, headline=claims[1] if claims else None,
    )  # fmt: skip
