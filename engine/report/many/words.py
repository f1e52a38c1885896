"""How scores over runs and differences between methods are written."""

import math

from equipoise.engine.metrics.comparing.methods import Contrast
from equipoise.engine.metrics.estimates.seeds import ONE_SEED, OverSeeds
from equipoise.engine.metrics.frame.evaluate import CONFIDENCE
from equipoise.engine.report.page.words import interval, short_title

_ABBREVIATED = {"auroc": "AUROC", "fpr": "FPR", "ppv": "PPV", "mae": "MAE", "rmse": "RMSE", "r2": "R²"}


def short_name(metric: str) -> str:
    """A metric where there is little room."""
    base, _, part = metric.partition(":")
    return (
        f"{_ABBREVIATED[base]}{f', {part}' if part else ''}" if base in _ABBREVIATED else short_title(metric)
    )


def around_or_why(low: float, high: float, reason: str | None, signed: bool = False) -> str:
    """An interval, or why there is none."""
    missing = "one run" if reason == ONE_SEED else reason or "no interval"
    return interval(low, high, 3, signed) or missing


def limits(found: OverSeeds) -> tuple[float, float]:
    """Of a mean, carrying seeds and patients."""
    return found.estimate.limits(CONFIDENCE)


def score_title(found: Contrast) -> str:
    """What a contrast is of."""
    kind, _, metric = found.score.partition(":")
    if kind == "worst_group":
        return f"Worst group by {found.attribute}, {short_name(metric)}"
    if kind == "difference":
        return f"Gap in {short_name(metric)}, {found.attribute}: {found.level.replace(' - ', ' − ')}"
    where = f", {found.attribute}: {found.level}" if found.attribute else ""
    return short_name(found.score) + where


def excludes_zero(found: Contrast) -> bool:
    """Whether the 95 % interval leaves 0 out."""
    return math.isfinite(found.low + found.high) and (found.low > 0 or found.high < 0)
