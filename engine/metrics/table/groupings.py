"""How a table's rows fall into groups: the levels of attributes, of intersections, and of either within control strata."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.table.table import Schema
from equipoise.engine.vocabulary import UNKNOWN

JOIN, GIVEN = "*", "|"


def levels_of(frame: pd.DataFrame, schema: Schema, attribute: str) -> list[str]:
    """Levels to show, in the schema's order; ``unknown`` last and only where someone is."""
    if attribute not in schema.attributes:
        raise UserError(
            f"no attribute {attribute!r}.{did_you_mean(attribute, schema.attributes)} There are: {', '.join(schema.attributes)}"
        )
    levels = schema.attributes[attribute]
    if levels is None:
        raise UserError(f"attribute {attribute!r} is a number and has no groups")
    known = [level for level in levels if level != UNKNOWN]
    return [*known, UNKNOWN] if (frame[attribute] == UNKNOWN).any() else known


@dataclasses.dataclass(frozen=True)
class Grouping:
    """The levels of an attribute, an intersection, or either within control strata.

    Attributes:
      name: such as ``race*sex|site``.
      group: the same without the control, such as ``race*sex``.
      levels: such as ``Black*F|A``.
      plain: the same without the stratum, such as ``Black*F``.
      code: [n] level of each row; -1 for a row whose level is left out.
      compared: stratum (empty without control) -> numbers of its known levels.
      filled: [levels] whether anyone is in it.
      first: number of the first level's set of rows.
    """

    name: str
    group: str
    levels: list[str]
    plain: list[str]
    code: Int[np.ndarray, " n"] = dataclasses.field(repr=False)
    compared: dict[str, list[int]]
    filled: Bool[np.ndarray, " levels"] = dataclasses.field(repr=False)
    first: int = 0


def grouping(frame: pd.DataFrame, schema: Schema, group: str, control: Sequence[str]) -> Grouping:
    """Levels of an attribute as the schema orders them; of intersections and strata those that someone is in."""
    attributes = attributes_of(group, schema)
    code, parts = np.zeros(len(frame), np.int64), []
    for attribute in (*attributes, *control):
        parts.append(levels_of(frame, schema, attribute))
        code = code * len(parts[-1]) + pd.Index(parts[-1]).get_indexer(frame[attribute])
    if len(parts) > 1:
        present, code = np.unique(code, return_inverse=True)
    else:
        present = np.arange(len(parts[0]))
    levels, plain, compared = [], [], {}
    for number, place in enumerate(np.transpose(np.unravel_index(present, [len(p) for p in parts]))):
        words = [part[i] for part, i in zip(parts, place, strict=True)]
        stratum = JOIN.join(words[len(attributes) :])
        plain.append(JOIN.join(words[: len(attributes)]))
        levels.append(plain[-1] + (GIVEN + stratum if control else ""))
        if UNKNOWN not in words:
            compared.setdefault(stratum, []).append(number)
    name = group + (GIVEN + JOIN.join(control) if control else "")
    filled = np.bincount(code, minlength=len(levels)) > 0
    return Grouping(name, group, levels, plain, code, compared, filled)


def without(grouping: Grouping, hidden: Collection[tuple[str, str]]) -> Grouping:
    """A grouping in which nobody is in the hidden (grouping, level)s, so that nothing computed from it is about them."""
    left = np.array([(grouping.name, level) not in hidden for level in grouping.levels])
    code = np.where(left[grouping.code], grouping.code, -1)
    return dataclasses.replace(grouping, code=code, filled=grouping.filled & left)


def rests(grouping: Grouping) -> list[Grouping]:
    """For each level with images, of strata with three or more such levels: the other known levels of its stratum, as one."""
    found = []
    for known in grouping.compared.values():
        filled = [i for i in known if grouping.filled[i]]
        for number in filled if len(filled) > 2 else ():
            others = np.isin(grouping.code, [i for i in filled if i != number])
            level, plain = grouping.levels[number], grouping.plain[number]
            code = np.where(others, 0, -1)
            found.append(
                Grouping(f"rest:{level}", grouping.group, [level], [plain], code, {}, np.ones(1, bool))
            )
    return found


def pairs(grouping: Grouping) -> dict[str, str]:
    """Level -> the other one, of strata with two levels that have images: each is the rest of the other."""
    found = {}
    for known in grouping.compared.values():
        filled = [grouping.levels[i] for i in known if grouping.filled[i]]
        if len(filled) == 2:
            found |= dict(zip(filled, filled[::-1], strict=True))
    return found


def is_known(level: str) -> bool:
    """Whether no part of a level, of an intersection or a stratum, is unknown."""
    return UNKNOWN not in level.replace(GIVEN, JOIN).split(JOIN)


def attributes_of(group: str, schema: Schema) -> list[str]:
    """Of an intersection; an attribute whose own name holds the sign is itself."""
    return [group] if group in schema.attributes else group.split(JOIN)


def references(grouping: Grouping, wanted: Mapping[str, str]) -> dict[str, int]:
    """Stratum -> number of the reference level, of the strata with two levels to compare.

    Raises:
      UserError: for a level that the attribute does not have.
    """
    group, plain = grouping.group, grouping.plain
    if group in wanted and wanted[group] not in plain:
        raise UserError(
            f"reference {wanted[group]!r} is no level of {group!r}.{did_you_mean(wanted[group], plain)} "
            f"There are: {', '.join(dict.fromkeys(plain))}"
        )
    found = {}
    for stratum, known in grouping.compared.items():
        numbers = [i for i in known if grouping.filled[i]]
        if len(numbers) > 1:
            first = wanted.get(group, plain[numbers[0]])
            found[stratum] = next((i for i in numbers if plain[i] == first), numbers[0])
    return found
