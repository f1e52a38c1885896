"""The training loop. Its order is law: evaluate the old state, save it, take a batch, step, write."""

import contextlib
import math
import pathlib
import signal
import threading
import time
from collections.abc import Iterator

import jax
from absl import logging

from engine import config as run_config
from engine import data, mesh, writers
from engine.checkpoint import Checkpoints
from engine.config import Run, UserError
from engine.evaluate import Program, schema, stamp, validation_path
from engine.metrics import frame as metric_frame
from engine.metrics.table import write_table
from engine.step import TaskKind, TrainState, make_train_step


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


class _Window:
    """Training metrics since the last row was written; survives a restart through the checkpoint."""

    def __init__(self, values: list[dict[str, float]], start: int):
        self._host, self._device, self._start = list(values), [], start

    def add(self, metrics: dict[str, jax.Array]) -> None:
        self._device.append(metrics)

    def fetch(self, last_good: int | None) -> list[dict[str, float]]:
        """Brings values to the host.

        Raises:
          Diverged: when one is not finite.
        """
        fresh = [{k: float(v) for k, v in m.items()} for m in jax.device_get(self._device)]
        self._device = []
        for number, values in enumerate(fresh, start=self._start + 1):
            bad = [k for k, v in values.items() if not math.isfinite(v)]
            if bad:
                end = self._start + len(fresh)
                kept = (
                    f"the last good checkpoint is step {last_good}"
                    if last_good
                    else "no checkpoint had been saved"
                )
                raise Diverged(
                    f"{' and '.join(bad)} not finite at update {number} (steps {self._start + 1} to {end} were looked at "
                    f"together); {kept}. Try a lower --config.optimizer.learning_rate or --config.optimizer.clip_norm=1."
                )
        self._start += len(fresh)
        self._host += fresh
        return self._host

    def flush(self, last_good: int | None) -> dict[str, float]:
        """The mean of every metric since the last flush."""
        values = self.fetch(last_good)
        self._host = []
        return {k: sum(v[k] for v in values) / len(values) for k in values[0]}


def _evaluate(
    program: Program, state: TrainState, split: data.Split, workdir: pathlib.Path
) -> dict[str, float]:
    """Scores the validation split, keeps its predictions, returns its metrics."""
    config, task = program.config, program.task
    frame, loss = program.predict(state, split)
    threshold, chosen_on = task.choose_threshold(config.task.threshold, frame)
    frame = stamp(frame, config, int(state.step), threshold, chosen_on)
    described = schema(config, task, split)
    if mesh.is_main():
        write_table(validation_path(workdir, int(state.step)), frame, described)
    values = {"loss": loss} | task.metrics(frame)
    best = config.checkpoint.best_metric
    if best not in values:
        values[best] = metric_frame.select_value(frame, best, described)[0]
    return values


def train(config: Run, task: TaskKind, data_dir: pathlib.Path, workdir: pathlib.Path) -> TrainState:
    """Trains until ``config.num_steps``, going on from the newest sound checkpoint in ``workdir``.

    Args:
      config: validated.
      task: the task kind, made for this cohort.
      data_dir: where cohorts are prepared.
      workdir: the run's folder; created, or continued when it holds the same configuration.

    Returns:
      The final state.

    Raises:
      UserError: another configuration lives in ``workdir``; a full disk.
      Diverged: the loss stopped being finite.
      Preempted: SIGTERM came; the state was saved.
    """
    training = data.open_split(config.data.cohort, config.data.train_split, data_dir)
    validation = data.open_split(config.data.cohort, config.data.validation_split, data_dir)
    higher = metric_frame.higher_is_better(config.checkpoint.best_metric)
    program = Program(config, task, data.batch_shape(training, config.data))
    runner = program.runner
    batches = data.TrainBatches(training, config.data, config.task.label, config.seed)
    run_config.claim(workdir, config, write=mesh.is_main())
    mesh.wait_for_hosts("claimed")
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep, higher_is_better=higher)

    restored = checkpoints.restore_newest(program.abstract())
    state, extra = restored if restored else (program.init(), {"window": []})
    start = int(state.step)
    for path in (workdir / "validation").glob("*.parquet"):
        if int(path.stem) > start and mesh.is_main():
            path.unlink()
    logging.info("training on %s, from step %d to %d", mesh.describe(), start, config.num_steps)

    train_step = runner.train(
        make_train_step(config, program.model, task, program.optimizer, runner.axis_name)
    )
    writer = writers.make(config.writers, workdir, start, config.num_steps, is_main=mesh.is_main())
    stream = data.Waiting(mesh.prefetch(batches.iterate(start), runner.shard))
    window = _Window(extra["window"], start)
    last_good: int | None = start if restored else None
    is_alone = mesh.num_hosts() == 1  # several hosts need time to agree to stop, so they ask now and then
    clock, clock_step, clock_wait = time.perf_counter(), start, 0.0

    try:
        with _on_sigterm() as asked:
            for step in range(start, config.num_steps + 1):
                is_last = step == config.num_steps
                is_due = step > start and (is_last or step % config.evaluation.every_steps == 0)
                best: float | None = None
                if is_due:
                    jax.block_until_ready(state)  # so that pending updates are timed as training
                pause = time.perf_counter()
                if is_due:
                    window.fetch(last_good)
                    values = _evaluate(program, state, validation, workdir)
                    best = values[config.checkpoint.best_metric]
                    writer.write(step, "validation", values)
                stop = (is_alone or step % config.writers.every_steps == 0) and mesh.any_host(asked.is_set())
                if step > start and (is_last or stop or step % config.checkpoint.every_steps == 0):
                    extra = {"window": window.fetch(last_good)}
                    checkpoints.save(state, extra, best)
                    last_good = step
                clock += time.perf_counter() - pause
                if is_last or stop:
                    break
                state, metrics = train_step(state, next(stream))
                window.add(metrics)
                if (step + 1) % config.writers.every_steps == 0 or step + 1 == config.num_steps:
                    writer.write(step + 1, "train", window.flush(last_good))
                    spent = time.perf_counter() - clock
                    rate = (step + 1 - clock_step) * config.data.batch_size / spent
                    share = (stream.seconds - clock_wait) / spent
                    writer.timing(step + 1, {"examples_per_second": rate, "wait_share": share})
                    clock, clock_step, clock_wait = time.perf_counter(), step + 1, stream.seconds
            checkpoints.wait()
    finally:
        writer.close()
        checkpoints.close()
    if stop and not is_last:
        raise Preempted(f"asked to stop: saved step {step} in {workdir}; the same command goes on from there")
    return state
