"""What FairSeg adds to the report of a run: how hard each group of a drawn cohort was made."""

from collections.abc import Mapping
from typing import Any

from equipoise.engine.report.page import Cell, ReportTable, Section, number, text_cell
from equipoise.engine.report.single.context import Context


def difficulty(metadata: Mapping[str, Any]) -> Section | None:
    """How hard each group was drawn; None for a cohort that is not drawn.

    Args:
      metadata: of the cohort.
    """
    groups = metadata.get("design", {}).get("groups")
    if not groups:
        return None
    names = list(next(iter(groups.values())))
    rows = [(text_cell(g), *(Cell(number(values[n], 2)) for n in names)) for g, values in groups.items()]
    text = (
        "The images are drawn. The races differ in the contrast and blur of the edges and in the size of the cup, and in nothing else.",
    )
    return Section("How hard each group was made", text, (), (ReportTable(("group", *names), rows),))


def sections(context: Context) -> list[Section]:
    """The sections of the report of a FairSeg run that other reports do not have."""
    section = difficulty(context.metadata)
    return [section] if section else []
