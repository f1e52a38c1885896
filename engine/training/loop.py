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
from equipoise.engine import data, hosts, mesh, methods, models
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


def _open_checkpoints(config: Run, workdir: pathlib.Path) -> Checkpoints:
    """Claims the folder of one run, and opens the checkpoints in it."""
    run_config.claim(workdir, config, write=hosts.is_main())
    hosts.wait("claimed")
    higher = metric_frame.higher_is_better(config.checkpoint.best_metric)
    return Checkpoints(workdir, keep=config.checkpoint.keep, higher_is_better=higher)


class _Record:
    """What one run leaves in its folder: checkpoints, predictions, rows of metrics.

    It goes on from a step, and forgets what was written after it. Metrics since the last row was written survive a restart
    through the checkpoint.

    Attributes:
      config: the run.
      workdir: its folder.
      checkpoints: its checkpoints, open.
      last_good: the newest step with a checkpoint; None where there is none.
    """

    def __init__(
        self,
        config: Run,
        workdir: pathlib.Path,
        checkpoints: Checkpoints,
        step: int,
        window: list[dict[str, float]],
    ):
        """Starts where a run goes on.

        Args:
          config: the run.
          workdir: its folder, which it has claimed.
          checkpoints: from :func:`_open_checkpoints`.
          step: where to go on; 0 is the beginning.
          window: metrics of the updates before it that no row holds yet.
        """
        self.config, self.workdir, self.checkpoints = config, workdir, checkpoints
        self.last_good = step or None
        self._best: float | None = None
        self._window, self._step = list(window), step
        for number, path in RunFolder(workdir).validations().items():
            if number > step and hosts.is_main():
                path.unlink()
        self.writer = writers.make(config.writers, workdir, step, is_main=hosts.is_main())

    def take(self, updates: list[dict[str, float]]) -> None:
        """Adds the metrics of the next updates, in their order.

        Raises:
          Diverged: when one is not finite.
        """
        for number, values in enumerate(updates, start=self._step + 1):
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if bad:
                end = self._step + len(updates)
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
        if updates:
            self._best = None  # what was evaluated belongs to the step before
        self._step += len(updates)
        self._window += updates

    def flush(self, step: int) -> dict[str, float]:
        """Writes and returns the mean of every metric since the last flush."""
        names = dict.fromkeys(name for metrics in self._window for name in metrics)
        series = {name: [metrics[name] for metrics in self._window if name in metrics] for name in names}
        means = {name: sum(values) / len(values) for name, values in series.items()}
        self._window = []
        self.writer.write(step, "train", means)
        return means

    def evaluate(
        self, task: TaskKind, frame: pd.DataFrame, loss: float, split: data.Split, cost: dict[str, int]
    ) -> dict[str, float]:
        """Judges the validation predictions of this step and keeps them.

        Args:
          task: the run's task.
          frame: the predictions, from :meth:`Machine.predict`.
          loss: the mean loss over the images.
          split: the split that was scored.
          cost: what it cost to get to this step, written beside the metrics.

        Returns:
          The metrics, by name.
        """
        config, step = self.config, self._step
        threshold, chosen_on = task.choose_threshold(config.task.threshold, frame)
        frame = stamp(frame, config, step, threshold, chosen_on)
        schema = task.schema(split)
        if hosts.is_main():
            write_table(RunFolder(self.workdir).validation(step), segments.split_off(frame)[0], schema)
        values = {"loss": loss} | task.metrics(frame)
        best = config.checkpoint.best_metric
        if best not in values:
            values[best] = metric_frame.select_value(frame, best, schema)[0]
        self._best = values[best] if step > config.method.starts_after else None
        self.writer.write(step, "validation", values | cost)
        return values

    def save(self, state: TrainState) -> None:
        """Starts saving this step, as the best so far if its evaluation says so."""
        self.checkpoints.save(state, {"window": self._window}, self._best)
        self.last_good = self._step


