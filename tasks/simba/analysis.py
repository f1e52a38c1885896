"""What SimBA adds to the report of a run: expected and paired effects of planted biases, or for a cohort of many sites, errors by site."""

from equipoise.engine.report.page import Section
from equipoise.engine.report.single.context import Context
from equipoise.tasks.kit.sites import SITE
from equipoise.tasks.simba import renderings, sites, theory


def sections(context: Context) -> list[Section]:
    """The sections of the report of a SimBA run that other reports do not have."""
    if SITE in context.schema.attributes:
        return [sites.section(context)]
    return [theory.section(context), renderings.section(context)]
