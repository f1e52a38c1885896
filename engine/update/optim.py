"""Optimizers: optax chains from the configuration, with schedule, clipping, weight decay, and freezing by parameter path."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from equipoise.engine.config import Optimizer
from equipoise.engine.errors import UserError


def path_mask(pattern: str) -> Callable[[Any], Any]:
    """A function of a parameter tree that marks the leaves whose ``a/b/kernel`` path matches ``pattern``."""
    expression = re.compile(pattern)

    def mark(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: bool(expression.search(jax.tree_util.keystr(path, simple=True, separator="/"))),
            tree,
        )

    return mark


def partition(params: Any, freeze: str) -> tuple[Any, Any]:
    """Splits a parameter tree into (what is trained, what ``freeze`` matches); each has None in the places of the other."""
    frozen = path_mask(freeze)(params) if freeze else jax.tree.map(lambda _: False, params)
    return tuple(
        jax.tree.map(lambda x, f, side=side: x if f == side else None, params, frozen)
        for side in (False, True)
    )


def combine(trained: Any, frozen: Any) -> Any:
    """The whole tree from its two parts: the inverse of :func:`partition`."""
    return jax.tree.map(
        lambda leaf, other: other if leaf is None else leaf, trained, frozen, is_leaf=lambda x: x is None
    )


def schedule(config: Optimizer) -> optax.Schedule:
    """The learning rate as a function of the step.

    A linear warm-up, then constant, cosine to 0, exponential, or polynomial to 0.
    """
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(config.learning_rate, config.decay_steps)
    elif config.schedule == "exponential":
        after = optax.exponential_decay(config.learning_rate, config.decay_steps, config.decay_rate)
    elif config.schedule == "poly":
        after = optax.polynomial_schedule(config.learning_rate, 0.0, config.decay_power, config.decay_steps)
    else:
        after = optax.constant_schedule(config.learning_rate)
    if not config.warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def make(config: Optimizer) -> optax.GradientTransformation:
    """The chain that turns gradients into updates.

    Its ``init`` raises UserError when ``freeze`` matches no parameter path.
    """
    rate = schedule(config)
    decayed = lambda tree: jax.tree.map(lambda skip: not skip, path_mask(config.no_decay)(tree))  # noqa: E731
    if config.name == "adam":
        core = optax.adam(rate)
    elif config.name == "adamw":
        core = optax.adamw(rate, weight_decay=config.weight_decay, mask=decayed)
    else:
        core = optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask=decayed),
            optax.sgd(rate, config.momentum or None),
        )
    chain = optax.chain(optax.clip_by_global_norm(config.clip_norm), core) if config.clip_norm else core
    if config.freeze:

        def labels(tree: Any) -> Any:
            frozen = path_mask(config.freeze)(tree)
            if not any(jax.tree.leaves(frozen)):
                raise UserError(f"--config.optimizer.freeze={config.freeze!r} matches no parameter path")
            return jax.tree.map(lambda f: "frozen" if f else "trained", frozen)

        chain = optax.multi_transform({"trained": chain, "frozen": optax.set_to_zero()}, labels)
    return chain


def at(opt_state: Any, count: Int[Array, ""]) -> Any:
    """The state of one optimizer, or of several in a tree, with all learning-rate schedules set to step ``count``."""
    is_schedule = lambda x: isinstance(x, optax.ScaleByScheduleState)  # noqa: E731
    put = lambda x: x._replace(count=jnp.asarray(count, x.count.dtype)) if is_schedule(x) else x  # noqa: E731
    return jax.tree.map(put, opt_state, is_leaf=is_schedule)


def apply(
    optimizer: optax.GradientTransformation, grads: Any, opt_state: Any, params: Any
) -> tuple[Any, Any]:
    """One update: (new parameters, new optimizer state)."""
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state