def _mean(members: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over members, for the console."""
    return {name: sum(metrics[name] for metrics in members) / len(members) for name in members[0]}


def _restore(
    stores: list[Checkpoints], machine: Machine | Population
) -> tuple[int, Any, list[list[dict[str, float]]]]:
    """Restores the newest step that every member has a sound checkpoint of.

    Returns:
      (step, the machine's state there, every member's metrics that no row holds yet); step 0 and a fresh state where there
      is no checkpoint.
    """
    while True:
        restored = [store.restore_newest(machine.abstract()) for store in stores]
        steps = {int(checkpoint[0].step) if checkpoint else 0 for checkpoint in restored}
        if len(steps) == 1:
            break
        for store in stores:
            store.forget_after(min(steps))
    (step,) = steps
    if not step:
        return 0, machine.init(), [[] for _ in stores]
    return step, machine.join([state for state, _ in restored]), [extra["window"] for _, extra in restored]


def _is_due(settings: Evaluation | Checkpoint, method: Method, step: int) -> bool:
    """Whether an evaluation, or a checkpoint, is to be made after so many updates."""
    if not settings.every_cycles:
        return step % settings.every_steps == 0
    cycle = method.cycle(step)
    return cycle is not None and cycle % settings.every_cycles == 0


def train(config: Run, task: TaskKind, data_dir: pathlib.Path, workdir: pathlib.Path) -> list[TrainState]:
    """Trains until ``config.num_steps`` updates are made, going on from the newest sound checkpoint in ``workdir``.

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

    # Go on from the newest checkpoint.
    folders = population.folders(workdir, config)
    stores = [_open_checkpoints(*run) for run in zip(machine.members, folders, strict=True)]
    start, state, windows = _restore(stores, machine)
    records = [
        _Record(member, folder, store, start, window)
        for member, folder, store, window in zip(machine.members, folders, stores, windows, strict=True)
    ]
    logging.info(
        "training %s parameters on %s, from step %d to %d",
        f"{models.num_parameters(machine.abstract().params):,}", mesh.describe(), start, config.num_steps,
    )  # fmt: skip

    # Metrics of updates stay on the devices until they are asked for: the host waits for no update.
    pending: list[Any] = []

    def fetch() -> None:
        """Brings the metrics of pending updates to the host."""
        updates = [machine.rows(metrics) for metrics in jax.device_get(pending)]
        pending.clear()
        for place, record in enumerate(records):
            record.take([members[place] for members in updates])

    console = writers.make_console(config.writers, start, config.num_steps, is_main=hosts.is_main())
    stream = data.Waiting(mesh.prefetch(machine.batches.iterate(start), machine.runner.shard))
    is_alone = hosts.count() == 1  # several hosts need time to agree to stop, so they ask now and then
    clock, clock_step, clock_wait = time.perf_counter(), start, 0.0

    try:
        with _on_sigterm() as was_asked:
            for step in range(start, config.num_steps + 1):
                is_last = step == config.num_steps
                is_due = step > start and (is_last or _is_due(config.evaluation, machine.method, step))
                if is_due:
                    jax.block_until_ready(state)  # so that pending updates are timed as training
                pause = time.perf_counter()

                # Evaluate the old state.
                if is_due:
                    fetch()
                    scored = machine.predict_members(state, validation)
                    cost = machine.method.cost(step, machine.split(state)[0])
                    judged = [
                        record.evaluate(task, frame, loss, validation, cost)
                        for record, (frame, loss) in zip(records, scored, strict=True)
                    ]
                    console.write(step, "validation", _mean(judged))

                # Save it.
                stop = (is_alone or step % config.writers.every_steps == 0) and hosts.agree(
                    was_asked.is_set()
                )
                if step > start and (is_last or stop or _is_due(config.checkpoint, machine.method, step)):
                    fetch()
                    for record, member in zip(records, machine.split(state), strict=True):
                        record.save(member)
                clock += time.perf_counter() - pause
                if is_last or stop:
                    break

                # Take a batch and step.
                state, metrics = machine.train_step(step)(state, next(stream))
                pending.append(metrics)

                # Write.
                if (step + 1) % config.writers.every_steps == 0 or step + 1 == config.num_steps:
                    fetch()
                    console.write(step + 1, "train", _mean([record.flush(step + 1) for record in records]))
                    spent = time.perf_counter() - clock
                    rate = (step + 1 - clock_step) * config.data.batch_size / spent
                    share = (stream.seconds - clock_wait) / spent
                    for record in records:
                        record.writer.timing(step + 1, {"examples_per_second": rate, "wait_share": share})
                    rate_of_all = rate * len(records)
                    console.timing(step + 1, {"examples_per_second": rate_of_all, "wait_share": share})
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
