"""Choosing a checkpoint of a run, and opening it."""

import pathlib

from equipoise.engine.config import Run
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.frame import evaluate as metric_frame
from equipoise.engine.rundir import RunFolder
from equipoise.engine.training.checkpoint import Checkpoints, Damaged
from equipoise.engine.training.machine import Machine
from equipoise.engine.training.writers import read_rows
from equipoise.engine.update.state import TrainState


def best_step(workdir: pathlib.Path, config: Run, available: list[int]) -> int:
    """The available checkpoint with the best validation metric; the earliest of equals.

    A checkpoint from before the method was in force is never the best.

    Raises:
      UserError: when none of them was evaluated.
    """
    metric = config.checkpoint.best_metric
    sign = 1 if metric_frame.higher_is_better(metric) else -1
    evaluations = [
        row
        for row in read_rows(RunFolder(workdir).metrics)
        if row["split"] == "validation"
        and row["step"] in available
        and row["step"] > config.method.starts_after
        and row.get(metric) is not None
    ]
    if not evaluations:
        raise UserError(
            f"no checkpoint in {workdir} has a validation {metric}: choose one with --step=last or --step=N"
        )
    return max(evaluations, key=lambda row: (sign * row[metric], -row["step"]))["step"]


def choose_steps(workdir: pathlib.Path, config: Run, wanted: str) -> list[int]:
    """The steps that ``best``, ``last``, ``all`` or a number mean, among those that have checkpoints.

    Args:
      workdir: folder of the run.
      config: the run.
      wanted: one of these words, or a number.

    Raises:
      UserError: when no checkpoint is meant; the message names those that exist.
    """
    available = []
    if RunFolder(workdir).checkpoints.is_dir():
        with Checkpoints(workdir, read_only=True) as checkpoints:
            available = checkpoints.steps()
    if not available:
        raise UserError(f"{workdir} has no checkpoint yet: train it first with `equipoise train`")
    if wanted == "best":
        return [best_step(workdir, config, available)]
    if wanted == "last":
        return [available[-1]]
    if wanted == "all":
        return available
    if wanted.isdigit() and int(wanted) in available:
        return [int(wanted)]
    raise UserError(f"--step={wanted}: give best, last, all or one of {', '.join(map(str, available))}")


def restore(machine: Machine, workdir: pathlib.Path, step: int) -> TrainState:
    """Opens one checkpoint of a run.

    Raises:
      UserError: when it is damaged.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        try:
            return checkpoints.restore(machine.abstract(), step)[0]
        except Damaged as error:
            raise UserError(f"checkpoint {error}. Choose another with --step, e.g. --step=last.") from error
