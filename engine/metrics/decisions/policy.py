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
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import yaml

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas import fairness, registry
from equipoise.engine.metrics.frames.disparities import Disparity
from equipoise.engine.metrics.frames.export import CONFIDENCE, clean
from equipoise.engine.metrics.frames.frame import Frame
from equipoise.engine.metrics.table.groupings import GIVEN
from equipoise.engine.vocabulary import UNKNOWN

OVERALL = "overall"
_PAIRED = ("difference", "ratio", "to_overall", "to_rest", "xauc_disparity")
_EXTREME = ("worst_group", "max_min", "max_over_min", "sd")
_KEYS = ("metric", "score", "groups", "min", "max", "on", "model")
_ENDS = ("estimate", "lower", "upper")
WORDS = {"estimate": "estimate", "lower": "lower limit", "upper": "upper limit"}


@dataclasses.dataclass(frozen=True)
class Rule:
    """One bound or two on one score.

    Attributes:
      name: of the metric, or of the score over groups.
      is_metric: which of the two it is.
      groups: (``overall``, an attribute or an intersection; its levels, or None for all); None for all that the report has.
      low: smallest value allowed, or None.
      high: largest value allowed, or None.
      on: what is held against the bounds; None: the end of the interval that is nearest to breaking each.
      model: whose score; None for every model's.
      where: file and line, for messages.
    """

    name: str
    is_metric: bool
    groups: tuple[tuple[str, tuple[str, ...] | None], ...] | None
    low: float | None
    high: float | None
    on: Literal["estimate", "lower", "upper"] | None
    model: str | None
    where: str


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


class _File:
    """A YAML file whose every mistake is told with its line."""

    def __init__(self, path: pathlib.Path):
        self._name = path.name
        try:
            self.root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except FileNotFoundError as error:
            raise UserError(f"no policy file {path}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"policy file {path} cannot be read: {error}") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            raise UserError(
                f"{self._name}{line}: no valid YAML: {getattr(error, 'problem', error)}"
            ) from error
        if self.root is None:
            raise UserError(f"{self._name}: the file is empty; write rules: and a list below it")

    def where(self, node: yaml.Node) -> str:
        return f"{self._name}:{node.start_mark.line + 1}"

    def refuse(self, node: yaml.Node, problem: str) -> None:
        raise UserError(f"{self.where(node)}: {problem}")

    def mapping(self, node: yaml.Node, known: Sequence[str], what: str) -> dict[str, yaml.Node]:
        """Its values by key; of ``known`` keys only, where there are any."""
        if not isinstance(node, yaml.MappingNode):
            self.refuse(node, f"{what} must be a mapping, KEY: VALUE")
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self.text(key, "a key")
            if known and name not in known:
                self.refuse(
                    key, f"unknown key {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}"
                )
            if name in found:
                self.refuse(key, f"key {name!r} stands twice")
            found[name] = value
        return found

    def text(self, node: yaml.Node, what: str) -> str:
        """As it is written: a level may look like a number or like a truth value."""
        if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null" or not node.value:
            self.refuse(node, f"{what} must be text")
        return node.value

    def number(self, node: yaml.Node, what: str) -> float:
        """A finite number, written without quotes."""
        try:
            value = (
                float(node.value) if isinstance(node, yaml.ScalarNode) and node.style is None else math.nan
            )
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.refuse(node, f"{what} must be a finite number, such as 0.8")
        return value

    def items(self, node: yaml.Node) -> list[yaml.Node]:
        """Of a list; what is no list stands for itself."""
        return node.value if isinstance(node, yaml.SequenceNode) else [node]


def read(path: pathlib.Path) -> tuple[Rule, ...]:
    """The rules of a file.

    Raises:
      UserError: with file and line: for a file that is missing or no YAML, an unknown key, metric or score, a value of the wrong
        type, or a rule without a bound.
    """
    file = _File(pathlib.Path(path))
    top = file.mapping(file.root, ("rules",), "a policy")
    nodes = file.items(top["rules"]) if "rules" in top else []
    if not nodes:
        file.refuse(file.root, "no rule: write rules: and a list below it")
    return tuple(_rule(file, node) for node in nodes)


