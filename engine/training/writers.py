"""Where a run's numbers go: the console, two JSONL files, TensorBoard.

``metrics.jsonl`` holds no times, so that two equal runs write equal bytes; ``timing.jsonl`` holds them. Every writer has the
same three methods; ``Noop`` does nothing in them.
"""

import json
import math
import os
import pathlib
import sys
import time
from typing import Any, Protocol

import rich.console
import rich.progress

from equipoise.engine import files
from equipoise.engine.config import Writers
from equipoise.engine.rundir import RunFolder


class Writer(Protocol):
    """What the loop calls."""

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Records metrics of ``split`` at ``step``."""

    def timing(self, step: int, values: dict[str, float]) -> None:
        """Records how fast it went (examples_per_second, wait_share) up to ``step``."""

    def close(self) -> None:
        """Flushes."""


class Noop:
    """Writes nothing: the writer of every host but the main one."""

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Does nothing."""

    def timing(self, step: int, values: dict[str, float]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def _append(path: pathlib.Path, row: dict[str, Any]) -> None:
    """Adds a line; numbers that are not finite become null, since JSON has none."""
    is_bad = lambda value: isinstance(value, float) and not math.isfinite(value)  # noqa: E731
    clean = {name: None if is_bad(value) else value for name, value in row.items()}
    with path.open("a") as stream:
        stream.write(json.dumps(clean) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; a last line cut short by a crash is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Jsonl:
    """``metrics.jsonl`` and ``timing.jsonl``, both cut back to ``start`` when a run goes on from there."""

    def __init__(self, workdir: pathlib.Path, start: int):
        run = RunFolder(workdir)
        self._metrics, self._timing = run.metrics, run.timing
        for path in (self._metrics, self._timing):
            kept = [row for row in read_rows(path) if row["step"] <= start] if start else []
            files.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Appends one line."""
        _append(self._metrics, {"step": step, "split": split, **values})

    def timing(self, step: int, values: dict[str, float]) -> None:
        """Appends one line."""
        _append(self._timing, {"step": step, **values})

    def close(self) -> None:
        """Every line is on disk already."""


class TensorBoard:
    """Scalars under ``workdir/tensorboard``, named ``split/metric``."""

    def __init__(self, workdir: pathlib.Path, start: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            str(RunFolder(workdir).tensorboard), purge_step=start + 1 if start else None
        )

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Adds scalars."""
        for name, value in values.items():
            self._writer.add_scalar(f"{split}/{name}", value, step)

    def timing(self, step: int, values: dict[str, float]) -> None:
        """Adds scalars."""
        self.write(step, "timing", values)

    def close(self) -> None:
        """Flushes."""
        self._writer.close()


class Console:
    """A live bar with step, loss, examples per second and time left; plain lines where output is not a terminal."""

    def __init__(self, start: int, num_steps: int):
        self._num_steps, self._loss, self._started = num_steps, math.nan, (time.perf_counter(), start)
        self._console = rich.console.Console(file=sys.stdout, highlight=False)
        self._live = self._console.is_terminal
        self._last_line = -math.inf
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("training"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[info]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._progress.add_task("training", total=num_steps, completed=start, info="compiling")
        self._progress.start()

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Prints evaluations; remembers the training loss for the bar."""
        if split == "train":
            self._loss = values["loss"]
        else:
            text = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
            self._console.print(f"step {step:>6}  {split}  {text}", soft_wrap=True)

    def timing(self, step: int, values: dict[str, float]) -> None:
        """Moves the bar; without a terminal, prints a line at most every 10 seconds."""
        rate, wait = values["examples_per_second"], values["wait_share"]
        info = f"loss {self._loss:.4f}  {rate:.1f} examples/s  waiting for data {wait:.0%}"
        self._progress.update(self._task, completed=step, info=info)
        now = time.perf_counter()
        if not self._live and (now - self._last_line > 10 or step == self._num_steps):
            self._last_line = now
            began, first = self._started
            left = (now - began) / max(step - first, 1) * (self._num_steps - step)
            self._console.print(
                f"step {step:>6}/{self._num_steps}  {info}  {left:.0f} s left", soft_wrap=True
            )

    def close(self) -> None:
        """Stops the bar."""
        self._progress.stop()


class Many:
    """Several writers as one."""

    def __init__(self, *writers: Writer):
        self._writers = writers

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Calls every writer."""
        for writer in self._writers:
            writer.write(step, split, values)

    def timing(self, step: int, values: dict[str, float]) -> None:
        """Calls every writer."""
        for writer in self._writers:
            writer.timing(step, values)

    def close(self) -> None:
        """Calls every writer."""
        for writer in self._writers:
            writer.close()


def make(config: Writers, workdir: pathlib.Path, start: int, is_main: bool) -> Writer:
    """The writer of the files that a configuration asks for; only the main host writes."""
    if not is_main:
        return Noop()
    writers: list[Writer] = [Jsonl(workdir, start)]
    if config.tensorboard:
        writers.append(TensorBoard(workdir, start))
    return Many(*writers)


def make_console(config: Writers, start: int, num_steps: int, is_main: bool) -> Writer:
    """The writer of the console, where a configuration asks for one; only the main host prints."""
    return Console(start, num_steps) if config.console and is_main else Noop()
