"""A policy: bounds that scores must keep, overall and in every group, judged for a program's exit code.

A file of rules in YAML::

  rules:
    - metric: sensitivity          # a metric, of everyone and of groups
      groups: [overall, race, {sex: [F, M]}]
      min: 0.80
    - score: difference:fpr        # a comparison of groups: a gap, an extreme, a named fairness score
      groups: race
      min: -0.10
      max: 0.10
      on: estimate

A bound is kept by the end of the 95 % interval that is nearest to breaking it: the lower for ``min``, the upper for ``max``. ``on``
takes the ``estimate`` instead, or a named end (``lower``, ``upper``). What is undefined, suppressed or has no such end breaks
the rule: absence of evidence is no pass. Without ``groups`` a rule holds for everyone and every group of the report;
without ``model`` for every model.

A rule on a metric over several groups asks that all of them keep it: an intersection-union test (Berger, Technometrics
1982;24:295), whose error does not grow with the number of groups, so that nothing is corrected. A rule on a gap takes the
interval of the gap.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.decisions.rules import OVERALL, PAIRED, Rule, read
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.frames.disparities import Disparity
from equipoise.engine.metrics.frames.export import CONFIDENCE, clean
from equipoise.engine.metrics.frames.frame import Frame
from equipoise.engine.metrics.table import groupings
from equipoise.engine.metrics.table.groupings import GIVEN

__all__ = ["OVERALL", "WORDS", "Rule", "Verdict", "judge", "read", "to_json"]

WORDS = {"estimate": "estimate", "lower": "lower limit", "upper": "upper limit"}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One bound of a rule, judged in one cell.

    Attributes:
      rule: file and line.
      score: name of the metric or score.
      model: whose.
      attribute: of the groups, or ``overall``.
      levels: the group; of a gap also the one it is compared with; none of a score over all groups.
      bound: such as ``>= 0.8``.
      on: what was held against it.
      judged: that number; NaN where there is none.
      value: the estimate.
      low: limit of its 95 % interval.
      high: limit.
      n: images that the score is made of; None of a comparison.
      is_met: whether the bound is kept.
      reason: why there is no number, or None.
    """

    rule: str
    score: str
    model: str
    attribute: str
    levels: tuple[str, ...]
    bound: str
    on: str
    judged: float
    value: float
    low: float
    high: float
    n: int | None
    is_met: bool
    reason: str | None = None

    @property
    def place(self) -> str:
        """The cell in words: ``overall``, ``race: Black``, ``race: Black - White``."""
        return f"{self.attribute}: {' - '.join(self.levels)}" if self.levels else self.attribute

    def __str__(self) -> str:
        found = f"{self.judged:.4g}" if math.isfinite(self.judged) else f"undefined ({self.reason})"
        count = f", n={self.n}" if self.n is not None else ""
        return (
            f"{self.rule}: {self.model}: {self.score} {self.bound} ({WORDS[self.on]}) is "
            f"{'met' if self.is_met else 'violated'} in {self.place}: {found}{count}"
        )


def judge(rules: Sequence[Rule], frames: Mapping[str, Frame]) -> tuple[Verdict, ...]:
    """Every bound of every rule in every cell that it is about.

    Args:
      rules: from :func:`read`.
      frames: model -> its scores.

    Returns:
      Verdicts in the order of the rules; a policy is met where all of them are.

    Raises:
      UserError: with file and line, for a rule that is about no cell, with the nearest name.
    """
    return tuple(verdict for rule in rules for verdict in _of_rule(rule, frames))


def _of_rule(rule: Rule, frames: Mapping[str, Frame]) -> Iterator[Verdict]:
    if rule.model is not None:
        _find(rule, rule.model, frames, "model")
    for model in [rule.model] if rule.model is not None else frames:
        for attribute, levels in rule.groups or _every_group(rule, frames[model]):
            find = _metric_cells if rule.is_metric else _score_cells
            for place, found in find(rule, frames[model], attribute, levels):
                yield from _verdicts(rule, model, attribute, place, found)


def _every_group(rule: Rule, frame: Frame) -> list[tuple[str, None]]:
    """Everyone and all groupings; of a score those that have it, or that have nobody to compare."""
    if rule.is_metric:
        return [(OVERALL, None), *((a, None) for a in frame.groups)]
    is_pair = rule.name.partition(":")[0] in PAIRED
    having = [
        a for a, found in frame.disparities.items() if is_pair or not found or list(_keys(rule, frame, a))
    ]
    if not having:
        known = dict.fromkeys(k for found in frame.disparities.values() for k in found)
        _find(rule, rule.name, known, "score")
    return [(a, None) for a in having]


def _find(rule: Rule, name: str, known: Any, what: str, remedy: str = "") -> None:
    """Raises where ``name`` is not among the known ones."""
    if name not in known:
        listed = ", ".join(list(known)[:20]) or "none"
        raise UserError(
            f"{rule.where}: no {what} {name!r} in this report.{did_you_mean(name, known)} There are: {listed}{remedy}"
        )


