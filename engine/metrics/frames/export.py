"""The numbers of a frame as JSON, as a long table and as HTML."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.frames.disparities import CONFIDENCE, Disparity

SCHEMA_VERSION = 1
_COLUMNS = ["part", "attribute", "level", "score", "value", "low", "high", "n", "n_subjects", "events", "method", "b_valid",
            "p", "p_adjusted", "test", "null", "null_mean", "null_low", "null_high", "min_detectable", "reason"]  # fmt: skip


def clean(value: Any) -> Any:
    """Turns NaN and infinity, which JSON does not have, into null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: clean(v) for k, v in value.items()}
    return [clean(v) for v in value] if isinstance(value, list | tuple) else value


def cell(estimate: Estimate) -> dict[str, Any]:
    """An estimate as ``metrics.json`` holds it."""
    low, high = estimate.limits(CONFIDENCE)
    numbers = {"value": estimate.value, "low": low, "high": high, "n": estimate.n, "n_subjects": estimate.n_subjects,
            "events": estimate.events, "method": estimate.method, "b_valid": estimate.b_valid}  # fmt: skip
    return numbers | ({"reason": estimate.reason} if estimate.reason else {})


def comparison(disparity: Disparity) -> dict[str, Any]:
    """A comparison as ``metrics.json`` holds it."""
    values = dataclasses.asdict(disparity)
    if values["reason"] is None:
        del values["reason"]
    return values


def scores(
    overall: Mapping[str, Estimate],
    groups: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
    disparities: Mapping[str, Mapping[str, Disparity]],
) -> dict[str, Any]:
    """The scores of one model as ``metrics.json`` holds them.

    Args:
      overall: metric -> estimate.
      groups: attribute -> level -> metric -> estimate.
      disparities: attribute -> score -> comparison.
    """
    return {
        "overall": {metric: cell(estimate) for metric, estimate in overall.items()},
        "groups": {
            attribute: {
                level: {metric: cell(estimate) for metric, estimate in estimates.items()}
                for level, estimates in levels.items()
            }
            for attribute, levels in groups.items()
        },
        "disparities": {
            attribute: {score: comparison(disparity) for score, disparity in comparisons.items()}
            for attribute, comparisons in disparities.items()
        },
    }


def document(
    first: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole of ``metrics.json``: the first model's :func:`scores` at the top, those of every model under ``models``."""
    return clean({"schema_version": SCHEMA_VERSION, **first, "models": models, "settings": settings})


def lines(document: Mapping[str, Any]) -> pd.DataFrame:
    """The numbers of the first model of a ``metrics.json`` as a table with one score a line."""
    rows = [{"part": "overall", "score": k, **cell} for k, cell in document["overall"].items()]
    for attribute, levels in document["groups"].items():
        for level, cells in levels.items():
            place = {"part": "group", "attribute": attribute, "level": level}
            rows += [{**place, "score": k, **cell} for k, cell in cells.items()]
    for attribute, comparisons in document["disparities"].items():
        place = {"part": "disparity", "attribute": attribute}
        rows += [{**place, "level": " - ".join(d["levels"]), "score": k, **d} for k, d in comparisons.items()]
    return pd.DataFrame(rows).reindex(columns=_COLUMNS).convert_dtypes()


def to_csv(document: Mapping[str, Any]) -> str:
    """:func:`lines` as text."""
    return lines(document).to_csv(index=False)


def html(overall: Mapping[str, Estimate], groups: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> str:
    """A table for notebooks: a row for each metric, a column for each group, intervals and n in the cells; names are escaped."""

    def text(estimate: Estimate) -> str:
        low, high = estimate.limits(CONFIDENCE)
        limits = f" ({low:.3f} to {high:.3f})" if math.isfinite(low + high) else ""
        return (
            f"{estimate.value:.3f}{limits}, n={estimate.n}"
            if math.isfinite(estimate.value)
            else f"–, n={estimate.n}"
        )

    columns = {("", "all"): {metric: text(e) for metric, e in overall.items()}}
    for attribute, levels in groups.items():
        columns |= {
            (attribute, level): {metric: text(e) for metric, e in estimates.items()}
            for level, estimates in levels.items()
        }
    return pd.DataFrame(columns).to_html(escape=True)
