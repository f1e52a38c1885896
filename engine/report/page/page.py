"""The page: its sections, tables and figures, and how they become one HTML file that stands alone."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

_FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
      text: what the cell shows.
      key: where the number stands in ``metrics.json`` (:func:`pointer`), so that page and file can be compared; None for text.
      note: smaller text below, such as the interval or n.
      is_number: whether the cell is aligned right, as numbers are.
    """

    text: str
    key: str | None = None
    note: str = ""
    is_number: bool = True


def text_cell(text: Any, note: str = "") -> Cell:
    """A cell that holds text, aligned left."""
    return Cell(str(text), note=note, is_number=False)


@dataclasses.dataclass(frozen=True)
class ReportTable:
    """A table of the page.

    Attributes:
      header: heading of every column, with its unit.
      rows: the cells, row by row.
      caption: text above the table.
      is_folded: whether only the caption shows until the reader opens the table.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    is_folded: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Attributes:
      name: name of its files under ``figures/``, without their ending.
      alt: description for readers who cannot see the figure.
      caption: text below the figure.
      png: content of the PNG file.
      source: ``data:`` address by which the page holds the figure.
      is_wide: whether the figure takes the page's full width.
      svg: content of the SVG file; empty for a figure made of pixels.
      pdf: content of the PDF file, for a paper; empty where none is written.
    """

    name: str
    alt: str
    caption: str
    png: bytes
    source: str
    is_wide: bool = False
    svg: bytes = b""
    pdf: bytes = b""


@dataclasses.dataclass(frozen=True)
class KeyNumber:
    """A number at the top of the page.

    Attributes:
      title: what the number is.
      text: the number as it is shown.
      note: smaller text below, such as the interval.
      key: where the number stands in ``metrics.json`` (:func:`pointer`).
    """

    title: str
    text: str
    note: str = ""
    key: str | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page: prose, then figures, then tables.

    Attributes:
      title: heading of the section.
      text: paragraphs of plain text.
      figures: figures below the text, side by side where there is room.
      tables: tables below the figures.
      notes: smaller paragraphs below the tables.
      command: command to show, such as the one that makes what is missing.
      headline: sentence that is repeated at the top of the page.
      key_numbers: numbers that are repeated at the top of the page.
      points: list of sentences below the text.
    """

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[ReportTable] = ()
    notes: Sequence[str] = ()
    command: str | None = None
    headline: str | None = None
    key_numbers: Sequence[KeyNumber] = ()
    points: Sequence[str] = ()

    @property
    def anchor(self) -> str:
        """The address of the section within the page, made of its title."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


def pointer(*parts: str) -> str:
    """The place of a number in ``metrics.json``, as a JSON Pointer (RFC 6901); the names may hold any character."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def render(
    title: str, headlines: Sequence[str], key_numbers: Sequence[KeyNumber], sections: Sequence[Section]
) -> str:
    """The whole page as HTML; it loads nothing from anywhere.

    Args:
      title: heading of the page.
      headlines: sentences at its top.
      key_numbers: numbers below them.
      sections: parts of the page, in order.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        title=title,
        headlines=headlines,
        key_numbers=key_numbers,
        sections=sections,
        style=(_FOLDER / "page.css").read_text(),
    )
