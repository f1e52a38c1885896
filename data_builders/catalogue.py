"""Which cohorts there are, and how a name becomes a builder."""

import dataclasses
import importlib
import pathlib
import pkgutil
from typing import Any

import data_builders
from data_builders.cohort import Cohort
from engine.config import UserError, did_you_mean

_SHARED = {
    "catalogue",
    "cohort",
    "harvard",
    "splits",
    "readers",
    "cache",
    "settings",
}  # modules that hold no cohort


@dataclasses.dataclass(frozen=True)
class Listed:
    """One line of ``equipoise prepare --list``."""

    name: str
    description: str
    configs: tuple[str, ...]


def _modules() -> list[str]:
    """Modules that hold a cohort: all but the shared ones, and parts of another (``simba_template`` of ``simba``)."""
    names = {m.name for m in pkgutil.iter_modules(data_builders.__path__)} - _SHARED
    return sorted(name for name in names if not any(name.startswith(f"{other}_") for other in names))


def _class_in(module: Any) -> type[Cohort]:
    found = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Cohort) and c.__module__ == module.__name__
    ]
    return found[0]


def list_cohorts() -> list[Listed]:
    """Every cohort that ships, with its configurations."""
    listed = []
    for name in _modules():
        cls = _class_in(importlib.import_module(f"data_builders.{name}"))
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        listed.append(Listed(name, summary, tuple(c.name for c in cls.BUILDER_CONFIGS)))
    return listed


def find_builder(
    name: str, *, data_dir: pathlib.Path, source_dir: pathlib.Path | None = None, **options: Any
) -> Cohort:
    """The builder of ``simba/near_4mm`` or of ``my_pkg.module:Builder[/config]``.

    Args:
      name: of the cohort, with its configuration if it has any.
      data_dir: where it is or will be prepared.
      source_dir: folder of the raw cohort.
      **options: settings, for cohorts that have some.

    Raises:
      UserError: for a name, configuration or setting that does not exist.
    """
    base, _, config = name.partition("/")
    if ":" in base:
        module_name, _, class_name = base.partition(":")
        try:
            cls = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise UserError(f"--cohort={name}: {error}") from error
        if not (isinstance(cls, type) and issubclass(cls, Cohort)):
            raise UserError(f"--cohort={name}: {class_name} is not a subclass of data_builders.cohort.Cohort")
    elif base in _modules():
        cls = _class_in(importlib.import_module(f"data_builders.{base}"))
    else:
        raise UserError(
            f"no cohort {base!r}.{did_you_mean(base, _modules())} See `equipoise prepare --list`."
        )
    known = [c.name for c in cls.BUILDER_CONFIGS]
    if options:
        return cls(data_dir=data_dir, source_dir=source_dir, config=cls.configure(config, **options))
    if known and config not in known:
        raise UserError(
            f"cohort {base!r} has no configuration {config!r}.{did_you_mean(config, known)} There are: {', '.join(known)}"
        )
    return cls(data_dir=data_dir, source_dir=source_dir, **({"config": config} if config else {}))
