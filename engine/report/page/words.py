"""How metrics, numbers, intervals and levels are written on a page."""

import numpy as np

from equipoise.engine.metrics.comparing.methods import entry


def title(metric: str) -> str:
    """The name of a metric in running text: ``F1 score, macro``."""
    about, part = entry(metric), metric.partition(":")[2]
    return about.title + (f", {part}" if part and about.tasks != ("values",) else "")


def short_title(metric: str) -> str:
    """The name of a metric where there is little room: ``AUROC``, ``F1 score, macro``, ``mean dice_cup``."""
    base, _, part = metric.partition(":")
    about = entry(metric)
    if about.tasks == ("values",):
        return f"{base} {part}".strip().replace("_rate", " rate")
    return about.title.split(" (")[0] + (f", {part}" if part else "")


def shown_level(attribute: str, level: str) -> str:
    """A level as the page writes it; a level of an intersection or stratum becomes ``Black × F | site A``."""
    return level.replace("*", " × ").replace("|", " | ") if {"*", "|"} & set(attribute) else level


def sentence(text: str) -> str:
    """The text with a capital first letter; the rest stays as it is."""
    return text[:1].upper() + text[1:]


def number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """A number as the page writes it: with a true minus sign, and a dash where it is undefined.

    Args:
      value: the number; None and NaN are undefined.
      digits: digits after the decimal point.
      signed: whether a positive number gets a plus sign.
    """
    if value is None or not np.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    zero = float(text) == 0
    return text.lstrip("+-") if zero else text.replace("-", "−")


def interval(low: float | None, high: float | None, digits: int = 3, signed: bool = False) -> str:
    """An interval as the page writes it, ``0.880 to 0.951``; empty where a limit is undefined."""
    shown = [number(x, digits, signed) for x in (low, high)]
    return "" if "–" in shown else " to ".join(shown)


def probability(p: float | None) -> str:
    """A p value as the page writes it."""
    if p is None or not np.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
