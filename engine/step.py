"""The two pure functions that are compiled: one training step, one prediction step."""

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

from engine import losses, rng, transforms
from engine.config import Run


class TaskKind(Protocol):
    """What the engine must know of a task; the kinds live in ``tasks/``.

    Attributes:
      num_outputs: of the model.
      classes: names of the classes; empty where the target is a number.
      positive: the class that a binary score speaks of, or None.
      score_columns: of the prediction table.
    """

    num_outputs: int
    classes: tuple[str, ...]
    positive: str | None
    score_columns: tuple[str, ...]

    def loss(self, output: Array, batch: dict[str, Array]) -> Array:
        """Per-example loss [b] of the model's output."""

    def scores(self, output: Array) -> Array:
        """What the prediction table stores, from the model's output."""

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
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any


def init_state(
    config: Run, model: nn.Module, optimizer: optax.GradientTransformation, image_shape: tuple[int, ...]
) -> TrainState:
    """A fresh state, a pure function of the seed.

    Args:
      config: the run.
      model: as from :func:`engine.models.build`.
      optimizer: as from :func:`engine.optim.make`.
      image_shape: [*spatial, channel] of one image.
    """
    dtype = jnp.dtype(config.model.dtype)

    def init() -> tuple[Any, Any]:
        variables = model.init(
            rng.key(config.seed, "params"), jnp.zeros((1, *image_shape), dtype), train=False
        )
        return variables["params"], variables.get("batch_stats", {})

    params, batch_stats = jax.jit(init)()
    if config.model.dtype == "float64":
        params, batch_stats = jax.tree.map(lambda x: x.astype(jnp.float64), (params, batch_stats))
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))


def make_preprocess(config: Run) -> Callable[[dict[str, Array]], Array]:
    """A function of a batch: stored integers to real units, then the deterministic transforms."""
    chain = transforms.chain(config.data.preprocess, allow_random=False)
    dtype = jnp.promote_types(config.model.dtype, jnp.float32)

    def preprocess(batch: dict[str, Array]) -> Array:
        scale = batch["scale"].astype(dtype).reshape(-1, 2, *(1,) * (batch["image"].ndim - 1))
        return chain(batch["image"].astype(dtype) * scale[:, 0] + scale[:, 1])

    return preprocess


def make_train_step(
    config: Run,
    model: nn.Module,
    task: TaskKind,
    optimizer: optax.GradientTransformation,
    axis_name: str | None = None,
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """The pure training step.

    Microbatch j of A holds the examples i with i mod A = j: their places in the global batch, and so the update, do
    not depend on how the batch is split over devices. The microbatches are unrolled because convolutions inside a
    compiled loop are an order of magnitude slower on a CPU.

    A batch holds ``image`` [b, *spatial, c], ``scale`` [b, 2], ``target`` [b], ``weight`` [b] and ``position`` [b], the
    example's place in the global batch, to which all randomness is keyed.

    Returns:
      (state, batch) -> (new state, {"loss", "grad_norm"} as scalars over the global batch).
    """
    preprocess = make_preprocess(config)
    augment = transforms.chain(config.data.augment)

    def total(x: Array) -> Array:
        return x if axis_name is None else jax.lax.psum(x, axis_name)

    parts = config.optimizer.accumulate

    def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        norm = total(batch["weight"].sum())

        def loss_fn(params: Any, batch_stats: Any, micro: dict[str, Array]) -> tuple[Array, Any]:
            keys = {
                name: rng.example_keys(rng.key(config.seed, name, state.step), micro["position"])
                for name in ("augment", "dropout")
            }
            images = augment(preprocess(micro), keys["augment"])
            variables = {"params": params, "batch_stats": batch_stats}
            (output, _), updated = model.apply(
                variables, images, train=True, keys=keys["dropout"], mutable=["batch_stats"]
            )
            loss, _ = losses.weighted_mean(task.loss(output, micro), micro["weight"])
            return loss / norm, updated.get("batch_stats", {})

        loss, grads, batch_stats = 0.0, None, state.batch_stats
        for part in range(parts):
            micro = jax.tree.map(lambda x, part=part: x.reshape(-1, parts, *x.shape[1:])[:, part], batch)
            if grads is not None:  # one microbatch's activations in memory at a time
                micro, grads = jax.lax.optimization_barrier((micro, grads))
            (more, batch_stats), new = jax.value_and_grad(loss_fn, has_aux=True)(
                state.params, batch_stats, micro
            )
            loss, grads = loss + more, new if grads is None else jax.tree.map(jnp.add, grads, new)
        loss, grads = total(loss), jax.tree.map(total, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return train_step


def make_predict_step(
    config: Run, model: nn.Module, task: TaskKind
) -> Callable[[Any, dict[str, Array]], dict]:
    """The pure prediction step: (variables, batch) -> {"index": [b], "score": [b, ...], "loss": [b]}, nothing summed."""
    preprocess = make_preprocess(config)

    def predict_step(variables: Any, batch: dict[str, Array]) -> dict[str, Array]:
        output, _ = model.apply(variables, preprocess(batch), train=False)
        return {"index": batch["index"], "score": task.scores(output), "loss": task.loss(output, batch)}

    return predict_step
