"""The task kinds and the studies built from them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from equipoise.engine.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from equipoise.engine import data
    from equipoise.engine.config import Run
    from equipoise.engine.update.task import TaskKind

KINDS = ("classification", "segmentation")


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
    return importlib.import_module(f"equipoise.tasks.kinds.{kind}").make(config, split)
