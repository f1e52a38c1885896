"""The page: what sections, tables and figures are, and how they become one self-contained HTML file."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

_FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Cell:
    """One place of a table.

    Attributes:
      text: as shown.
      key: where the number stands in ``metrics.json`` (:func:`pointer`), so that page and file can be compared.
      note: smaller text below, such as the interval or n.
      is_number: aligned right.
    """

    text: str
    key: str | None = None
    note: str = ""
    is_number: bool = True


def text_cell(text: Any, note: str = "") -> Cell:
    """A cell of words, aligned left."""
    return Cell(str(text), note=note, is_number=False)


@dataclasses.dataclass(frozen=True)
class ReportTable:
    """A table.

    Attributes:
      header: of every column; units stand here.
      rows: of cells.
      caption: above it.
      is_folded: whether only the caption shows until it is opened.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    is_folded: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Attributes:
      name: of its file under ``figures/``.
      alt: what it shows, for those who cannot see it.
      caption: below it.
      png: the file.
      source: ``data:`` address that the page inlines.
      is_wide: whether it takes the page's full width.
      svg: the file as vectors; empty for a figure made of pixels.
      pdf: the same for a paper; empty where none is written.
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
    """A number at the top of the page."""

    title: str
    text: str
    note: str = ""
    key: str | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page: prose, then figures, then tables.

    Attributes:
      title: heading.
      text: paragraphs of plain text.
      points: a list below them.
      figures: side by side where there is room.
      tables: below them.
      notes: smaller paragraphs below the tables.
      command: to run for what is missing.
      headline: a sentence that the top of the page takes over.
      key_numbers: likewise.
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
        """The heading as an address in the page."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


def pointer(*parts: str) -> str:
    """Where a number stands in ``metrics.json``, as a JSON Pointer (RFC 6901): names may hold any sign."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def render(
    title: str, headlines: Sequence[str], key_numbers: Sequence[KeyNumber], sections: Sequence[Section]
) -> str:
    """The whole page as text; it loads nothing from anywhere."""
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
