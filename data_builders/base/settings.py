"""The settings of a cohort: a dataclass whose values are checked, and which the name of the cohort states in full."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from equipoise.engine.errors import UserError, did_you_mean

_KINDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def fields(cls: type[tfds.core.BuilderConfig]) -> list[dataclasses.Field]:
    """Returns the settings of a configuration, without the fields that every TFDS configuration has."""
    common = {f.name for f in dataclasses.fields(tfds.core.BuilderConfig)}
    return [f for f in dataclasses.fields(cls) if f.name not in common]


def check_kinds(cohort: str, cls: type[tfds.core.BuilderConfig], values: Mapping[str, Any]) -> None:
    """Checks that every value belongs to a setting, and has the type of its default.

    Raises:
      UserError: naming the cohort and the setting.
    """
    settings = {f.name: f for f in fields(cls)}
    for name, value in values.items():
        if name not in settings:
            raise UserError(
                f"{cohort} has no setting {name!r}.{did_you_mean(name, settings)} It has: {', '.join(sorted(settings))}"
            )
        kind = type(settings[name].default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UserError(f"{cohort}: {name}={value!r} must be {_KINDS[kind]}")


def unknown_choices(config: Any, choices: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Returns setting -> what is wrong with it, for every setting whose value is none of its choices."""
    return {
        name: f"is none of {', '.join(known)}.{did_you_mean(getattr(config, name), known)}".removesuffix(".")
        for name, known in choices.items()
        if getattr(config, name) not in known
    }


def refuse(cohort: str, config: Any, problems: Mapping[str, str | bool]) -> None:
    """Raises UserError for the first setting with a problem; False and "" mean that there is none."""
    for name, problem in problems.items():
        if problem:
            raise UserError(f"{cohort}: {name}={getattr(config, name)!r} {problem}")


def changed(
    config: Any, usual: Any, but: Collection[str] = (), texts: Mapping[str, str] | None = None
) -> list[str]:
    """Returns the words of a configuration's name: one for every setting that differs from ``usual``.

    Args:
      config: that is named.
      usual: a configuration whose values the name leaves out.
      but: settings that the name states in another way.
      texts: setting -> text that the name holds in place of its value.
    """
    words = []
    for f in fields(type(config)):
        value = getattr(config, f.name)
        if f.name not in but and value != getattr(usual, f.name):
            # Twelve digits: with fewer, two seeds would share a name, and so a folder.
            text = value if isinstance(value, str) else f"{value:.12g}"
            words.append(f"{f.name}{(texts or {}).get(f.name, text)}")
    return words


def fingerprint(*files: str) -> str:
    """Returns ten hexadecimal digits that depend on the contents of files, not on their paths.

    Raises:
      UserError: when a file is missing.
    """
    digest = hashlib.sha256()
    for file in files:
        path = pathlib.Path(file).expanduser()
        if not path.is_file():
            raise UserError(f"no file {file}")
        state = path.stat()
        digest.update(_content(path.resolve(), state.st_size, state.st_mtime_ns))
    return digest.hexdigest()[:10]


@functools.lru_cache(maxsize=4096)
def _content(path: pathlib.Path, _size: int, _changed: int) -> bytes:
    """Returns the digest of a file; a file that does not change is read once."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
