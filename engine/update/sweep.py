"""Passes over one global batch: sums and gradients, microbatch by microbatch, over all devices."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from equipoise.engine import rng, transforms
from equipoise.engine.config import Run
from equipoise.engine.update import optim
from equipoise.engine.update.preprocess import make_preprocess, transformed


class Sweep:
    """Passes over the global batch, microbatch by microbatch.

    Microbatch j of A holds the examples i with i mod A = j. So their places in the global batch, and all sums, do not depend
    on how the batch is split over devices. The microbatches are unrolled, because convolutions inside a compiled loop are an
    order of magnitude slower on a CPU.

    Attributes:
      parts: A, how many microbatches a batch has.
    """

    def __init__(self, config: Run, model: nn.Module, axis_name: str | None = None):
        """Prepares passes for a run.

        Args:
          config: the run.
          model: the network.
          axis_name: the mapped axis that holds the parts of a batch, under ``pmap``.
        """
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
        """A microbatch as the model sees it in training: preprocessed and augmented; masks move with their images."""
        return transformed(self._augment, self._preprocess(micro), self._keys("augment", micro, step))

    def forward(
        self, params: Any, batch_stats: Any, seen: dict[str, Array], step: Int[Array, ""]
    ) -> tuple[Array, dict[str, Array], Any]:
        """(output, features, new running statistics) of the model in training.

        Args:
          params: the model's parameters.
          batch_stats: running statistics before.
          seen: a microbatch from :meth:`seen`.
          step: updates made so far.
        """
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
        """Adds up the sums of every microbatch over the global batch.

        Args:
          part: (microbatch, statistics) -> (its sums, new statistics).
          batch_stats: running statistics before.
          batch: this device's part of the batch.

        Returns:
          (global sums, last statistics).
        """
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
        """Value, and gradient in ``variables``, of a sum over the global batch.

        Args:
          loss: (variables, statistics, microbatch) -> (its summand, (other sums, new statistics)).
          variables: what to differentiate in.
          batch_stats: running statistics before.
          batch: this device's part of the batch.
          freeze: a pattern of paths whose gradient is not computed, but zero.

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
