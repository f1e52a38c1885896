"""The two pure functions that are compiled: one training step, one prediction step."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from flax import struct
from jaxtyping import Array, Int

from equipoise.engine import data, rng, transforms
from equipoise.engine.config import Run
from equipoise.engine.methods.base import Method
from equipoise.engine.metrics.table.table import Schema
from equipoise.engine.models.published import load as weights
from equipoise.engine.update import losses, optim


class TaskKind(Protocol):
    """What the engine must know of a task; the kinds live in ``tasks/``.

    Attributes:
      num_outputs: of the model.
      classes: names of the classes; empty where the target is a number.
      measures: whether an example's loss in training depends on the whole batch.
    """

    num_outputs: int
    classes: tuple[str, ...]
    measures: bool

    def measure(self, output: Array, batch: dict[str, Array]) -> Any:
        """Sums over the examples of (a part of) a batch that :meth:`loss` needs of the whole one."""

    def loss(self, output: Array, batch: dict[str, Array], whole: Any = None) -> Array:
        """Per-example loss [b] of the model's output.

        Args:
          output: of the model.
          batch: as the model saw it.
          whole: what was measured over the global batch; None in evaluation, where no image's loss depends on others.
        """

    def scores(self, output: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """What leaves the devices of every image [b, ...], from the model's output."""

    def columns(self, scores: dict[str, np.ndarray]) -> pd.DataFrame:
        """What the prediction table says of the images, a row for each."""

    def schema(self, split: data.Split) -> Schema:
        """What a reader must know of the table of a split."""

    def choose_threshold(self, rule: str, validation: pd.DataFrame) -> tuple[float, str]:
        """The operating threshold and the name of the split it was chosen on."""

    def decide(self, frame: pd.DataFrame) -> np.ndarray:
        """The class index that each row of a stamped table is called."""

    def metrics(self, frame: pd.DataFrame) -> dict[str, float]:
        """What training reports of a stamped table."""


