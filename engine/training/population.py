"""Many small models trained at once: runs that differ in seed and in numbers, by one program for all of them.

On accelerators the program is mapped over the members (``vmap``), which lie along the devices. On a CPU a mapped convolution
is an order of magnitude slower than separate ones, so there the members take turns at the program of one member.

Every member is the run that it would be alone, with its own initial weights, shuffling and randomness. It leaves a run's
folder of its own (``WORKDIR/member_000``), which every command takes as any other run. So a population has no checkpoint of
its own: it goes on from the newest step that all of its members have.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from equipoise.engine import config as run_config
from equipoise.engine import data, hosts, mesh, methods, validation
from equipoise.engine.config import Parallel, Run
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.methods.base import Method
from equipoise.engine.rundir import RunFolder
from equipoise.engine.training.machine import Machine
from equipoise.engine.training.step import init_state, make_predict_step, make_train_step
from equipoise.engine.update import optim
from equipoise.engine.update.state import TrainState
from equipoise.engine.update.task import TaskKind

# Fields that a compiled step uses only as numbers: one program can hold many values of them.
VARIABLE = (
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "method.step_size",
    "method.alpha",
    "method.beta",
    "method.mu",
)


def _grid(text: str) -> dict[str, list[float]]:
    """Parses ``optimizer.learning_rate=1e-3,1e-4|method.beta=0.1,1``: field -> its values."""
    grid: dict[str, list[float]] = {}
    for part in filter(None, text.split("|")):
        name, _, values = (word.strip() for word in part.partition("="))
        if name not in VARIABLE:
            raise UserError(
                f"--config.population.grid: {name!r} cannot differ within a population.{did_you_mean(name, VARIABLE)} "
                f"These can: {', '.join(VARIABLE)}; for anything else train separate runs"
            )
        try:
            grid[name] = [float(value) for value in values.split(",")]
        except ValueError as error:
            raise UserError(f"--config.population.grid: {part!r} is not NAME=NUMBER,NUMBER,...") from error
    return grid


def members(config: Run) -> list[Run]:
    """The runs that a configuration stands for: every point of the grid with every seed; one run where it has neither.

    Raises:
      UserError: for a field that cannot differ, or a member that is no valid run.
    """
    grid = _grid(config.population.grid)
    runs = []
    for values in itertools.product(*grid.values()):
        for offset in range(config.population.seeds):
            point = dict(zip(grid, values, strict=True)) | {"seed": config.seed + offset}
            runs.append(run_config.replaced(config, population=run_config.Population(), **point))
            validation.validate(runs[-1])
    return runs


def folders(workdir: pathlib.Path, config: Run) -> list[pathlib.Path]:
    """The folder of each member; a run that is no population has ``workdir`` itself."""
    count = len(members(config))
    return [RunFolder(workdir).member(i) for i in range(count)] if count > 1 else [workdir]


def make(config: Run, task: TaskKind, training: data.Split) -> "Machine | Population":
    """The machine that trains a configuration: one model, or many in the form that suits the devices.

    Raises:
      UserError: for a runner, or a number of devices or processes, that a population cannot have.
    """
    if len(members(config)) == 1:
        return Machine(run_config.replaced(members(config)[0], parallel=config.parallel), task, training)
    form = config.population.form
    if form == "auto":
        can_map = _make_updates_alike(members(config), methods.make(config, training))
        form = "mapped" if mesh.has_accelerator() and can_map else "turns"
    return {"mapped": Mapped, "turns": ByTurns}[form](config, task, training)


def _make_updates_alike(runs: list[Run], method: Method) -> bool:
    """Whether one program makes an update of all the runs."""
    return not method.varies_by_seed or len({run.seed for run in runs}) == 1


class _Batches:
    """The batches of every member; members of one seed share them, read once."""

    def __init__(self, of_seed: dict[int, data.TrainBatches], seeds: list[int]):
        """``seeds`` has the seed of every member."""
        self._of_seed, self._seeds = of_seed, seeds

    def at(self, step: int) -> list[dict[str, np.ndarray]]:
        """The batches of update ``step``, one for each member."""
        batches = {seed: stream.at(step) for seed, stream in self._of_seed.items()}
        return [batches[seed] for seed in self._seeds]

    def iterate(self, start: int) -> Iterator[list[dict[str, np.ndarray]]]:
        """Batches from update ``start`` on."""
        streams = [batches.iterate(start) for batches in self._of_seed.values()]
        for batches in zip(*streams, strict=True):
            of_seed = dict(zip(self._of_seed, batches, strict=True))
            yield [of_seed[seed] for seed in self._seeds]


class Population:
    """Many runs as one machine: it has what the loop asks of :class:`~equipoise.engine.training.machine.Machine`.

    Its two forms are :class:`Mapped` and :class:`ByTurns`.

    Attributes:
      config: the configuration of the whole population.
      task: the task of all members.
      training: the split that all of them are trained on.
      members: the configuration of every member.
      method: the first member's; what it says of cycles holds for all.
      runner: places their batches.
    """

    def __init__(self, config: Run, task: TaskKind, training: data.Split):
        if config.parallel.mode != "jit":
            raise UserError(
                f"--config.parallel.mode={config.parallel.mode}: a population is one program for many models, under jit alone"
            )
        if hosts.count() > 1:
            raise UserError(
                "a population is trained by one process: start it on one host, over all its devices"
            )
        self.config, self.task, self.training = config, task, training
        self.members = members(config)
        # The machine of one member: what belongs to it lives on one device, and no batch is split.
        self._first = Machine(
            run_config.replaced(self.members[0], parallel=Parallel(num_devices=1)), task, training
        )
        self.method = self._first.method
        self._methods = [dataclasses.replace(self.method, config=member) for member in self.members]
        flat = [dict(run_config.flatten(dataclasses.asdict(member))) for member in self.members]
        columns = {name: [fields[name] for fields in flat] for name in ("seed", *VARIABLE)}
        self._settings = {name: values for name, values in columns.items() if len(set(values)) > 1}
        self._places = np.arange(len(self.members), dtype=np.int32)
        self._phase = functools.cache(self._compile)

    def _member(self, place: jax.Array) -> tuple[Run, Method]:
        """Configuration and method of the member at a place that is traced: so are the fields in which members differ."""

        def choose(values: list[Any]) -> jax.Array:
            # Python numbers chosen one by one stay weakly typed: they round as they do in a run alone.
            return functools.reduce(
                lambda chosen, other: jnp.where(place == other[0], other[1], chosen),
                enumerate(values),
                values[0],
            )

        config = run_config.replaced(self._first.config, **{k: choose(v) for k, v in self._settings.items()})
        return config, dataclasses.replace(self.method, config=config)

    def _init(self, place: jax.Array) -> TrainState:
        config, method = self._member(place)
        optimizer = optim.make(config.optimizer)
        return init_state(config, self._first.model, optimizer, self._first.image_shape, method)

    def _step(self, phase: str, place: jax.Array, state: TrainState, batch: dict[str, jax.Array]) -> Any:
        config, method = self._member(place)
        optimizer = optim.make(config.optimizer)
        return make_train_step(config, self._first.model, self.task, optimizer, None, method, phase)(
            state, batch
        )

    def _tables(
        self, variables: Any, split: data.Split, predict: Callable
    ) -> list[tuple[pd.DataFrame, float]]:
        """Prediction table and mean loss of every member, from one pass over the images; ``predict`` gives [b, member, ...]."""
        place, count = self.runner.replicate, len(self.members)
        tables, loss = self._first.score(variables, split, predict, place, num_members=count)
        return list(zip(tables, map(float, loss.mean(0)), strict=True))

    def abstract(self) -> TrainState:
        """Shapes and shardings of one member's state."""
        return self._first.abstract()

    @functools.cached_property
    def batches(self) -> _Batches:
        """The batches of every member."""
        seeds = [member.seed for member in self.members]
        of_seed = {
            seed: data.TrainBatches(
                self.training,
                self.config.data,
                self.config.task.label,
                seed,
                order=method.order(),
                group=method.code,
            )
            for seed, method in dict(zip(seeds, self._methods, strict=True)).items()
        }
        return _Batches(of_seed, seeds)


