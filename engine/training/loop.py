"""The training loop. Its order is law: evaluate the old state, save it, take a batch, step, write."""

import contextlib
import math
import pathlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import pandas as pd
from absl import logging

from equipoise.engine import config as run_config
from equipoise.engine import data, hosts, mesh, methods
from equipoise.engine import predicted_masks as segments
from equipoise.engine.config import Checkpoint, Evaluation, Run
from equipoise.engine.errors import UserError
from equipoise.engine.methods.base import Method
from equipoise.engine.metrics.frame import evaluate as metric_frame
from equipoise.engine.metrics.table.table import write_table
from equipoise.engine.provenance import stamp
from equipoise.engine.rundir import RunFolder
from equipoise.engine.training import population, writers
from equipoise.engine.training.checkpoint import Checkpoints
from equipoise.engine.training.machine import Machine
from equipoise.engine.training.population import Population
from equipoise.engine.update.state import TrainState
from equipoise.engine.update.task import TaskKind


class Preempted(Exception):
    """The run was asked to stop, and saved itself first."""


class Diverged(UserError):
    """The loss or its gradient is no longer finite."""


@contextlib.contextmanager
def _on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; the loop looks at it between steps."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


class _Record:
    """What one run leaves in its folder: checkpoints, predictions, rows of metrics.

    Metrics since the last row was written survive a restart through the checkpoint.
    """

    def __init__(
        self,
        config: Run,
        workdir: pathlib.Path,
        checkpoints: Checkpoints,
        step: int,
        window: list[dict[str, float]],
    ):
        """Goes on from a step, and deletes what was written after it.

        Args:
          config: the run.
          workdir: its folder.
          checkpoints: of the run; the newest is that of ``step``.
          step: to go on from; 0 starts the run.
          window: metrics of updates up to ``step`` that no row holds yet.
        """
        self.config, self.workdir, self.checkpoints = config, workdir, checkpoints
        self.last_good = step or None
        self._best: float | None = None
        self._window, self._step = list(window), step
        for number, path in RunFolder(workdir).validations().items():
            if number > step and hosts.is_main():
                path.unlink()
        self.writer = writers.make(config.writers, workdir, step, is_main=hosts.is_main())

    def take(self, fresh: list[dict[str, float]]) -> None:
        """Adds the metrics of updates.

        Raises:
          Diverged: when one is not finite.
        """
        for number, values in enumerate(fresh, start=self._step + 1):
            bad = [k for k, v in values.items() if not math.isfinite(v)]
            if bad:
                end = self._step + len(fresh)
                kept = (
                    f"the last good checkpoint is step {self.last_good}"
                    if self.last_good
                    else "no checkpoint had been saved"
                )
                raise Diverged(
                    f"{' and '.join(bad)} not finite at update {number} (steps {self._step + 1} to {end} were looked at "
                    f"together) in {self.workdir}; {kept}. "
                    "Try a lower --config.optimizer.learning_rate or --config.optimizer.clip_norm=1."
                )
        if fresh:
            self._best = None  # what was evaluated belongs to the step before
        self._step += len(fresh)
        self._window += fresh

    def flush(self, step: int) -> dict[str, float]:
        """Writes and returns the mean of every metric since the last flush."""
        names = dict.fromkeys(k for values in self._window for k in values)
        each = {name: [values[name] for values in self._window if name in values] for name in names}
        means = {name: sum(found) / len(found) for name, found in each.items()}
        self._window = []
        self.writer.write(step, "train", means)
        return means

    def evaluate(
        self, task: TaskKind, frame: pd.DataFrame, loss: float, split: data.Split, cost: dict[str, int]
    ) -> dict[str, float]:
        """Keeps validation predictions of this step; writes their metrics, and what it took to get here, and returns the metrics."""
        config, step = self.config, self._step
        threshold, chosen_on = task.choose_threshold(config.task.threshold, frame)
        frame = stamp(frame, config, step, threshold, chosen_on)
        described = task.schema(split)
        if hosts.is_main():
            write_table(RunFolder(self.workdir).validation(step), segments.split_off(frame)[0], described)
        values = {"loss": loss} | task.metrics(frame)
        best = config.checkpoint.best_metric
        if best not in values:
            values[best] = metric_frame.select_value(frame, best, described)[0]
        self._best = values[best] if step > config.method.starts_after else None
        self.writer.write(step, "validation", values | cost)
        return values

    def save(self, state: TrainState) -> None:
        """Starts saving this step, as the best so far if its evaluation says so."""
        self.checkpoints.save(state, {"window": self._window}, self._best)
        self.last_good = self._step


def _mean(each: list[dict[str, float]]) -> dict[str, float]:
    """Over members, for the console."""
    return {name: sum(values[name] for values in each) / len(each) for name in each[0]}


def _claim(config: Run, workdir: pathlib.Path) -> Checkpoints:
    """Takes the folder of one run, and opens its checkpoints.

    Raises:
      UserError: where the folder holds another run.
    """
    run_config.claim(workdir, config, write=hosts.is_main())
    hosts.wait("claimed")
    higher = metric_frame.higher_is_better(config.checkpoint.best_metric)
    return Checkpoints(workdir, keep=config.checkpoint.keep, higher_is_better=higher)


