"""What SimBA adds to a report: closed-form expectations, and the effect of each bias on the very same subjects."""

from engine.report.page import Context, Section
from tasks.simba import renderings, theory


def sections(context: Context) -> list[Section]:
    """What the report of a SimBA run shows beyond every report."""
    return [theory.section(context), renderings.section(context)]
