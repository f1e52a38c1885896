"""A trained run, opened: its checkpoints, and a machine that can predict with each of them."""

import dataclasses
import pathlib
from collections.abc import Callable

from equipoise.engine import config as run_config
from equipoise.engine import data
from equipoise.engine.config import Run
from equipoise.engine.training import choosing, population
from equipoise.engine.training.machine import Machine
from equipoise.engine.update.state import TrainState
from equipoise.engine.update.task import TaskKind

MakeTask = Callable[[Run, data.Split], TaskKind]  # such as equipoise.tasks.make_task


@dataclasses.dataclass(frozen=True)
class OpenCheckpoint:
    """One checkpoint of one run.

    Attributes:
      workdir: the run's folder; of a population, the member's.
      machine: made for that run.
      step: of the checkpoint.
    """

    workdir: pathlib.Path
    machine: Machine
    step: int

    def restore(self) -> TrainState:
        """The state.

        Raises:
          UserError: when the checkpoint is damaged.
        """
        return choosing.restore(self.machine, self.workdir, self.step)


@dataclasses.dataclass(frozen=True)
class OpenRun:
    """A run with the checkpoints that were asked for.

    Attributes:
      config: of the run; of a population, of its first member.
      task: made for the run's cohort.
      training: the split that the run was trained on.
      checkpoints: of every member, member by member.
    """

    config: Run
    task: TaskKind
    training: data.Split
    checkpoints: list[OpenCheckpoint]


def open_run(
    workdir: pathlib.Path,
    make_task: MakeTask,
    data_dir: pathlib.Path,
    step: str = "best",
    *,
    num_devices: int | None = None,
    before: str = "",
) -> OpenRun:
    """Opens a run, or every member of a population.

    Args:
      workdir: the run's folder.
      make_task: makes the task from the configuration and the training split.
      data_dir: where cohorts are prepared.
      step: ``best``, ``last``, ``all`` or a number.
      num_devices: to use; 0: every one; None: as the run was trained.
      before: operations that change images before the run's own preprocessing, written like ``data.preprocess``.

    Raises:
      UserError: where the folder holds no run, or no such checkpoint.
    """
    config = run_config.load(workdir)
    folders = population.folders(workdir, config)
    training = data.open_split(config.data.cohort, config.data.train_split, data_dir)
    task = make_task(config, training)
    first = population.members(config)[0]
    if num_devices is not None:
        first.parallel = dataclasses.replace(config.parallel, num_devices=num_devices)
    operations = "|".join(filter(None, [before, first.data.preprocess]))
    machine = Machine(run_config.replaced(first, **{"data.preprocess": operations}), task, training)
    checkpoints = [
        OpenCheckpoint(folder, machine.as_member(run_config.load(folder)), number)
        for folder in folders
        for number in choosing.choose_steps(folder, first, step)
    ]
    return OpenRun(first, task, training, checkpoints)