@struct.dataclass
class TrainState:
    """All that training carries from one step to the next, and all that a checkpoint holds.

    Attributes:
      step: updates made so far.
      params: the model's parameters.
      batch_stats: running statistics of normalisation layers.
      opt_state: of the optax chain.
      method: what the method carries (:meth:`equipoise.engine.methods.base.Method.init`); mostly nothing.
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any
    method: Any = ()


def init_state(
    config: Run,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    method: Method | None = None,
) -> TrainState:
    """A fresh state, a pure function of the seed and of the published weights that it starts from.

    Args:
      config: the run.
      model: as from :func:`equipoise.engine.models.build`.
      optimizer: as from :func:`equipoise.engine.update.optim.make`.
      image_shape: [*spatial, channel] of one image.
      method: how groups enter; by default they do not.
    """
    image = jnp.zeros((1, *image_shape), jnp.dtype(config.model.dtype))

    def init() -> tuple[Any, Any]:
        variables = model.init(rng.key(config.seed, "params"), image, train=False)
        return variables["params"], variables.get("batch_stats", {})

    params, batch_stats = jax.jit(init)()
    if config.model.weights:
        loaded = weights.load(config.model.weights, {"params": params, "batch_stats": batch_stats})
        params, batch_stats = loaded["params"], loaded["batch_stats"]
    if config.model.dtype == "float64":
        params, batch_stats = jax.tree.map(lambda x: x.astype(jnp.float64), (params, batch_stats))
    state = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))
    if method is None:
        return state
    variables = {"params": params, "batch_stats": batch_stats}
    return state.replace(method=method.init(state, lambda: model.apply(variables, image, train=False)[1]))


def _transformed(
    chain: transforms.Chain, batch: dict[str, Array], keys: Array | None = None
) -> dict[str, Array]:
    images, masks = chain.with_masks(batch["image"], batch.get("mask"), keys)
    return batch | {"image": images} | ({} if masks is None else {"mask": masks})


def make_preprocess(config: Run) -> Callable[[dict[str, Array]], dict[str, Array]]:
    """A function of a batch: stored integers to real units, then the deterministic transforms, of masks too."""
    chain = transforms.chain(config.data.preprocess, allow_random=False)
    dtype = jnp.promote_types(config.model.dtype, jnp.float32)

    def preprocess(batch: dict[str, Array]) -> dict[str, Array]:
        scale = batch["scale"].astype(dtype).reshape(-1, 2, *(1,) * (batch["image"].ndim - 1))
        real = batch | {"image": batch["image"].astype(dtype) * scale[:, 0] + scale[:, 1]}
        seen = _transformed(chain, real)
        if "spacing" in batch:  # a transform that changes the grid keeps its extent
            grids = (np.array(x["image"].shape[1:-1], np.float32) for x in (batch, seen))
            seen["spacing"] = batch["spacing"] * np.divide(*grids)
        return seen

    return preprocess


def preprocessed_shape(config: Run, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """[*spatial, channel] of an image of that shape once it is preprocessed."""
    chain = transforms.chain(config.data.preprocess, allow_random=False)
    return jax.eval_shape(chain, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)).shape[1:]


class Sweep:
    """Passes over the global batch, microbatch by microbatch.

    Microbatch j of A holds the examples i with i mod A = j: their places in the global batch, and so all sums, do not
    depend on how the batch is split over devices. The microbatches are unrolled because convolutions inside a compiled
    loop are an order of magnitude slower on a CPU.
    """

    def __init__(self, config: Run, model: nn.Module, axis_name: str | None = None):
        """Of a run; ``axis_name`` is the mapped axis that holds the parts of a batch, under ``pmap``."""
        self.parts = config.optimizer.accumulate
        self._seed, self._model, self._axis_name = config.seed, model, axis_name
        self._preprocess, self._augment = make_preprocess(config), transforms.chain(config.data.augment)

    def total(self, tree: Any) -> Any:
        """Sums over the devices that share a batch."""
        if self._axis_name is None:
            return tree
        return jax.tree.map(lambda x: jax.lax.psum(x, self._axis_name), tree)

    def _keys(self, name: str, micro: dict[str, Array], step: Int[Array, ""]) -> Array:
        return rng.example_keys(rng.key(self._seed, name, step), micro["position"])

    def seen(self, micro: dict[str, Array], step: Int[Array, ""]) -> dict[str, Array]:
        """A microbatch as the model sees it in training: preprocessed and augmented, masks with their images."""
        return _transformed(self._augment, self._preprocess(micro), self._keys("augment", micro, step))

    def forward(
        self, params: Any, batch_stats: Any, seen: dict[str, Array], step: Int[Array, ""]
    ) -> tuple[Array, dict[str, Array], Any]:
        """Output, features and new running statistics of the model in training, of what :meth:`seen` gives."""
        variables = {"params": params, "batch_stats": batch_stats}
        (output, features), updated = self._model.apply(
            variables,
            seen["image"],
            train=True,
            keys=self._keys("dropout", seen, step),
            mutable=["batch_stats"],
        )
        return output, features, updated.get("batch_stats", {})

    def over(
        self,
        part: Callable[[dict[str, Array], Any], tuple[Any, Any]],
        batch_stats: Any,
        batch: dict[str, Array],
    ) -> tuple[Any, Any]:
        """Global sums of ``(sums, new statistics) = part(microbatch, statistics)``, and the last statistics."""
        sums = None
        for number in range(self.parts):
            micro = jax.tree.map(
                lambda x, number=number: x.reshape(-1, self.parts, *x.shape[1:])[:, number], batch
            )
            if sums is not None:  # one microbatch's activations in memory at a time
                micro, sums = jax.lax.optimization_barrier((micro, sums))
            more, batch_stats = part(micro, batch_stats)
            sums = more if sums is None else jax.tree.map(jnp.add, sums, more)
        return self.total(sums), batch_stats

    def gradient(
        self,
        loss: Callable[[Any, Any, dict[str, Array]], tuple[Array, tuple[Any, Any]]],
        variables: Any,
        batch_stats: Any,
        batch: dict[str, Array],
        freeze: str = "",
    ) -> tuple[Array, Any, Any, Any]:
        """Value and gradient in ``variables`` of a sum over the global batch.

        Args:
          loss: (variables, statistics, microbatch) -> (its summand, (other sums, new statistics)).
          variables: to differentiate in.
          batch_stats: running statistics before.
          batch: this device's part of it.
          freeze: a pattern of paths whose gradient is not computed, and zero.

        Returns:
          (value, other sums, gradient, last statistics).
        """
        trained, frozen = optim.partition(variables, freeze)

        def part(micro: dict[str, Array], batch_stats: Any) -> tuple[Any, Any]:
            (value, (sums, batch_stats)), grads = jax.value_and_grad(
                lambda trained, *rest: loss(optim.combine(trained, frozen), *rest), has_aux=True
            )(trained, batch_stats, micro)
            return (value, sums, grads), batch_stats

        (value, sums, grads), batch_stats = self.over(part, batch_stats, batch)
        return value, sums, optim.combine(grads, jax.tree.map(jnp.zeros_like, frozen)), batch_stats


def make_train_step(
    config: Run,
    model: nn.Module,
    task: TaskKind,
    optimizer: optax.GradientTransformation,
    axis_name: str | None = None,
    method: Method | None = None,
    phase: str = "all",
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """The pure training step.

    A batch holds ``image`` [b, *spatial, c], ``scale`` [b, 2], ``target`` [b], ``weight`` [b] and ``position`` [b], the
    example's place in the global batch, to which all randomness is keyed; ``group`` [b] where the method has groups, and
    ``mask`` [b, *spatial] where masks are learnt.

    Args:
      config: the run.
      model: as from :func:`equipoise.engine.models.build`.
      task: whose loss is minimised.
      optimizer: as from :func:`equipoise.engine.update.optim.make`.
      axis_name: mapped axis that holds the parts of a batch, under ``pmap``.
      method: how groups enter; by default they do not.
      phase: of the method, which one step has (:meth:`equipoise.engine.methods.base.Method.phase`).

    Returns:
      (state, batch) -> (new state, metrics as scalars over the global batch: "loss", "grad_norm", the method's own).
    """
    sweep = Sweep(config, model, axis_name)
    method = method or Method(config)
    task = method.adapt(task, phase)

    def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        norm = sweep.total(batch["weight"].sum())

        def outputs(params: Any, batch_stats: Any, micro: dict[str, Array]) -> tuple[Array, dict, Any, Any]:
            seen = sweep.seen(micro, state.step)
            output, _, batch_stats = sweep.forward(params, batch_stats, seen, state.step)
            return output, seen, task.measure(jax.lax.stop_gradient(output), seen), batch_stats

        def in_advance(part: Callable[..., tuple[Any, Any]]) -> Any:
            """One more forward pass for what no microbatch alone knows: sums over the whole batch."""
            of_state = functools.partial(part, state.params)
            return sweep.over(lambda micro, stats: of_state(stats, micro), state.batch_stats, batch)[0]

        batch_sums = None
        if task.measures and sweep.parts > 1:
            batch_sums = in_advance(lambda *given: outputs(*given)[2:])

        def measure(params: Any, batch_stats: Any, micro: dict[str, Array]) -> tuple[Array, Any, Any]:
            output, seen, part, batch_stats = outputs(params, batch_stats, micro)
            each = task.loss(output, seen, sweep.total(part) if batch_sums is None else batch_sums)
            return each, method.measure(jax.lax.stop_gradient(each), micro), batch_stats

        whole = None
        if method.measures and sweep.parts > 1:
            whole = in_advance(lambda *given: measure(*given)[1:])

        def loss(params: Any, batch_stats: Any, micro: dict[str, Array]) -> tuple[Array, tuple[Any, Any]]:
            each, part, batch_stats = measure(params, batch_stats, micro)
            measured = sweep.total(part) if whole is None else whole
            weight = method.weigh(method.update(state.method, measured), measured, micro) * micro["weight"]
            value, _ = losses.weighted_mean(each, weight)
            return value / norm, (part, batch_stats)

        value, measured, grads, batch_stats = sweep.gradient(
            loss, state.params, state.batch_stats, batch, config.optimizer.freeze
        )
        grads = method.gradient(grads, state, phase)
        params, opt_state = optim.apply(optimizer, grads, state.opt_state, state.params)
        own = method.update(state.method, measured)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads), **method.show(own)}
        return TrainState(state.step + 1, params, batch_stats, opt_state, own), metrics

    return method.wrap(train_step, sweep, phase)


def make_predict_step(
    config: Run, model: nn.Module, task: TaskKind, method: Method | None = None
) -> Callable[[Any, dict[str, Array]], dict]:
    """The pure prediction step: (variables, batch) -> {"index": [b], "loss": [b], the task's scores}, nothing summed.

    The variables are :meth:`equipoise.engine.methods.base.Method.variables` of a state.
    """
    preprocess = make_preprocess(config)
    method = method or Method(config)

    def predict_step(variables: Any, batch: dict[str, Array]) -> dict[str, Array]:
        seen = preprocess(batch)
        output, _ = method.predict(model, variables, seen["image"], seen)
        return {"index": batch["index"], "loss": task.loss(output, seen), **task.scores(output, seen)}

    return predict_step
