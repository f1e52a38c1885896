"""How scores over runs and differences between methods are written."""

import math

from equipoise.engine.metrics.comparing.methods import Contrast, entry
from equipoise.engine.metrics.estimates.seeds import ONE_SEED, OverSeeds
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.page.words import interval, short_title


def short_name(metric: str) -> str:
    """The name of a metric where there is little room."""
    short, part = entry(metric).short, metric.partition(":")[2]
    return f"{short}{f', {part}' if part else ''}" if short else short_title(metric)


def around_or_why(low: float, high: float, reason: str | None, signed: bool = False) -> str:
    """An interval as the page writes it, or the reason why there is none."""
    missing = "one run" if reason == ONE_SEED else reason or "no interval"
    return interval(low, high, 3, signed) or missing


def limits(mean: OverSeeds) -> tuple[float, float]:
    """The 95 % limits of a mean over runs, which carry seeds and patients."""
    return mean.estimate.limits(CONFIDENCE)


def score_title(contrast: Contrast) -> str:
    """The score that a contrast compares, in words."""
    kind, _, metric = contrast.score.partition(":")
    if kind == "worst_group":
        return f"Worst group by {contrast.attribute}, {short_name(metric)}"
    if kind == "difference":
        return f"Gap in {short_name(metric)}, {contrast.attribute}: {contrast.level.replace(' - ', ' − ')}"
    where = f", {contrast.attribute}: {contrast.level}" if contrast.attribute else ""
    return short_name(contrast.score) + where


def excludes_zero(contrast: Contrast) -> bool:
    """Whether the 95 % interval of a contrast excludes 0."""
    return math.isfinite(contrast.low + contrast.high) and (contrast.low > 0 or contrast.high < 0)
