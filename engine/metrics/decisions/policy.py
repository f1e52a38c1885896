"""A policy: bounds that scores must keep, overall and in every group. A program's exit code says whether they do.

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

A bound is compared with the end of the 95 % interval that breaks it first: the lower limit for ``min``, the upper for ``max``. ``on``
names the ``estimate`` or one end (``lower``, ``upper``) instead. A score that is undefined, suppressed or without such an end breaks
the rule, because absence of evidence is no pass. Without ``groups`` a rule holds for everyone and for every group of the report;
without ``model`` it holds for every model.

A rule on a metric asks that all of its groups keep it. This is an intersection-union test (Berger, Technometrics 1982;24:295), whose
error does not grow with the number of groups, so that nothing is corrected. A rule on a gap takes the interval of the gap.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """The verdict on one bound of a rule in one cell.

    Attributes:
      rule: file and line of the rule.
      score: name of the metric or score.
      model: name of the model.
      attribute: attribute of the groups, or ``overall``.
      levels: the group; for a gap also the group it is compared with; empty for a score over all groups.
      bound: the bound, such as ``>= 0.8``.
      on: which number was compared with it: ``estimate``, ``lower`` or ``upper``.
      judged: that number; NaN where there is none.
      value: the estimate.
      low: lower limit of its 95 % interval.
      high: upper limit of its 95 % interval.
      n: number of images behind the score; None for a comparison.
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
        judged = f"{self.judged:.4g}" if math.isfinite(self.judged) else f"undefined ({self.reason})"
        count = f", n={self.n}" if self.n is not None else ""
        return (
            f"{self.rule}: {self.model}: {self.score} {self.bound} ({WORDS[self.on]}) is "
            f"{'met' if self.is_met else 'violated'} in {self.place}: {judged}{count}"
        )


def judge(rules: Sequence[Rule], frames: Mapping[str, Frame]) -> tuple[Verdict, ...]:
    """Judges every bound of every rule in every cell that the rule is about.

    Args:
      rules: the rules, from :func:`read`.
      frames: model -> its scores.

    Returns:
      Verdicts in the order of the rules. The policy is met if all of them are.

    Raises:
      UserError: with file, line and the nearest name, for a rule that is about no cell.
    """
    return tuple(verdict for rule in rules for verdict in _of_rule(rule, frames))


def _of_rule(rule: Rule, frames: Mapping[str, Frame]) -> Iterator[Verdict]:
    """Judges one rule."""
    if rule.model is not None:
        _require(rule, rule.model, frames, "model")
    for model in [rule.model] if rule.model is not None else frames:
        for attribute, levels in rule.groups or _every_group(rule, frames[model]):
            cells_of = _metric_cells if rule.is_metric else _score_cells
            for place, cell in cells_of(rule, frames[model], attribute, levels):
                yield from _verdicts(rule, model, attribute, place, cell)


def _every_group(rule: Rule, frame: Frame) -> list[tuple[str, None]]:
    """Returns everyone and all attributes of the frame, as a rule without ``groups`` needs them.

    For a score over groups these are the attributes that have the score, or that have no two groups to compare.
    """
    if rule.is_metric:
        return [(OVERALL, None), *((a, None) for a in frame.groups)]
    is_pair = rule.name.partition(":")[0] in PAIRED
    having = [
        attribute
        for attribute, scores in frame.disparities.items()
        if is_pair or not scores or list(_keys(rule, frame, attribute))
    ]
    if not having:
        known = dict.fromkeys(key for scores in frame.disparities.values() for key in scores)
        _require(rule, rule.name, known, "score")
    return [(a, None) for a in having]


def _require(rule: Rule, name: str, known: Iterable[str], what: str, remedy: str = "") -> None:
    """Raises a UserError unless a name that a rule gives is a known one."""
    if name not in known:
        listed = ", ".join(list(known)[:20]) or "none"
        raise UserError(
            f"{rule.where}: no {what} {name!r} in this report.{did_you_mean(name, known)} There are: {listed}{remedy}"
        )


Place = tuple[str, ...]


def _metric_cells(
    rule: Rule, frame: Frame, attribute: str, levels: Place | None
) -> Iterator[tuple[Place, Estimate]]:
    """Yields (levels, estimate) for each cell that a rule on a metric is about."""
    _require(rule, rule.name, frame.overall, "metric")
    if attribute == OVERALL:
        yield (), frame.overall[rule.name]
        return
    _require(rule, attribute, [*frame.groups, OVERALL], "group", "; others with --group")
    cells = frame.groups[attribute]
    if levels is None:
        levels = tuple(level for level in cells if groupings.is_known(level))
        if not levels:
            raise UserError(
                f"{rule.where}: group {attribute!r} has no known level: name the levels that the rule is about"
            )
    for level in levels:
        _require(rule, level, cells, f"level of {attribute}")
        yield (level,), cells[level][rule.name]


