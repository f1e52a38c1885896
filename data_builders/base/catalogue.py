"""The cohorts that ship, and the way from the name of a cohort to its builder."""

import dataclasses
import importlib
import pathlib
from typing import Any

from equipoise.data_builders.base.cohort import Cohort
from equipoise.engine.errors import UserError, did_you_mean

COHORTS = {
    "fundus_phantom": "equipoise.data_builders.fundus_phantom.builder:FundusPhantom",
    "harvard_fairseg": "equipoise.data_builders.harvard.fairseg:HarvardFairseg",
    "simba": "equipoise.data_builders.simba.builder:Simba",
    "table": "equipoise.data_builders.table.builder:TableCohort",
}
"""Name of a cohort -> its builder, ``module:Class``. Every builder of the package that is no base class stands here."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """The lines of one cohort in ``equipoise prepare --list``.

    Attributes:
      name: of the cohort.
      description: the first line of its builder's docstring; empty where the builder cannot be imported.
      configs: names of its configurations.
      problem: why its builder cannot be imported; empty where it can.
    """

    name: str
    description: str = ""
    configs: tuple[str, ...] = ()
    problem: str = ""


def _import(builder: str) -> type[Cohort]:
    """Imports the class that ``module:Class`` names."""
    module, _, name = builder.partition(":")
    return getattr(importlib.import_module(module), name)


def list_cohorts() -> list[Entry]:
    """Lists every cohort that ships; one whose builder cannot be imported is listed with the reason."""
    entries = []
    for name, builder in COHORTS.items():
        try:
            cls = _import(builder)
        except Exception as error:  # a package that is missing or broken must not hide the other cohorts
            reason = " ".join(str(error).split())
            entries.append(Entry(name, problem=f"{type(error).__name__}: {reason}"))
            continue
        description = (cls.__doc__ or "").strip().partition("\n")[0]
        entries.append(Entry(name, description, tuple(config.name for config in cls.BUILDER_CONFIGS)))
    return entries


def find_builder(
    name: str, *, data_dir: pathlib.Path, source_dir: pathlib.Path | None = None, **options: Any
) -> Cohort:
    """Finds the builder of a cohort, such as ``simba/near_4mm`` or ``my_pkg.module:Builder[/config]``.

    Args:
      name: of the cohort, with its configuration where it has some.
      data_dir: folder of prepared cohorts.
      source_dir: folder of the cohort's raw files.
      **options: settings, for cohorts that have some.

    Raises:
      UserError: for a name, configuration or setting that does not exist, and for a builder that cannot be imported.
    """
    base, _, config = name.partition("/")
    if ":" in base:
        try:
            cls = _import(base)
        except (ImportError, AttributeError) as error:
            raise UserError(f"--cohort={name}: {error}") from error
        if not (isinstance(cls, type) and issubclass(cls, Cohort)):
            raise UserError(f"--cohort={name}: the class is not a subclass of equipoise.data_builders.Cohort")
    elif base in COHORTS:
        try:
            cls = _import(COHORTS[base])
        except ImportError as error:
            raise UserError(f"cohort {base!r} cannot be imported: {error}") from error
    else:
        raise UserError(f"no cohort {base!r}.{did_you_mean(base, COHORTS)} See `equipoise prepare --list`.")
    known = [c.name for c in cls.BUILDER_CONFIGS]
    if options:
        return cls(data_dir=data_dir, source_dir=source_dir, config=cls.configure(config, **options))
    if known and config not in known:
        raise UserError(
            f"cohort {base!r} has no configuration {config!r}.{did_you_mean(config, known)} There are: {', '.join(known)}"
        )
    return cls(data_dir=data_dir, source_dir=source_dir, **({"config": config} if config else {}))