def _rule(file: _File, node: yaml.Node) -> Rule:
    found = file.mapping(node, _KEYS, "a rule")
    named = [key for key in ("metric", "score") if key in found]
    if len(named) != 1:
        file.refuse(node, "a rule names either a metric or a score over groups")
    name = file.text(found[named[0]], named[0])
    problem = _unknown(name, named[0] == "metric")
    if problem:
        file.refuse(found[named[0]], problem)
    low, high = (file.number(found[k], k) if k in found else None for k in ("min", "max"))
    if low is None and high is None:
        file.refuse(node, "a rule needs a bound: min, max or both")
    if low is not None and high is not None and low > high:
        file.refuse(found["min"], f"min {low:g} is above max {high:g}: nothing can keep both")
    on = file.text(found["on"], "on") if "on" in found else None
    if on is not None and on not in _ENDS:
        file.refuse(found["on"], f"on: {on!r} is none of {', '.join(_ENDS)}.{did_you_mean(on, _ENDS)}")
    groups = tuple(_groups(file, found["groups"])) if "groups" in found else None
    model = file.text(found["model"], "model") if "model" in found else None
    return Rule(name, named[0] == "metric", groups, low, high, on, model, file.where(node))


def _groups(file: _File, node: yaml.Node) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """``race``; ``[overall, race*sex]``; ``{race: [Black, White]}``; any of these in a list."""
    for item in file.items(node):
        if not isinstance(item, yaml.MappingNode):
            yield file.text(item, "a group"), None
            continue
        for attribute, levels in file.mapping(item, (), "groups").items():
            named = tuple(file.text(level, "a level") for level in file.items(levels))
            if not named or attribute == OVERALL:
                file.refuse(levels, f"{attribute}: name its levels in a list, or write {attribute} alone")
            yield attribute, named


def _unknown(name: str, is_metric: bool) -> str | None:
    """What is wrong with the name of a metric or score, or None."""
    kind, _, rest = name.partition(":")
    is_score = (
        kind in (*_PAIRED, *_EXTREME) or kind.removeprefix("conditional_") in fairness.SCORES or kind.startswith("equity_scaled")
    )  # fmt: skip
    if is_metric and is_score:
        return f"{name!r} is a score over groups: write score: {name}"
    if not is_metric and not is_score:
        known = (*_PAIRED, *_EXTREME, *fairness.SCORES)
        return f"no score over groups {name!r}.{did_you_mean(kind, known)} There are: {', '.join(known)}"
    try:
        if is_metric or kind in (*_PAIRED, *_EXTREME):
            registry.get(kind if is_metric else rest.partition(":")[0])
        else:
            fairness.get(name.removeprefix("conditional_"))
    except UserError as error:
        return str(error)
    return None


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
    is_pair = rule.name.partition(":")[0] in _PAIRED
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
        levels = tuple(level for level in cells if _is_known(level))
        if not levels:
            raise UserError(f"{rule.where}: group {attribute!r} has no level: name what it is about")
    for level in levels:
        _find(rule, level, cells, f"level of {attribute}")
        yield (level,), cells[level][rule.name]


def _is_known(level: str) -> bool:
    """Whether all parts of an intersection or stratum are: people of unknown group are no group."""
    return UNKNOWN not in level.replace(GIVEN, "*").split("*")


def _keys(rule: Rule, frame: Frame, attribute: str) -> Iterator[tuple[str, Place, Disparity]]:
    """(key, place, comparison) of a score in a grouping, in each stratum or of each pair."""
    strata = (
        {level.rpartition(GIVEN)[2] for level in frame.groups[attribute]} if GIVEN in attribute else set()
    )
    for key, found in frame.disparities.get(attribute, {}).items():
        kind = key.partition(":")[0]
        if kind in _PAIRED:
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
    if rule.name.partition(":")[0] in _PAIRED:
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
    wanted = [level for level in plain_of if _is_known(level) and level not in base]
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
