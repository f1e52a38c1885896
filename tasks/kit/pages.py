"""Parts of a study's page that every study has."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.page import (
    Cell,
    KeyNumber,
    ReportTable,
    Section,
    files,
    interval,
    number,
    page,
    text_cell,
)
from equipoise.tasks.kit.gather import LeftOut


def left_out(runs: Sequence[LeftOut]) -> list[Section]:
    """A section that names the runs which could not be read; none where all could."""
    rows = [(text_cell(run), text_cell(reason)) for run, reason in runs]
    return [Section("Left out", tables=[ReportTable(("run", "because"), rows)])] if rows else []


def mean_and_sd(values: Sequence[float]) -> Cell:
    """The mean of a number over seeds; with two seeds or more also its standard deviation."""
    sd = f"± {number(np.std(values, ddof=1))}" if len(values) > 1 else ""
    return Cell(number(np.mean(values)), note=sd)


def points(estimate: Estimate) -> str:
    """A difference of rates in percentage points, with its 95 % interval."""
    low, high = (100 * limit for limit in estimate.limits(CONFIDENCE))
    return f"{number(100 * estimate.value, 1, True)} points ({interval(low, high, 1, True)})"


def key_number(name: str, estimate: Estimate, digits: int = 3, is_signed: bool = False) -> KeyNumber:
    """A number for the top of the page, with its 95 % interval."""
    low, high = estimate.limits(CONFIDENCE)
    return KeyNumber(name, number(estimate.value, digits, is_signed), interval(low, high, digits, is_signed))


def write(
    folder: pathlib.Path,
    title: str,
    sections: Sequence[Section],
    key_numbers: Sequence[KeyNumber],
    tables: Mapping[str, str],
) -> list[pathlib.Path]:
    """Writes ``folder/report``: ``report.html``, the tables and ``figures/``.

    Args:
      folder: of the study.
      title: of the page.
      sections: in their order; their headlines stand at the top of the page.
      key_numbers: for the top of the page.
      tables: name of a file -> its text.

    Returns:
      The files written.
    """
    headlines = [section.headline for section in sections if section.headline]
    text = page.render(title, headlines, key_numbers, sections)
    return files.write_all(folder / "report", {"report.html": text, **tables}, sections)
