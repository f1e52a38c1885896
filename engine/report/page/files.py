"""The files of a report: page, numbers, model card and figures; each is written whole or not at all."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from equipoise.engine import files
from equipoise.engine.metrics.frames import export
from equipoise.engine.report.page.page import Section

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def harmless(text: Any) -> Any:
    """The text, after an apostrophe where a spreadsheet would run it as a formula; anything else stays as it is."""
    return f"'{text}" if isinstance(text, str) and text.startswith(_FORMULA) else text


def to_csv(document: Mapping[str, Any]) -> str:
    """The content of a ``metrics.json`` as a tidy table: a line for every score of every model; safe to open in a spreadsheet."""
    parts = [export.lines(scores).assign(model=name) for name, scores in document["models"].items()]
    frame = pd.concat(parts, ignore_index=True)
    return safe_csv(frame[["model", *frame.columns.drop("model")]])


def write(
    output: pathlib.Path,
    page: str,
    document: Mapping[str, Any],
    card: str,
    sections: Sequence[Section],
    tables: Mapping[str, str | None],
) -> list[pathlib.Path]:
    """Writes a report into a folder, and removes the files of an older report that this one lacks.

    Args:
      output: folder, created where needed.
      page: content of ``report.html``.
      document: content of ``metrics.json``.
      card: content of ``model_card.md``.
      sections: sections of the page, whose figures are written.
      tables: name -> content of further files; None for a file that this report lacks.

    Returns:
      The files, in the order of writing.
    """
    contents = {
        "report.html": page,
        "metrics.json": json.dumps(document, indent=1, allow_nan=False) + "\n",
        "metrics.csv": to_csv(document),
        "model_card.md": card,
        **{name: text for name, text in tables.items() if text is not None},
    }
    for name in tables.keys() - contents.keys():
        (output / name).unlink(missing_ok=True)
    return write_all(output, contents, sections)


def safe_csv(frame: pd.DataFrame) -> str:
    """A data frame as CSV, safe to open in a spreadsheet."""
    text = frame.select_dtypes(exclude="number").columns
    return frame.assign(**{c: frame[c].map(harmless, na_action="ignore") for c in text}).to_csv(index=False)


def write_all(
    output: pathlib.Path, texts: Mapping[str, str], sections: Sequence[Section]
) -> list[pathlib.Path]:
    """Writes text files and the figures of sections into a folder, and removes the figures of an older report.

    Args:
      output: folder, created where needed.
      texts: name -> content of the text files.
      sections: sections of the page, whose figures are written.

    Returns:
      The files, in the order of writing.
    """
    folder = output / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for old in (f for kind in ("png", "svg", "pdf") for f in folder.glob(f"*.{kind}")):
        old.unlink()
    contents = {output / name: text.encode() for name, text in texts.items()}
    drawn = [f for s in sections for f in s.figures]
    contents |= {folder / f"{f.name}.png": f.png for f in drawn}
    contents |= {folder / f"{f.name}.svg": f.svg for f in drawn if f.svg}
    contents |= {folder / f"{f.name}.pdf": f.pdf for f in drawn if f.pdf}
    for path, content in contents.items():
        files.write_bytes(path, content)
    return list(contents)
