"""The two pure functions that are compiled: one training step, one prediction step."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from equipoise.engine import rng
from equipoise.engine.config import Run
from equipoise.engine.methods.base import Method
from equipoise.engine.models import published
from equipoise.engine.update import losses, optim
from equipoise.engine.update.preprocess import make_preprocess
from equipoise.engine.update.state import TrainState
from equipoise.engine.update.sweep import Sweep
from equipoise.engine.update.task import TaskKind


def init_state(
    config: Run,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    method: Method | None = None,
) -> TrainState:
    """A fresh state: a pure function of the seed and of the published weights that it starts from.

    Args:
      config: the run.
      model: from :func:`equipoise.engine.models.build`.
      optimizer: from :func:`equipoise.engine.update.optim.make`.
      image_shape: [*spatial, channel] of one preprocessed image.
      method: how groups enter training; by default they do not.
    """
    image = jnp.zeros((1, *image_shape), jnp.dtype(config.model.dtype))

    def init() -> tuple[Any, Any]:
        variables = model.init(rng.key(config.seed, "params"), image, train=False)
        return variables["params"], variables.get("batch_stats", {})

    params, batch_stats = jax.jit(init)()
    if config.model.weights:
        loaded = published.load(config.model.weights, {"params": params, "batch_stats": batch_stats})
        params, batch_stats = loaded["params"], loaded["batch_stats"]
    if config.model.dtype == "float64":
        params, batch_stats = jax.tree.map(lambda x: x.astype(jnp.float64), (params, batch_stats))
    state = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))
    if method is None:
        return state
    variables = {"params": params, "batch_stats": batch_stats}
    return state.replace(method=method.init(state, lambda: model.apply(variables, image, train=False)[1]))


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
      model: from :func:`equipoise.engine.models.build`.
      task: the task whose loss is minimised.
      optimizer: from :func:`equipoise.engine.update.optim.make`.
      axis_name: the mapped axis that holds the parts of a batch, under ``pmap``.
      method: how groups enter training; by default they do not.
      phase: which of the method's programs this step is (:meth:`equipoise.engine.methods.base.Method.phase`).

    Returns:
      (state, batch) -> (new state, metrics: scalars over the global batch, ``loss``, ``grad_norm`` and the method's).
    """
    sweep = Sweep(config, model, axis_name)
    method = method or Method(config)
    task = method.adapt(task, phase)

    def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        num_examples = sweep.total(batch["weight"].sum())

        def forward(
            params: Any, batch_stats: Any, micro: dict[str, Array]
        ) -> tuple[Array, dict[str, Array], Any, Any]:
            """Output, the microbatch as the model saw it, its part of the task's sums, new running statistics."""
            seen = sweep.seen(micro, state.step)
            output, _, batch_stats = sweep.forward(params, batch_stats, seen, state.step)
            return output, seen, task.batch_sums(jax.lax.stop_gradient(output), seen), batch_stats

        def losses_of_examples(
            params: Any, batch_stats: Any, micro: dict[str, Array]
        ) -> tuple[Array, Any, Any]:
            """Each example's loss, the microbatch's part of the method's sums, new running statistics."""
            output, seen, part, batch_stats = forward(params, batch_stats, micro)
            whole = sweep.total(part) if batch_sums is None else batch_sums
            example_losses = task.loss(output, seen, whole)
            part = method.group_sums(jax.lax.stop_gradient(example_losses), micro)
            return example_losses, part, batch_stats

        def weighted_loss(
            params: Any, batch_stats: Any, micro: dict[str, Array]
        ) -> tuple[Array, tuple[Any, Any]]:
            """The microbatch's part of the loss that is descended on, and what :meth:`Sweep.gradient` passes through."""
            example_losses, part, batch_stats = losses_of_examples(params, batch_stats, micro)
            whole = sweep.total(part) if group_sums is None else group_sums
            method_state = method.update(state.method, whole)
            weight = method.weigh(method_state, whole, micro) * micro["weight"]
            total, _ = losses.weighted_mean(example_losses, weight)
            return total / num_examples, (part, batch_stats)

        def sums_in_advance(sums: Callable[[Any, Any, dict[str, Array]], tuple[Any, Any]]) -> Any:
            """Sums over the whole batch, which no microbatch alone knows: they take one more forward pass."""
            return sweep.over(
                lambda micro, stats: sums(state.params, stats, micro), state.batch_stats, batch
            )[0]

        # With one microbatch the sums are at hand when they are needed, and stay None here.
        batch_sums = group_sums = None
        if task.needs_batch_sums and sweep.parts > 1:
            batch_sums = sums_in_advance(lambda *args: forward(*args)[2:])
        if method.needs_group_sums and sweep.parts > 1:
            group_sums = sums_in_advance(lambda *args: losses_of_examples(*args)[1:])

        loss, sums, grads, batch_stats = sweep.gradient(
            weighted_loss, state.params, state.batch_stats, batch, config.optimizer.freeze
        )
        grads = method.gradient(grads, state, phase)
        params, opt_state = optim.apply(optimizer, grads, state.opt_state, state.params)
        method_state = method.update(state.method, sums)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), **method.show(method_state)}
        return TrainState(state.step + 1, params, batch_stats, opt_state, method_state), metrics

    return method.wrap(train_step, sweep, phase)


def make_predict_step(
    config: Run, model: nn.Module, task: TaskKind, method: Method | None = None
) -> Callable[[Any, dict[str, Array]], dict]:
    """The pure prediction step, (variables, batch) -> {"index": [b], "loss": [b], the task's scores}: nothing is summed.

    The variables come from a state by :meth:`equipoise.engine.methods.base.Method.variables`.
    """
    preprocess = make_preprocess(config)
    method = method or Method(config)

    def predict_step(variables: Any, batch: dict[str, Array]) -> dict[str, Array]:
        seen = preprocess(batch)
        output, _ = method.predict(model, variables, seen["image"], seen)
        return {"index": batch["index"], "loss": task.loss(output, seen), **task.scores(output, seen)}

    return predict_step
