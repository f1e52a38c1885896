"""The page: what sections, tables and figures are, and how they become one self-contained HTML file."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from engine.metrics.frame import Frame
from engine.metrics.table import Schema

_FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Cell:
    """One place of a table.

    Attributes:
      text: as shown.
      key: where the number stands in ``metrics.json`` (dotted path), so that page and file can be compared.
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
class Grid:
    """A table.

    Attributes:
      header: of every column; units stand here.
      rows: of cells.
      caption: above it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


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
    """

    name: str
    alt: str
    caption: str
    png: bytes
    source: str
    is_wide: bool = False


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
    tables: Sequence[Grid] = ()
    notes: Sequence[str] = ()
    command: str | None = None
    headline: str | None = None
    key_numbers: Sequence[KeyNumber] = ()

    @property
    def anchor(self) -> str:
        """The heading as an address in the page."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


@dataclasses.dataclass(frozen=True)
class Context:
    """All that a report is made of.

    Attributes:
      workdir: of the run; never shown.
      config: of the run, nested.
      cohort: that is reported.
      split: that is reported.
      step: of the checkpoint.
      schema: of the prediction table.
      frame: scores of that table.
      tables: (cohort, split) -> predictions of the same checkpoint.
      history: rows of ``metrics.jsonl``.
      metadata: what the cohort's builder recorded (regions, design).
      cohort_report: counts and what was skipped.
      saliency: arrays of ``saliency/COHORT/STEP.npz``, or None.
    """

    workdir: pathlib.Path
    config: Mapping[str, Any]
    cohort: str
    split: str
    step: int
    schema: Schema
    frame: Frame
    tables: Mapping[tuple[str, str], pd.DataFrame]
    history: Sequence[Mapping[str, Any]] = ()
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cohort_report: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    saliency: Mapping[str, np.ndarray] | None = None

    @property
    def table(self) -> pd.DataFrame:
        """The predictions that are reported."""
        return self.tables[self.cohort, self.split]


def number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """A number as printed: a true minus sign, a dash where it is undefined."""
    if value is None or not np.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    zero = float(text) == 0
    return text.lstrip("+-") if zero else text.replace("-", "−")


def interval(low: float | None, high: float | None, digits: int = 3, signed: bool = False) -> str:
    """``0.880 to 0.951``, empty where there is none."""
    shown = [number(x, digits, signed) for x in (low, high)]
    return "" if "–" in shown else " to ".join(shown)


def probability(p: float | None) -> str:
    """A p value as printed."""
    if p is None or not np.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


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