Place = tuple[str, ...]


def _metric_cells(
    rule: Rule, frame: Frame, attribute: str, levels: Place | None
) -> Iterator[tuple[Place, Estimate]]:
    _find(rule, rule.name, frame.overall, "metric")
    if attribute == OVERALL:
        yield (), frame.overall[rule.name]
        return
    _find(rule, attribute, [*frame.groups, OVERALL], "group", "; others with --group")
    cells = frame.groups[attribute]
    if levels is None:
        levels = tuple(level for level in cells if groupings.is_known(level))
        if not levels:
            raise UserError(f"{rule.where}: group {attribute!r} has no level: name what it is about")
    for level in levels:
        _find(rule, level, cells, f"level of {attribute}")
        yield (level,), cells[level][rule.name]


def _keys(rule: Rule, frame: Frame, attribute: str) -> Iterator[tuple[str, Place, Disparity]]:
    """(key, place, comparison) of a score in a grouping, in each stratum or of each pair."""
    strata = (
        {level.rpartition(GIVEN)[2] for level in frame.groups[attribute]} if GIVEN in attribute else set()
    )
    for key, found in frame.disparities.get(attribute, {}).items():
        kind = key.partition(":")[0]
        if kind in PAIRED:
            pair = ("/" if kind == "ratio" else "-").join(found.levels)
            if key == f"{rule.name}:{pair}":
                yield key, found.levels, found
        elif key == rule.name:
            yield key, found.levels, found
        elif key.startswith(f"{rule.name}:") and key[len(rule.name) + 1 :] in strata:
            yield key, found.levels or (key[len(rule.name) + 1 :],), found


def _score_cells(
    rule: Rule, frame: Frame, attribute: str, levels: Place | None
) -> Iterator[tuple[Place, Disparity]]:
    if attribute == OVERALL:
        raise UserError(f"{rule.where}: {rule.name} compares groups: name an attribute instead of {OVERALL}")
    _find(rule, attribute, frame.groups, "group", "; others with --group")
    if not frame.disparities.get(attribute):
        nan = math.nan
        yield (), Disparity(nan, nan, nan, reason="no two groups are compared")
        return
    cells = {place: found for _, place, found in _keys(rule, frame, attribute)}
    if rule.name.partition(":")[0] in PAIRED:
        _find(rule, rule.name.partition(":")[2], frame.overall, "metric")
        yield from _pair_cells(rule, frame, attribute, levels, cells)
        return
    if not cells:
        _find(rule, rule.name, frame.disparities[attribute], f"score of {attribute}")
    if levels is not None:
        raise UserError(f"{rule.where}: {rule.name} is of all levels of {attribute} together: name none")
    yield from cells.items()


def _pair_cells(
    rule: Rule, frame: Frame, attribute: str, levels: Place | None, cells: Mapping[Place, Disparity]
) -> Iterator[tuple[Place, Disparity]]:
    """Of every group that is no reference; one whose comparison is missing, such as a suppressed one, has no value."""
    plain_of = {
        level: level.partition(GIVEN)[0] if GIVEN in attribute else level for level in frame.groups[attribute]
    }
    base = {place[-1] for place in cells if len(place) > 1}
    if not rule.name.startswith(("to_overall", "to_rest")):
        base |= {level for level, plain in plain_of.items() if plain == frame.references.get(attribute)}
    wanted = [level for level in plain_of if groupings.is_known(level) and level not in base]
    for level in wanted if levels is None else levels:
        _find(rule, level, wanted, f"{rule.name} of {attribute}:")
        mine = [(place, found) for place, found in cells.items() if place[0] == level]
        nan = math.nan
        yield from mine or [((level,), Disparity(nan, nan, nan, reason="suppressed or not compared"))]


def _verdicts(
    rule: Rule, model: str, attribute: str, place: Place, found: Estimate | Disparity
) -> Iterator[Verdict]:
    low, high = found.limits(CONFIDENCE) if isinstance(found, Estimate) else (found.low, found.high)
    numbers = {"estimate": found.value, "lower": low, "upper": high}
    for sign, bound, nearest in ((">=", rule.low, "lower"), ("<=", rule.high, "upper")):
        if bound is None:
            continue
        on = rule.on or nearest
        judged = numbers[on]
        is_met = math.isfinite(judged) and (judged >= bound if sign == ">=" else judged <= bound)
        reason = None if math.isfinite(judged) else found.reason or "no such limit"
        yield Verdict(
            rule.where, rule.name, model, attribute, place, f"{sign} {bound:g}", on, judged, found.value, low, high,
            getattr(found, "n", None), is_met, reason,
        )  # fmt: skip


def to_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The part ``policy`` of ``metrics.json``."""
    return clean(
        {"is_met": all(v.is_met for v in verdicts), "verdicts": [dataclasses.asdict(v) for v in verdicts]}
    )