def _restore(
    checkpoints: list[Checkpoints], machine: Machine | Population
) -> tuple[int, Any, list[list[dict[str, float]]]]:
    """(the newest step that every member has a sound checkpoint of, the state there, every member's window of metrics)."""
    while True:
        restored = [member.restore_newest(machine.abstract()) for member in checkpoints]
        steps = {int(pair[0].step) if pair else 0 for pair in restored}
        if len(steps) == 1:
            break
        for member in checkpoints:
            member.forget_after(min(steps))
    (step,) = steps
    windows = [pair[1]["window"] if pair else [] for pair in restored]
    return step, machine.join([pair[0] for pair in restored]) if step else machine.init(), windows


def _is_due(every: Evaluation | Checkpoint, method: Method, step: int) -> bool:
    if not every.every_cycles:
        return step % every.every_steps == 0
    cycle = method.cycle(step)
    return cycle is not None and cycle % every.every_cycles == 0


def train(config: Run, task: TaskKind, data_dir: pathlib.Path, workdir: pathlib.Path) -> list[TrainState]:
    """Trains until ``config.num_steps``, going on from the newest sound checkpoint in ``workdir``.

    Args:
      config: validated.
      task: the task kind, made for this cohort.
      data_dir: where cohorts are prepared.
      workdir: the run's folder; created, or continued when it holds the same configuration.

    Returns:
      The final state of every member: one, where the run is no population.

    Raises:
      UserError: another configuration lives in ``workdir``; a full disk.
      Diverged: the loss stopped being finite.
      Preempted: SIGTERM came; the state was saved.
    """
    training = data.open_split(config.data.cohort, config.data.train_split, data_dir)
    validation = data.open_split(config.data.cohort, config.data.validation_split, data_dir)
    config = methods.make(config, training).resolved()
    machine = population.make(config, task, training)
    machine.abstract()  # a network that does not fit the images is refused before the folder is taken
    run_config.claim(workdir, config, write=hosts.is_main())
    for split in (training, validation):
        task.warn(split, config.data)
    folders = population.folders(workdir, config)
    checkpoints = list(map(_claim, machine.members, folders))
    start, state, windows = _restore(checkpoints, machine)
    logging.info("training on %s, from step %d to %d", mesh.describe(), start, config.num_steps)
    records = [
        _Record(member, folder, saved, start, window)
        for member, folder, saved, window in zip(machine.members, folders, checkpoints, windows, strict=True)
    ]
    pending: list[Any] = []

    def fetch() -> None:
        """Brings the metrics of pending updates to the host."""
        fresh = [machine.rows(metrics) for metrics in jax.device_get(pending)]
        pending.clear()
        for i, record in enumerate(records):
            record.take([rows[i] for rows in fresh])

    console = writers.make_console(config.writers, start, config.num_steps, is_main=hosts.is_main())
    stream = data.Waiting(mesh.prefetch(machine.batches.iterate(start), machine.runner.shard))
    is_alone = hosts.count() == 1  # several hosts need time to agree to stop, so they ask now and then
    clock, clock_step, clock_wait = time.perf_counter(), start, 0.0

    try:
        with _on_sigterm() as asked:
            for step in range(start, config.num_steps + 1):
                is_last = step == config.num_steps
                is_due = step > start and (is_last or _is_due(config.evaluation, machine.method, step))
                if is_due:
                    jax.block_until_ready(state)  # so that pending updates are timed as training
                pause = time.perf_counter()
                if is_due:
                    fetch()
                    scored = machine.predict_members(state, validation)
                    cost = machine.method.cost(step, machine.split(state)[0])
                    each = zip(records, scored, strict=True)
                    values = [record.evaluate(task, *found, validation, cost) for record, found in each]
                    console.write(step, "validation", _mean(values))
                stop = (is_alone or step % config.writers.every_steps == 0) and hosts.agree(asked.is_set())
                if step > start and (is_last or stop or _is_due(config.checkpoint, machine.method, step)):
                    fetch()
                    for record, one in zip(records, machine.split(state), strict=True):
                        record.save(one)
                clock += time.perf_counter() - pause
                if is_last or stop:
                    break
                state, metrics = machine.train_step(step)(state, next(stream))
                pending.append(metrics)
                if (step + 1) % config.writers.every_steps == 0 or step + 1 == config.num_steps:
                    fetch()
                    console.write(step + 1, "train", _mean([record.flush(step + 1) for record in records]))
                    spent = time.perf_counter() - clock
                    rate = (step + 1 - clock_step) * config.data.batch_size / spent
                    share = (stream.seconds - clock_wait) / spent
                    for record in records:
                        record.writer.timing(step + 1, {"examples_per_second": rate, "wait_share": share})
                    every = {"examples_per_second": rate * len(records), "wait_share": share}
                    console.timing(step + 1, every)
                    clock, clock_step, clock_wait = time.perf_counter(), step + 1, stream.seconds
            for record in records:
                record.checkpoints.wait()
    finally:
        console.close()
        for record in records:
            record.writer.close()
            record.checkpoints.close()
    if stop and not is_last:
        raise Preempted(f"asked to stop: saved step {step} in {workdir}; the same command goes on from there")
    return machine.split(state)
