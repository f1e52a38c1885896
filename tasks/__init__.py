"""Task kinds and studies.

:data:`KINDS` lists what a run can learn (``config.task.kind``); :func:`make_task` makes it for a cohort. A study is a folder:
``runs.py`` (its runs, ``--config=STUDY:NAME``), and where it has them ``study.py`` (the whole study from one command),
``analysis.py`` (what it adds to the report of a run, :func:`find_analysis`). What several studies use stands in ``kit``.
"""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import types
from typing import TYPE_CHECKING

from absl import logging

from equipoise.engine.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from equipoise.engine import data
    from equipoise.engine.config import Run
    from equipoise.engine.update.task import TaskKind

KINDS = {  # name -> the function that makes it from a run and the split that it is trained on
    "classification": "equipoise.tasks.kinds.classification:make",
    "segmentation": "equipoise.tasks.kinds.segmentation:make",
}


def make_task(config: Run, split: data.Split) -> TaskKind:
    """The task that ``config.task.kind`` names, made for a cohort.

    Raises:
      UserError: when there is no such kind.
    """
    kind = config.task.kind
    if kind not in KINDS:
        raise UserError(
            f"--config.task.kind={kind!r} is none of {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}"
        )
    module, _, function = KINDS[kind].partition(":")
    return getattr(importlib.import_module(module), function)(config, split)


def studies(part: str) -> list[str]:
    """Names of the studies that have a file ``PART.py``: ``runs`` or ``study``."""
    return sorted(file.parent.name for root in __path__ for file in pathlib.Path(root).glob(f"*/{part}.py"))


def find_study(name: str) -> types.ModuleType:
    """The module of a whole study, with ``SIZES``, ``OPTIONS``, ``plan`` and ``write``.

    Args:
      name: of a study here, or a module elsewhere, which has a dot in its name.

    Raises:
      UserError: where there is none.
    """
    module = name if "." in name else f"{__name__}.{name}.study"
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        known = studies("study")
        raise UserError(
            f"--study={name}: no such study.{did_you_mean(name, known)} There are: {', '.join(known)}; or give a module"
        )
    return importlib.import_module(module)


def find_analysis(study: str, cohort: str = "") -> types.ModuleType | None:
    """The module whose ``sections(context)`` a study adds to the report of one of its runs.

    Args:
      study: ``Run.study``: the name of a folder here, or the module of an analysis elsewhere. Runs trained by earlier versions
        have none: then the first word of the cohort's name is tried, and a warning says so.
      cohort: that is reported.

    Returns:
      The module; None where the study has no analysis, or where the module cannot be imported here, with a warning.
    """
    if "." in study:
        try:
            return importlib.import_module(study)
        except ModuleNotFoundError as error:
            logging.warning("the report lacks what %s adds to it: %s", study, error)
            return None
    name = study or cohort.split("/", maxsplit=1)[0]
    folder = f"{__name__}.{name}"
    if not name.isidentifier() or not importlib.util.find_spec(folder):
        return None
    if not importlib.util.find_spec(f"{folder}.analysis"):
        return None
    if not study:
        logging.warning(
            "config.json of the run names no study: the analysis of %r is used, after the name of the cohort; "
            "train with --config=STUDY:NAME, or set --config.study",
            name,
        )
    return importlib.import_module(f"{folder}.analysis")
