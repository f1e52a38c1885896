"""What SimBA adds to a report: expectations and paired effects of planted biases; of a cohort of many sites, errors by site."""

from equipoise.engine.report.page import Section
from equipoise.engine.report.single.context import Context
from equipoise.tasks.kit.sites import SITE
from equipoise.tasks.simba import renderings, sites, theory


def sections(context: Context) -> list[Section]:
    """What the report of a SimBA run shows beyond every report."""
    if SITE in context.schema.attributes:
        return [sites.section(context)]
    return [theory.section(context), renderings.section(context)]
