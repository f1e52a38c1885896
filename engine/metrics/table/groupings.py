"""Groupings of a table's rows: by the levels of attributes or intersections, also within control strata."""

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
    """Returns the levels of an attribute in the schema's order; ``unknown`` comes last, and only if it has rows.

    Raises:
      UserError: for an unknown attribute, or one that is a number.
    """
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
      name: name of the grouping, such as ``race*sex|site``.
      group: the same without the control, such as ``race*sex``.
      levels: names of the levels, such as ``Black*F|A``.
      plain: the same without the stratum, such as ``Black*F``.
      code: [n] number of each row's level; -1 if the level is left out.
      compared: stratum (empty without control) -> numbers of its known levels.
      filled: [levels] whether each level has rows.
      first: number of the first level's set of rows in a bootstrap.
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
    """Groups the rows of a table.

    Args:
      frame: one row per image.
      schema: schema of the frame.
      group: attribute or intersection.
      control: attributes whose levels form the strata.

    Returns:
      The grouping. The levels of a single attribute have the schema's order; of intersections and strata only those with rows are kept.
    """
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
    """Returns a grouping without the rows of hidden levels, so that nothing computed from it is about them.

    Args:
      grouping: the grouping.
      hidden: (name of a grouping, level) of each hidden cell.
    """
    kept = np.array([(grouping.name, level) not in hidden for level in grouping.levels])
    code = np.where(kept[grouping.code], grouping.code, -1)
    return dataclasses.replace(grouping, code=code, filled=grouping.filled & kept)


def rests(grouping: Grouping) -> list[Grouping]:
    """Returns the rest of each level: the other known levels of its stratum, taken together.

    Only levels with images count, and only strata with three or more of them have rests.
    """
    groupings_of_rests = []
    for known in grouping.compared.values():
        filled = [i for i in known if grouping.filled[i]]
        for number in filled if len(filled) > 2 else ():
            others = np.isin(grouping.code, [i for i in filled if i != number])
            level, plain = grouping.levels[number], grouping.plain[number]
            code = np.where(others, 0, -1)
            groupings_of_rests.append(
                Grouping(f"rest:{level}", grouping.group, [level], [plain], code, {}, np.ones(1, bool))
            )
    return groupings_of_rests


def pairs(grouping: Grouping) -> dict[str, str]:
    """Returns level -> the other level, for strata with exactly two known levels that have images: each is the rest of the other."""
    other_of = {}
    for known in grouping.compared.values():
        filled = [grouping.levels[i] for i in known if grouping.filled[i]]
        if len(filled) == 2:
            other_of |= dict(zip(filled, filled[::-1], strict=True))
    return other_of


def is_known(level: str) -> bool:
    """Returns whether every part of a level is known: each attribute of an intersection, and the stratum."""
    return UNKNOWN not in level.replace(GIVEN, JOIN).split(JOIN)


def attributes_of(group: str, schema: Schema) -> list[str]:
    """Returns the attributes of an intersection; an attribute whose own name holds the sign ``*`` is itself."""
    return [group] if group in schema.attributes else group.split(JOIN)


def references(grouping: Grouping, wanted: Mapping[str, str]) -> dict[str, int]:
    """Returns stratum -> number of its reference level, for the strata with two or more levels to compare.

    Args:
      grouping: the grouping.
      wanted: attribute or intersection -> reference level; by default the first level that has images.

    Raises:
      UserError: for a level that the attribute does not have.
    """
    group, plain = grouping.group, grouping.plain
    if group in wanted and wanted[group] not in plain:
        raise UserError(
            f"reference {wanted[group]!r} is no level of {group!r}.{did_you_mean(wanted[group], plain)} "
            f"There are: {', '.join(dict.fromkeys(plain))}"
        )
    reference_of = {}
    for stratum, known in grouping.compared.items():
        numbers = [i for i in known if grouping.filled[i]]
        if len(numbers) > 1:
            first = wanted.get(group, plain[numbers[0]])
            reference_of[stratum] = next((i for i in numbers if plain[i] == first), numbers[0])
    return reference_of
