"""The groups that training knows: levels of an attribute, or of an intersection of attributes, numbered from 0."""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Int

from equipoise.engine.data import Split
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.table.groupings import JOIN
from equipoise.engine.vocabulary import UNKNOWN

NOBODY = -1  # the number of an image that is in no group


@dataclasses.dataclass(frozen=True)
class Groups:
    """Groups that have images to train on.

    Attributes:
      name: an attribute, or several joined as ``race*sex``.
      levels: the level of each group, such as ``Black*F``, in the cohort's order.
    """

    name: str
    levels: tuple[str, ...]

    def code(self, split: Split) -> Int[np.ndarray, " n"]:
        """[n] the group of every image of a split; -1 where an attribute is unknown or its level had no image to train on.

        Raises:
          UserError: when the split's cohort lacks the attribute.
        """
        places = {level: number for number, level in enumerate(self.levels)}
        return np.asarray([places.get(level, NOBODY) for level in _levels(split, self.name)], np.int32)


def trained(split: Split, name: str, *, setting: str = "group", least: int = 2) -> Groups:
    """The groups that have at least one image in a training split; an unknown level makes no group.

    Args:
      split: the split to train on.
      name: the attribute, or intersection of attributes.
      setting: the field of ``config.method`` that names it, for error messages.
      least: how many groups the method needs at least.

    Raises:
      UserError: for an attribute that does not exist, is a number, or has too few levels with images.
    """
    words = _vocabulary(split, name, setting)
    known = itertools.product(*([level for level in levels if level != UNKNOWN] for levels in words))
    present = set(_levels(split, name))
    levels = tuple(level for level in map(JOIN.join, known) if level in present)
    if len(levels) < least:
        raise UserError(
            f"--config.method.{setting}={name}: the images of {split.cohort!r} {split.name!r} are in "
            f"{len(levels)} group(s) ({', '.join(levels) or 'all unknown'}); a method needs at least {least}"
        )
    return Groups(name, levels)


def _attributes(split: Split, name: str) -> list[str]:
    return [name] if name in split.vocabulary("attributes") else name.split(JOIN)


def _vocabulary(split: Split, name: str, setting: str = "group") -> list[list[str]]:
    """The levels of every attribute that a name is made of."""
    levels, known = [], split.vocabulary("attributes")
    for attribute in _attributes(split, name):
        if attribute not in known:
            raise UserError(
                f"--config.method.{setting}={name}: cohort {split.cohort!r} has no attribute {attribute!r}."
                f"{did_you_mean(attribute, known)} It has: {', '.join(known) or 'none'}"
            )
        if known[attribute] is None:
            raise UserError(f"--config.method.{setting}={name}: {attribute!r} is a number and has no groups")
        levels.append(known[attribute])
    return levels


def _levels(split: Split, name: str) -> list[str]:
    """The level of every image; where one attribute is unknown, so is the intersection."""
    _vocabulary(split, name)
    columns = (split.columns[attribute] for attribute in _attributes(split, name))
    return [UNKNOWN if UNKNOWN in row else JOIN.join(row) for row in zip(*columns, strict=True)]
