"""What a page of many runs is made of, and how its scores and intervals are written."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.engine.gather import Gathered
from equipoise.engine.metrics.comparing.methods import Contrast, MethodScores, entry
from equipoise.engine.metrics.estimates.seeds import ONE_SEED, OverSeeds
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.page.page import interval, short_title


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that the page of many runs is made of.

    Attributes:
      gathered: the runs, taken and left out.
      methods: name -> scores over runs.
      contrasts: between methods.
      settings: of the computation, for ``metrics.json``.
      made_by: command that makes this report again, without paths.
    """

    gathered: Gathered
    methods: Mapping[str, MethodScores]
    contrasts: Sequence[Contrast]
    settings: Mapping[str, Any]
    made_by: str = ""

    @property
    def metrics(self) -> list[str]:
        """Leading metrics, in order."""
        return list(next(iter(self.methods.values())).overall)

    @property
    def attributes(self) -> list[str]:
        """Whose groups are compared."""
        return list(next(iter(self.methods.values())).groups)

    @property
    def unpaired(self) -> list[str]:
        """Pairs of methods that have no seed in common."""
        return list(dict.fromkeys(f"{c.first} − {c.second}" for c in self.contrasts if not c.num_runs))

    def between(self, score: str, attribute: str = "", level: str = "") -> list[Contrast]:
        """Contrasts of one score in one place."""
        return [c for c in self.contrasts if (c.score, c.attribute, c.level) == (score, attribute, level)]


def short_name(metric: str) -> str:
    """A metric where there is little room."""
    short, part = entry(metric).short, metric.partition(":")[2]
    return f"{short}{f', {part}' if part else ''}" if short else short_title(metric)


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
