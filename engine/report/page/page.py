"""The page: what sections, tables and figures are, and how they become one self-contained HTML file."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd

from equipoise.engine.explain import regions
from equipoise.engine.metrics.comparing.methods import entry
from equipoise.engine.metrics.comparing.paired import Comparison
from equipoise.engine.metrics.confounding.gaps import Adjusted
from equipoise.engine.metrics.decisions.policy import Verdict
from equipoise.engine.metrics.frame.evaluate import Frame
from equipoise.engine.metrics.table.suppression import row_levels
from equipoise.engine.metrics.table.table import Schema

if TYPE_CHECKING:
    from equipoise.engine.explain.worst_cases import WorstCase

_FOLDER = pathlib.Path(__file__).parent
MOST_LEVELS = 40  # of an attribute that the page shows; the files hold all


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
class Grid:
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
    tables: Sequence[Grid] = ()
    notes: Sequence[str] = ()
    command: str | None = None
    headline: str | None = None
    key_numbers: Sequence[KeyNumber] = ()
    points: Sequence[str] = ()

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
      region_cut: of the saliency in regions (:func:`equipoise.engine.explain.regions.score`).
      worst: images on which masks were predicted worst, by group.
      models: name -> scores of every model of the table; ``frame`` is the first.
      notes: what a reader must know of how the table was read.
      hidden: (attribute, level) of the cells that a shared report does not show.
      min_cell: fewest patients of a shown cell; None in a private report, which shows everything.
      made_by: command that makes this report again, without paths.
      verdicts: of a policy on these scores; None without one.
      comparison: of two of the models; None where it was not asked for.
      adjusted: attribute -> level -> adjusted gaps; None where they were not asked for.
      adjusted_by: the method, in words.
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
    region_cut: float = regions.CUT
    worst: Sequence[WorstCase] = ()
    models: Mapping[str, Frame] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    hidden: frozenset[tuple[str, str]] = frozenset()
    min_cell: int | None = None
    made_by: str = ""
    verdicts: Sequence[Verdict] | None = None
    comparison: Comparison | None = None
    adjusted: Mapping[str, Mapping[str, Adjusted]] | None = None
    adjusted_by: str = ""

    @property
    def is_run(self) -> bool:
        """Whether a run of Equipoise is reported, rather than a table from elsewhere."""
        return bool(self.config)

    @property
    def unit(self) -> str:
        """What a row is called."""
        return "images" if self.is_run else "cases"

    @property
    def model_names(self) -> tuple[str, ...]:
        """Of all models, the first being the one that the page shows in full."""
        return tuple(self.models) or (str(self.config.get("model", {}).get("name") or "model"),)

    @property
    def simple(self) -> dict[str, list[str]]:
        """Attribute -> levels to show, intersections and strata left out, of most people at most ``MOST_LEVELS``."""
        return {a: self.levels(a) for a in self.frame.groups if not {"*", "|"} & set(a)}

    def levels(self, attribute: str) -> list[str]:
        """Levels of an attribute that the page shows: all, or the largest ``MOST_LEVELS`` in their own order."""
        return self._levels[attribute]

    @functools.cached_property
    def _levels(self) -> dict[str, list[str]]:
        found = {}
        for attribute, levels in self.frame.groups.items():
            found[attribute] = list(levels)
            if len(levels) > MOST_LEVELS:
                sizes = self.sizes(attribute).reindex(found[attribute]).fillna(0)
                kept = set(sizes.sort_values(ascending=False, kind="stable").index[:MOST_LEVELS])
                found[attribute] = [level for level in levels if level in kept]
        return found

    def sizes(self, attribute: str) -> pd.Series:
        """Level -> number of images."""
        return pd.Series(row_levels(self.table, attribute)).value_counts()

    def is_hidden(self, attribute: str, level: str) -> bool:
        """Whether a shared report must not show a cell."""
        return (attribute, level) in self.hidden

    @property
    def table(self) -> pd.DataFrame:
        """The predictions that are reported."""
        return self.tables[self.cohort, self.split]


def title(metric: str) -> str:
    """A metric in running text: ``F1 score, macro``."""
    about, part = entry(metric), metric.partition(":")[2]
    return about.title + (f", {part}" if part and about.tasks != ("values",) else "")


def pointer(*parts: str) -> str:
    """Where a number stands in ``metrics.json``, as a JSON Pointer (RFC 6901): names may hold any sign."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def short_title(metric: str) -> str:
    """A metric where there is little room: ``AUROC``, ``F1 score, macro``, ``mean dice_cup``."""
    base, _, part = metric.partition(":")
    about = entry(metric)
    if about.tasks == ("values",):
        return f"{base} {part}".strip().replace("_rate", " rate")
    return about.title.split(" (")[0] + (f", {part}" if part else "")


def shown_level(attribute: str, level: str) -> str:
    """A level as words, of an intersection or stratum ``Black × F | site A``."""
    return level.replace("*", " × ").replace("|", " | ") if {"*", "|"} & set(attribute) else level


def named_class(context: Context, name: str) -> str:
    """A class of the label in running text: ``disease present``, but ``died = 1``."""
    return (
        f"{context.schema.label} = {name}"
        if name.replace(".", "").isdigit()
        else f"{context.schema.label} {name}"
    )


def sentence(text: str) -> str:
    """Text with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


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
