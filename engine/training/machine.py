"""A run made concrete: model, method, optimizer and compiled functions, up to the prediction table of a split."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from equipoise.engine import data, mesh, methods, models
from equipoise.engine.config import Run, replaced
from equipoise.engine.training.step import init_state, make_predict_step, make_train_step
from equipoise.engine.update import optim
from equipoise.engine.update.preprocess import preprocessed_shape
from equipoise.engine.update.state import TrainState
from equipoise.engine.update.task import TaskKind


@dataclasses.dataclass
class Machine:
    """A configuration made concrete: model, method, optimizer, runner and the compiled functions.

    Attributes:
      config: the run.
      task: the task, made for the run's cohort.
      training: the split to train on; it says what shape an image has and which groups there are.
      image_shape: [*spatial, channel] of a preprocessed image.
      method: how groups or sites enter training.
      runner: compiles functions for this run's devices, and places arrays on them.
      model: the network.
      optimizer: the optax chain.
      predict_step: compiled prediction, (variables, batch) -> scores.
    """

    config: Run
    task: TaskKind
    training: data.Split

    def __post_init__(self):
        config = self.config
        self.image_shape = preprocessed_shape(config, data.batch_shape(self.training, config.data))
        self.method = methods.make(config, self.training)
        self.runner = mesh.make_runner(config)
        self.model = models.build(
            config.model.name,
            num_outputs=self.task.num_outputs,
            dtype=config.model.dtype,
            axis_name=self.runner.axis_name,
            **config.model.args,
        )
        self.optimizer = optim.make(config.optimizer)
        self._phase = functools.cache(self._compile)
        self.predict_step = self.runner.predict(make_predict_step(config, self.model, self.task, self.method))

    def _init(self, config: Run) -> TrainState:
        return init_state(config, self.model, self.optimizer, self.image_shape, self.method)

    def init(self) -> TrainState:
        """A fresh state on this run's devices."""
        return self.runner.replicate(self._init(self.config))

    def abstract(self) -> TrainState:
        """Shapes and shardings of the state; computes nothing, and reads no published weights."""
        bare = replaced(self.config, **{"model.weights": ""})
        return self.runner.abstract(jax.eval_shape(lambda: self._init(bare)))

    @functools.cached_property
    def batches(self) -> data.TrainBatches:
        """This run's training batches, in the method's order."""
        return data.TrainBatches(
            self.training, self.config.data, self.config.task.label, self.config.seed,
            order=self.method.order(), group=self.method.code,
        )  # fmt: skip

    def eval_batches(self, split: data.Split) -> Iterator[dict[str, np.ndarray]]:
        """Batches that hold every image of a split once, with its group where the method asks for it."""
        return data.eval_batches(
            split, self.config.data, self.config.task.label, self.runner.num_devices, group=self.group(split)
        )

    def train_step(self, step: int) -> Callable:
        """The compiled update ``step``: (state, batch) -> (state, metrics)."""
        return self._phase(self.method.phase(step))

    def _compile(self, phase: str) -> Callable:
        step = make_train_step(
            self.config, self.model, self.task, self.optimizer, self.runner.axis_name, self.method, phase
        )
        return self.runner.train(step)

    def group(self, split: data.Split) -> Int[np.ndarray, " n"] | None:
        """[n] group of every image of a split, -1 for none; None where no score depends on the group."""
        return self.method.groups.code(split) if self.method.is_by_group else None

    @property
    def members(self) -> list[Run]:
        """The runs that the machine trains: this one alone. A population has several (:mod:`equipoise.engine.training.population`)."""
        return [self.config]

    def split(self, state: TrainState) -> list[TrainState]:
        """The states of all members."""
        return [state]

    def join(self, states: list[TrainState]) -> TrainState:
        """One state from those of all members: the inverse of :meth:`split`."""
        return states[0]

    def rows(self, metrics: dict[str, np.ndarray]) -> list[dict[str, float]]:
        """The metrics of one update for each member, as numbers on the host."""
        return [{name: float(value) for name, value in metrics.items()}]

    def predict_members(self, state: TrainState, split: data.Split) -> list[tuple[pd.DataFrame, float]]:
        """:meth:`predict` for every member."""
        return [self.predict(state, split)]

    def as_member(self, config: Run) -> "Machine":
        """The same machine for a run that differs in numbers alone; both share the compiled prediction."""
        other = copy.copy(self)
        other.config = config
        return other

    def predict(
        self, state: TrainState, split: data.Split, progress: Callable[[int, int], None] | None = None
    ) -> tuple[pd.DataFrame, float]:
        """Scores a split.

        Args:
          state: the state to score with.
          split: a split of a prepared cohort whose images fit the model.
          progress: is called with (images done, images in all).

        Returns:
          The prediction table (ids, cohort, split, target, the task's columns, attributes; one row per image, in the order in
          which they were scored) and the mean loss.

        Raises:
          RuntimeError: when an image is missing or scored twice.
        """
        variables = self.method.variables(state)
        (table,), loss = self.score(variables, split, self.predict_step, self.runner.shard, progress)
        return table, float(loss.mean())

    def score(
        self,
        variables: Any,
        split: data.Split,
        predict: Callable,
        place: Callable,
        progress: Callable[[int, int], None] | None = None,
        num_members: int | None = None,
    ) -> tuple[list[pd.DataFrame], Float[np.ndarray, "n *members"]]:
        """The prediction tables of a split, and the losses of its images.

        Args:
          variables: what ``predict`` takes.
          split: a split of a prepared cohort.
          predict: the compiled prediction step.
          place: puts a batch on the devices.
          progress: is called with (images done, images in all).
          num_members: how many members a population has; its predictions are [b, member, ...]. None: no population.

        Returns:
          (the table of each member, the losses in the order of its rows).

        Raises:
          RuntimeError: when an image is missing or scored twice.
        """
        rows: list[np.ndarray] = []
        losses: list[np.ndarray] = []
        parts: list[list[pd.DataFrame]] = []  # of every batch, a table for each member
        # The devices are two batches ahead of the host, which looks at what they have predicted.
        for out in mesh.prefetch(self.eval_batches(split), lambda batch: predict(variables, place(batch))):
            host = jax.device_get(out)
            real = host["index"] >= 0
            host = {name: values[real] for name, values in host.items()}
            rows.append(host.pop("index"))
            losses.append(host.pop("loss"))
            members = [host]
            if num_members is not None:
                members = [{name: values[:, i] for name, values in host.items()} for i in range(num_members)]
            parts.append([self.task.columns(scores) for scores in members])
            if progress:
                progress(sum(map(len, rows)), len(split))
        order = np.concatenate(rows)
        if not np.array_equal(np.sort(order), np.arange(len(split))):
            raise RuntimeError(f"{len(order)} rows for {len(split)} images of {split.cohort}/{split.name}")
        tables = [self._table(split, order, pd.concat(member)) for member in zip(*parts, strict=True)]
        return tables, np.concatenate(losses)

    def _table(self, split: data.Split, order: Int[np.ndarray, " n"], scores: pd.DataFrame) -> pd.DataFrame:
        """The prediction table: ``order`` gives the row of the split that each row of ``scores`` is of."""
        columns = split.columns.iloc[order].reset_index(drop=True)
        head = columns[["scan_id", "subject_id"]].assign(cohort=split.cohort, split=split.name)
        target = self.task.target(split)
        if target is not None:
            head["target"] = target[order]
        attributes = columns[[name for name in columns if name in split.vocabulary("attributes")]]
        return pd.concat([head, scores.reset_index(drop=True), attributes], axis=1)