class Mapped(Population):
    """Members lie along the first axis of every array, over the devices; they share nothing, so no device waits for another."""

    def __init__(self, config: Run, task: TaskKind, training: data.Split):
        super().__init__(config, task, training)
        if not _make_updates_alike(self.members, self.method):
            raise UserError(
                f"--config.population.form=mapped: under {config.method.name} members with different seeds are at different sites "
                "at the same time, with batches of different sizes; choose turns, or --config.method.fixed_order"
            )
        self.runner = mesh.MemberRunner(len(self.members), config.parallel.num_devices)
        predict = make_predict_step(config, self._first.model, task, self.method)

        def predict_all(variables: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
            outputs = jax.vmap(predict, in_axes=(0, None), out_axes=1)(variables, batch)
            return outputs | {"index": batch["index"]}

        self._predict = self.runner.predict(predict_all)

    def init(self) -> TrainState:
        """Fresh states of all members."""
        return self.runner.place(jax.vmap(self._init)(self._places))

    def split(self, state: TrainState) -> list[TrainState]:
        """The states of all members."""
        host = jax.device_get(state)
        parts = [jax.tree.map(lambda x, i=i: x[i], host) for i in range(len(self.members))]
        return [self._first.runner.replicate(part) for part in parts]

    def join(self, states: list[TrainState]) -> TrainState:
        """One state from those of all members: the inverse of :meth:`split`."""
        return self.runner.shard(jax.device_get(states))

    def rows(self, metrics: dict[str, np.ndarray]) -> list[dict[str, float]]:
        """The metrics of one update for each member, as numbers on the host."""
        return [
            {name: float(values[i]) for name, values in metrics.items()} for i in range(len(self.members))
        ]

    def train_step(self, step: int) -> Callable:
        """The compiled update ``step`` of all members."""
        return self._phase(self.method.phase(step))

    def _compile(self, phase: str) -> Callable:
        step = jax.vmap(functools.partial(self._step, phase))
        return self.runner.train(lambda state, batch: step(self._places, state, batch))

    def predict_members(self, state: TrainState, split: data.Split) -> list[tuple[pd.DataFrame, float]]:
        """Table and mean loss of every member."""
        return self._tables(jax.vmap(self.method.variables)(state), split, self._predict)


class ByTurns(Population):
    """Members take turns at one program on one device; a member's place tells the program which numbers are its own."""

    def __init__(self, config: Run, task: TaskKind, training: data.Split):
        super().__init__(config, task, training)
        if config.parallel.num_devices > 1:
            raise UserError(
                f"--config.parallel.num_devices={config.parallel.num_devices}: members that take turns use one device; "
                "--config.population.form=mapped spreads them over many"
            )
        self.runner = self._first.runner

    def init(self) -> list[TrainState]:
        """Fresh states of all members."""
        init = jax.jit(self._init)
        return [self.runner.replicate(init(place)) for place in self._places]

    def split(self, state: list[TrainState]) -> list[TrainState]:
        """The states of all members."""
        return state

    def join(self, states: list[TrainState]) -> list[TrainState]:
        """One state from those of all members: the inverse of :meth:`split`."""
        return states

    def rows(self, metrics: list[dict[str, np.ndarray]]) -> list[dict[str, float]]:
        """The metrics of one update for each member, as numbers on the host."""
        return [{name: float(value) for name, value in member.items()} for member in metrics]

    def train_step(self, step: int) -> Callable:
        """Update ``step`` of every member, each by the compiled program of its own phase."""
        steps = [self._phase(method.phase(step)) for method in self._methods]

        def step_all(states: list[TrainState], batches: list[dict[str, jax.Array]]) -> Any:
            placed = zip(self._places, states, strict=True)
            stepped = [member(*args) for member, *args in zip(steps, placed, batches, strict=True)]
            return [state for (_, state), _ in stepped], [metrics for _, metrics in stepped]

        return step_all

    def _compile(self, phase: str) -> Callable:
        def placed_step(placed: tuple[jax.Array, TrainState], batch: dict[str, jax.Array]) -> Any:
            place, state = placed
            state, metrics = self._step(phase, place, state, batch)
            return (place, state), metrics

        return self.runner.train(placed_step)

    def predict_members(self, state: list[TrainState], split: data.Split) -> list[tuple[pd.DataFrame, float]]:
        """Table and mean loss of every member."""

        def predict(variables: list[Any], batch: dict[str, jax.Array]) -> dict[str, np.ndarray]:
            outputs = jax.device_get([self._first.predict_step(member, batch) for member in variables])
            scores = {name: np.stack([output[name] for output in outputs], 1) for name in outputs[0]}
            return scores | {"index": outputs[0]["index"]}

        return self._tables(list(map(self.method.variables, state)), split, predict)
