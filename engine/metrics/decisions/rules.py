"""Rules of a policy, read from a YAML file whose every mistake is reported with its line."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Literal, NoReturn

import yaml

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.formulas import fairness, registry

OVERALL = "overall"
PAIRED = ("difference", "ratio", "to_overall", "to_rest", "xauc_disparity")
_EXTREME = ("worst_group", "max_min", "max_over_min", "sd")
_KEYS = ("metric", "score", "groups", "min", "max", "on", "model")
_ENDS = ("estimate", "lower", "upper")


@dataclasses.dataclass(frozen=True)
class Rule:
    """One or two bounds on one score.

    Attributes:
      name: name of the metric, or of the score over groups.
      is_metric: whether it is a metric, and not a score over groups.
      groups: (``overall``, an attribute or an intersection; its levels, or None for all); None for all groups of the report.
      low: smallest allowed value, or None.
      high: largest allowed value, or None.
      on: number that is compared with the bounds; None for the end of the interval that breaks a bound first.
      model: name of the model; None for every model.
      where: file and line of the rule, for messages.
    """

    name: str
    is_metric: bool
    groups: tuple[tuple[str, tuple[str, ...] | None], ...] | None
    low: float | None
    high: float | None
    on: Literal["estimate", "lower", "upper"] | None
    model: str | None
    where: str


class _YamlFile:
    """A YAML file that reports every mistake with its line."""

    def __init__(self, path: pathlib.Path):
        """Reads a file.

        Raises:
          UserError: if the file is missing, unreadable, empty or no YAML.
        """
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
            raise UserError(f"{self._name}: the file is empty: write rules: and a list below it")

    def where(self, node: yaml.Node) -> str:
        """Returns the file and line of a node."""
        return f"{self._name}:{node.start_mark.line + 1}"

    def refuse(self, node: yaml.Node, problem: str) -> NoReturn:
        """Raises a UserError that names the line of a node."""
        raise UserError(f"{self.where(node)}: {problem}")

    def mapping(self, node: yaml.Node, known: Sequence[str], what: str) -> dict[str, yaml.Node]:
        """Returns the values of a mapping by key.

        Args:
          node: the mapping.
          known: allowed keys; all are allowed if there is none.
          what: name of the mapping in messages.
        """
        if not isinstance(node, yaml.MappingNode):
            self.refuse(node, f"{what} must be a mapping, KEY: VALUE")
        values: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self.text(key, "a key")
            if known and name not in known:
                self.refuse(
                    key, f"unknown key {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}"
                )
            if name in values:
                self.refuse(key, f"key {name!r} is there twice")
            values[name] = value
        return values

    def text(self, node: yaml.Node, what: str) -> str:
        """Returns a text as it is written: a level may look like a number or like a truth value."""
        if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null" or not node.value:
            self.refuse(node, f"{what} must be text")
        return node.value

    def number(self, node: yaml.Node, what: str) -> float:
        """Returns a finite number, which is written without quotes."""
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
        """Returns the items of a list; a single value counts as a list of one."""
        return node.value if isinstance(node, yaml.SequenceNode) else [node]


def read(path: pathlib.Path) -> tuple[Rule, ...]:
    """Reads the rules of a file.

    Raises:
      UserError: with file and line, for a file that is missing or no YAML, an unknown key, metric or score, a value of the wrong
        type, or a rule without a bound.
    """
    file = _YamlFile(pathlib.Path(path))
    top = file.mapping(file.root, ("rules",), "a policy")
    nodes = file.items(top["rules"]) if "rules" in top else []
    if not nodes:
        file.refuse(file.root, "there is no rule: write rules: and a list below it")
    return tuple(_rule(file, node) for node in nodes)


def _rule(file: _YamlFile, node: yaml.Node) -> Rule:
    """Reads one rule."""
    entries = file.mapping(node, _KEYS, "a rule")
    named = [key for key in ("metric", "score") if key in entries]
    if len(named) != 1:
        file.refuse(node, "a rule names either a metric or a score over groups")
    name = file.text(entries[named[0]], named[0])
    problem = _unknown(name, named[0] == "metric")
    if problem:
        file.refuse(entries[named[0]], problem)
    low, high = (file.number(entries[k], k) if k in entries else None for k in ("min", "max"))
    if low is None and high is None:
        file.refuse(node, "a rule needs a bound: min, max or both")
    if low is not None and high is not None and low > high:
        file.refuse(entries["min"], f"min {low:g} is above max {high:g}, so that no value can keep both")
    on = file.text(entries["on"], "on") if "on" in entries else None
    if on is not None and on not in _ENDS:
        file.refuse(entries["on"], f"on: {on!r} is none of {', '.join(_ENDS)}.{did_you_mean(on, _ENDS)}")
    groups = tuple(_groups(file, entries["groups"])) if "groups" in entries else None
    model = file.text(entries["model"], "model") if "model" in entries else None
    return Rule(name, named[0] == "metric", groups, low, high, on, model, file.where(node))


def _groups(file: _YamlFile, node: yaml.Node) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """Reads ``race``, ``[overall, race*sex]``, ``{race: [Black, White]}``, or a list of any of these."""
    for item in file.items(node):
        if not isinstance(item, yaml.MappingNode):
            yield file.text(item, "a group"), None
            continue
        for attribute, levels in file.mapping(item, (), "groups").items():
            named = tuple(file.text(level, "a level") for level in file.items(levels))
            if not named or attribute == OVERALL:
                file.refuse(
                    levels, f"{attribute}: name its levels in a list, or write {attribute} without levels"
                )
            yield attribute, named


def _unknown(name: str, is_metric: bool) -> str | None:
    """Says what is wrong with the name of a metric or score, or returns None."""
    kind, _, rest = name.partition(":")
    is_score = (
        kind in (*PAIRED, *_EXTREME) or kind.removeprefix("conditional_") in fairness.SCORES or kind.startswith("equity_scaled")
    )  # fmt: skip
    if is_metric and is_score:
        return f"{name!r} is a score over groups: write score: {name}"
    if not is_metric and not is_score:
        known = (*PAIRED, *_EXTREME, *fairness.SCORES)
        return f"no score over groups {name!r}.{did_you_mean(kind, known)} There are: {', '.join(known)}"
    try:
        if is_metric or kind in (*PAIRED, *_EXTREME):
            registry.get(kind if is_metric else rest.partition(":")[0])
        else:
            fairness.get(name.removeprefix("conditional_"))
    except UserError as error:
        return str(error)
    return None
