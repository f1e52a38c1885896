"""The page of a report: its sections, tables, figures and cells, the words for numbers, and the files it becomes."""

from equipoise.engine.report.page.page import (
    Cell,
    Figure,
    KeyNumber,
    ReportTable,
    Section,
    pointer,
    render,
    text_cell,
)
from equipoise.engine.report.page.words import (
    interval,
    number,
    probability,
    sentence,
    short_title,
    shown_level,
    title,
)

__all__ = [
    "Cell", "Figure", "KeyNumber", "ReportTable", "Section", "interval", "number", "pointer", "probability", "render",
    "sentence", "short_title", "shown_level", "text_cell", "title",
]  # fmt: skip
