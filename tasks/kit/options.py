"""The options of a study (``--options=NAME=VALUE,...``): its own, and settings that it hands on to its cohort."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from equipoise.engine.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Count:
    """A whole number.

    Attributes:
      default: its value where the option is not given; None leaves the number to the study.
      least: the smallest number that is allowed.
    """

    default: int | None
    least: int = 1


def read(
    study: str, options: Mapping[str, Any], own: Mapping[str, Any], settings: Collection[str], listed: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Checks options, and separates those of the study from those of the cohort.

    Args:
      study: what the message calls it, such as ``simba`` or ``fairseg at size demo``.
      options: name -> value, as given.
      own: name -> default, a :class:`Count` for whole numbers.
      settings: names of the cohort's settings, which its builder checks.
      listed: all options in words, for the message.

    Returns:
      (every option of ``own`` with its value, the settings that were given).

    Raises:
      UserError: for an unknown option, or where a whole number is expected and the value is another or too small.
    """
    known = {*own, *settings}
    for name in options:
        if name not in known:
            raise UserError(
                f"--options: {study} has no {name!r}.{did_you_mean(name, known)} It has: {listed}"
            )
    values = {}
    for name, default in own.items():
        if isinstance(default, Count):
            value = options.get(name, default.default)
            if value is not None and not (type(value) is int and value >= default.least):
                raise UserError(f"--options: {name}={value} must be a whole number above {default.least - 1}")
        else:
            value = options.get(name, default)
        values[name] = value
    return values, {name: value for name, value in options.items() if name not in own}
