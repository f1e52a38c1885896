"""A model that unlearns its group: what a second head can read of the group from the model's features."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from equipoise.engine import rng
from equipoise.engine.errors import UserError
from equipoise.engine.methods.base import Method, Step
from equipoise.engine.update import losses, optim
from equipoise.engine.update.state import TrainState
from equipoise.engine.update.sweep import Sweep


class Unlearning(Method):
    """A group head reads the group from the model's features, and the model unlearns what the head can read.

    Each batch makes three updates, each with its own optimizer, on the networks that the update before has left: the model
    on the task's loss; the group head on alpha times its cross-entropy, while the model is held; the model on beta times the
    confusion loss ``-sum_k log p_k / K``, while the head is held, without weight decay. Means are over the batch's images of
    known group. The model's running statistics move only with the first update. Dinsdale et al. 2021, NeuroImage
    228:117689, doi 10.1016/j.neuroimage.2020.117689, equations 1 to 3.

    Phases: ``pretrain_steps`` with the first update alone, ``head_steps`` with the first two, then all three.
    """

    @property
    def starts(self) -> tuple[int, int]:
        """How many updates come (before the group head learns, before the model unlearns)."""
        method = self.config.method
        return method.pretrain_steps, method.starts_after

    def phase(self, step: int) -> str:
        """``model``, then ``head``, then ``all``: which networks are updated."""
        head, unlearning = self.starts
        if step < head:
            return "model"
        return "head" if step < unlearning else "all"

    def _feature(self, features: dict[str, Array]) -> Float[Array, "b n"]:
        block = self.config.method.block or list(features)[-1]
        if block not in features:
            raise UserError(
                f"--config.method.block={block!r}: the model's features are {', '.join(features)}"
            )
        values = features[block]
        return values.mean(tuple(range(1, values.ndim - 1)))

    @property
    def _optimizers(self) -> dict[str, Any]:
        settings = self.config.optimizer
        return {
            "head": optim.make(dataclasses.replace(settings, freeze="")),
            "confusion": optim.make(dataclasses.replace(settings, weight_decay=0.0)),
        }

    def init(self, state: TrainState, features: Callable[[], dict[str, Array]]) -> dict[str, Any]:
        """The group head, and the state of two more optimizers."""
        width = jax.eval_shape(lambda: self._feature(features())).shape[-1]
        dtype = jnp.promote_types(self.config.model.dtype, jnp.float32)
        shape = (width, len(self.groups.levels))
        kernel = nn.initializers.glorot_uniform()(rng.key(self.config.seed, "group_head"), shape, jnp.float32)
        head = {"kernel": kernel.astype(dtype), "bias": jnp.zeros(shape[1], dtype)}
        optimizers = self._optimizers
        return {
            "head": head,
            "head_opt": optimizers["head"].init(head),
            "confusion_opt": optimizers["confusion"].init(state.params),
        }

    def _logits(self, head: dict[str, Array], features: dict[str, Array]) -> Float[Array, "b groups"]:
        return self._feature(features).astype(head["kernel"].dtype) @ head["kernel"] + head["bias"]

    def _confusion(self, logits: Float[Array, "b groups"], group: Int[Array, " b"]) -> Float[Array, " b"]:
        """[b] the loss of the model while the head is held: lowest where the head finds all groups equally likely."""
        return -jax.nn.log_softmax(logits).mean(-1)

    def wrap(self, step: Step, sweep: Sweep, phase: str) -> Step:
        """The task's update, followed by the second and the third."""
        if phase == "model":
            return step
        alpha, beta, optimizers = self.config.method.alpha, self.config.method.beta, self._optimizers

        def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
            moved, metrics = step(state, batch)
            method_state = state.method
            is_known = batch["group"] >= 0
            known = batch | {
                "group": jnp.maximum(batch["group"], 0),
                "weight": jnp.where(is_known, batch["weight"], 0),
            }
            norm = jnp.maximum(sweep.total(known["weight"].sum()), 1)

            def logits(params: Any, head: Any, batch_stats: Any, micro: dict[str, Array]) -> Any:
                _, features, batch_stats = sweep.forward(
                    params, batch_stats, sweep.seen(micro, state.step), state.step
                )
                return self._logits(head, features), batch_stats

            def recognise(head: Any, batch_stats: Any, micro: dict[str, Array]) -> Any:
                scores, batch_stats = logits(moved.params, head, batch_stats, micro)
                entropy = losses.softmax_cross_entropy(scores, micro["group"])
                return losses.weighted_mean(entropy, micro["weight"])[0] / norm * alpha, ((), batch_stats)

            def confuse(params: Any, batch_stats: Any, micro: dict[str, Array]) -> Any:
                scores, batch_stats = logits(params, head, batch_stats, micro)
                confusion = self._confusion(scores, micro["group"])
                return losses.weighted_mean(confusion, micro["weight"])[0] / norm * beta, ((), batch_stats)

            stats = moved.batch_stats
            metrics["group_head_loss"], _, grads, _ = sweep.gradient(
                recognise, method_state["head"], stats, known
            )
            head, head_opt = optim.apply(
                optimizers["head"], grads, method_state["head_opt"], method_state["head"]
            )
            method_state = method_state | {"head": head, "head_opt": head_opt}
            params = moved.params
            if phase == "all":
                metrics["confusion_loss"], _, grads, _ = sweep.gradient(
                    confuse, params, stats, known, self.config.optimizer.freeze
                )
                params, opt = optim.apply(
                    optimizers["confusion"], grads, method_state["confusion_opt"], params
                )
                method_state = method_state | {"confusion_opt": opt}
            return moved.replace(params=params, method=method_state), metrics

        return train_step


class Adversarial(Unlearning):
    """The model learns to be misread: unlearning whose third loss is how much the head is right.

    That loss is beta times ``sum_i p_i / (G P(g_i))``, where p_i is the probability that the head gives to the group g_i of
    example i, and P(g) the group's share of the training images: every group counts alike, and p is bounded, as
    cross-entropy is not. Madras et
    al. 2018, arXiv:1802.06309, equation 4, whose two groups and one-sided distance it extends.
    """

    @functools.cached_property
    def _balance(self) -> Float[np.ndarray, " groups"]:
        """1 / (G P(g)); 0 for a group without images."""
        counts = np.bincount(self.code[self.code >= 0], minlength=len(self.groups.levels))
        return np.where(counts > 0, counts.sum() / (len(counts) * np.maximum(counts, 1)), 0.0)

    def _confusion(self, logits: Float[Array, "b groups"], group: Int[Array, " b"]) -> Float[Array, " b"]:
        right = jnp.take_along_axis(jax.nn.softmax(logits), group[:, None], -1)[:, 0]
        return jnp.asarray(self._balance, right.dtype)[group] * right
