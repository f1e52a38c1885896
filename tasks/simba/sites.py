"""SimBA's section on errors by site: beside what every study shows, the same subjects as one scanner shows them."""

import re

from equipoise.engine.report.page import ReportTable, Section
from equipoise.engine.report.single.context import Context
from equipoise.tasks.kit import pairs, sites_page
from equipoise.tasks.kit.pairs import PairedEffect
from equipoise.tasks.simba import renderings


def _as_one_scanner(context: Context) -> PairedEffect | None:
    """What happens to decisions when all images look as from one scanner; None where such images were not scored."""
    name = re.sub(r"(?<=\d)mm(?!_counterfactual)", "mm_counterfactual", context.cohort, count=1)
    other = context.tables.get((name, context.split))
    if other is None or name == context.cohort:
        return None
    pair = renderings.side_by_side(context.table, other, ())
    diseased = (pair["target_a"] == context.schema.classes.index(context.schema.positive)).to_numpy()
    return pairs.effect(*pairs.decisions(pair), diseased)


def _scanner_grid(effect: PairedEffect) -> ReportTable:
    """A table of decisions about the same subjects, as their own scanner and as one scanner shows them."""
    header = pairs.header("rate", "subjects", ("own scanner", "one scanner"))
    rows = [pairs.cells(rate, change) for rate, change in effect.changes.items()]
    return ReportTable(
        header, rows, "The same subjects as their own scanner shows them, and all as one scanner does"
    )


def section(context: Context) -> Section:
    """Errors of every site against its size, what of their spread chance explains, and what the scanners do."""
    effect = _as_one_scanner(context)
    if effect is None:
        return sites_page.section(context)
    text = "Every test subject was also rendered as one scanner shows all: what changes then comes from the scanners alone."
    return sites_page.section(context, text=[text], tables=[_scanner_grid(effect)])