def _keys(rule: Rule, frame: Frame, attribute: str) -> Iterator[tuple[str, Place, Disparity]]:
    """Yields (key, levels, comparison) of a score among the groups of an attribute, for each stratum or pair."""
    strata = (
        {level.rpartition(GIVEN)[2] for level in frame.groups[attribute]} if GIVEN in attribute else set()
    )
    for key, disparity in frame.disparities.get(attribute, {}).items():
        kind = key.partition(":")[0]
        if kind in PAIRED:
            pair = ("/" if kind == "ratio" else "-").join(disparity.levels)
            if key == f"{rule.name}:{pair}":
                yield key, disparity.levels, disparity
        elif key == rule.name:
            yield key, disparity.levels, disparity
        elif key.startswith(f"{rule.name}:") and key[len(rule.name) + 1 :] in strata:
            yield key, disparity.levels or (key[len(rule.name) + 1 :],), disparity


def _score_cells(
    rule: Rule, frame: Frame, attribute: str, levels: Place | None
) -> Iterator[tuple[Place, Disparity]]:
    """Yields (levels, comparison) for each cell that a rule on a score over groups is about."""
    if attribute == OVERALL:
        raise UserError(f"{rule.where}: {rule.name} compares groups: name an attribute instead of {OVERALL}")
    _require(rule, attribute, frame.groups, "group", "; others with --group")
    if not frame.disparities.get(attribute):
        yield (), Disparity(math.nan, math.nan, math.nan, reason="no two groups are compared")
        return
    cells = {place: disparity for _, place, disparity in _keys(rule, frame, attribute)}
    if rule.name.partition(":")[0] in PAIRED:
        _require(rule, rule.name.partition(":")[2], frame.overall, "metric")
        yield from _pair_cells(rule, frame, attribute, levels, cells)
        return
    if not cells:
        _require(rule, rule.name, frame.disparities[attribute], f"score of {attribute}")
    if levels is not None:
        raise UserError(
            f"{rule.where}: {rule.name} is about all levels of {attribute} together: name no level"
        )
    yield from cells.items()


def _pair_cells(
    rule: Rule, frame: Frame, attribute: str, levels: Place | None, cells: Mapping[Place, Disparity]
) -> Iterator[tuple[Place, Disparity]]:
    """Yields the comparison of every group but the reference; one that is missing or suppressed has no value."""
    plain_of = {
        level: level.partition(GIVEN)[0] if GIVEN in attribute else level for level in frame.groups[attribute]
    }
    base = {place[-1] for place in cells if len(place) > 1}
    if not rule.name.startswith(("to_overall", "to_rest")):
        base |= {level for level, plain in plain_of.items() if plain == frame.references.get(attribute)}
    wanted = [level for level in plain_of if groupings.is_known(level) and level not in base]
    for level in wanted if levels is None else levels:
        _require(rule, level, wanted, f"{rule.name} of {attribute}:")
        of_level = [(place, disparity) for place, disparity in cells.items() if place[0] == level]
        missing = Disparity(math.nan, math.nan, math.nan, reason="suppressed or not compared")
        yield from of_level or [((level,), missing)]


def _verdicts(
    rule: Rule, model: str, attribute: str, place: Place, cell: Estimate | Disparity
) -> Iterator[Verdict]:
    """Judges the bounds of a rule in one cell."""
    low, high = cell.limits(CONFIDENCE) if isinstance(cell, Estimate) else (cell.low, cell.high)
    numbers = {"estimate": cell.value, "lower": low, "upper": high}
    for sign, bound, nearest in ((">=", rule.low, "lower"), ("<=", rule.high, "upper")):
        if bound is None:
            continue
        on = rule.on or nearest
        judged = numbers[on]
        is_met = math.isfinite(judged) and (judged >= bound if sign == ">=" else judged <= bound)
        reason = None if math.isfinite(judged) else cell.reason or "no such limit"
        yield Verdict(
            rule.where, rule.name, model, attribute, place, f"{sign} {bound:g}", on, judged, cell.value, low, high,
            getattr(cell, "n", None), is_met, reason,
        )  # fmt: skip


def to_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Returns the part ``policy`` of ``metrics.json``."""
    return clean(
        {"is_met": all(v.is_met for v in verdicts), "verdicts": [dataclasses.asdict(v) for v in verdicts]}
    )
