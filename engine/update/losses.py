"""Losses: one value per example. :func:`weighted_mean` turns them into sums that add up over devices.

No loss averages over the batch: group methods, padding and microbatches all act through the weights of examples.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer


def weighted_mean(
    values: Float[Array, " b"], weights: Float[Array, " b"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(weighted sum, sum of weights): each may be added up over devices before the caller divides.

    A value with weight 0 is left out of the sum and of the gradient, even when it is NaN. Where all weights are 0 both sums
    are 0, and the quotient is NaN: there is no mean of nothing.

    Args:
      values: one per example.
      weights: one per example, at least 0.
    """
    return jnp.where(weights > 0, values * weights, 0).sum(), weights.sum()


def softmax_cross_entropy(
    logits: Float[Array, "*batch k"], labels: Int[Array, "*batch"], label_smoothing: float = 0.0
) -> Float[Array, "*batch"]:
    """``-sum_j q_j log softmax(logits)_j``, where q is the label, mixed with the uniform distribution by ``label_smoothing``.

    Label smoothing follows Szegedy et al. 2016, arXiv:1512.00567, equation 7.

    Args:
      logits: one for each of k exclusive classes.
      labels: class indices.
      label_smoothing: the share of the uniform distribution, in [0, 1).
    """
    log_p = jax.nn.log_softmax(logits)
    hard = -jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    return (1 - label_smoothing) * hard - label_smoothing * log_p.mean(-1) if label_smoothing else hard


def sigmoid_cross_entropy(
    logits: Float[Array, "b *labels"],
    targets: Float[Array, "b *labels"],
    known: Bool[Array, "b *labels"] | None = None,
) -> Float[Array, " b"]:
    """Binary cross-entropy, averaged over an example's labels.

    Args:
      logits: [b], or [b, k] of k labels that do not exclude each other.
      targets: in [0, 1], of the same shape.
      known: which labels are known; the others may hold anything. An example without any known label has loss NaN: give it
        weight 0.
    """
    _check_same_shape(logits, targets)
    axes = tuple(range(1, logits.ndim))
    if known is None:
        known = jnp.ones(logits.shape, bool)
    targets = jnp.where(known, targets, 0)
    entropy = targets * jax.nn.softplus(-logits) + (1 - targets) * jax.nn.softplus(logits)
    count = known.sum(axes)
    total = jnp.where(known, entropy, 0).sum(axes)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def focal(
    logits: Float[Array, "*batch k"],
    labels: Int[Array, "*batch"],
    gamma: float = 2.0,
    class_weights: Float[Array, " k"] | None = None,
) -> Float[Array, "*batch"]:
    """``-alpha_y (1 - p_y)^gamma log p_y``, where p is the softmax (Lin et al. 2017, arXiv:1708.02002, equation 5).

    Args:
      logits: one for each of k exclusive classes.
      labels: class indices y.
      gamma: the focusing exponent; 0 is cross-entropy. Between 0 and 1 the gradient is unbounded at p_y = 1.
      class_weights: alpha of each class; by default 1.

    Raises:
      ValueError: for a gamma that is neither 0 nor at least 1.
    """
    if gamma != 0 and gamma < 1:
        raise ValueError(f"focal loss with gamma={gamma} has no bounded gradient: choose 0 or at least 1")
    loss = softmax_cross_entropy(logits, labels)
    if gamma:
        loss = (-jnp.expm1(-loss)) ** gamma * loss
    return loss if class_weights is None else class_weights[labels] * loss


def squared_error(output: Float[Array, "b *k"], target: Float[Array, "b *n"]) -> Float[Array, " b"]:
    """Squared error, averaged over an example's targets; output [b, 1] may meet a target [b]."""
    return _per_example(jnp.square(_error(output, target)))


def absolute_error(output: Float[Array, "b *k"], target: Float[Array, "b *n"]) -> Float[Array, " b"]:
    """Absolute error, averaged over an example's targets; output [b, 1] may meet a target [b]."""
    return _per_example(jnp.abs(_error(output, target)))


def dice_sums(
    probabilities: Float[Array, "b *spatial k"], labels: Integer[Array, "b *spatial"]
) -> Float[Array, "b k 3"]:
    """``sum p y``, ``sum p^2`` and ``sum y^2`` of every class in every image, of which :func:`squared_dice` is made.

    Args:
      probabilities: p, of the classes at each position.
      labels: y, the class index at each position.
    """
    axes = tuple(range(1, labels.ndim))
    truth = jax.nn.one_hot(labels, probabilities.shape[-1], dtype=probabilities.dtype)
    squares = jnp.square(probabilities).sum(axes)
    return jnp.stack([(probabilities * truth).sum(axes), squares, truth.sum(axes)], axis=-1)


def squared_dice(sums: Float[Array, "*batch k 3"], epsilon: float = 1e-5) -> Float[Array, "*batch"]:
    """``mean_k 1 - (2 sum p y + e) / (sum p^2 + sum y^2 + e)`` over all classes k, the background among them.

    Milletari et al. 2016, arXiv:1606.04797, section 3, with squares in the denominator; e makes the loss of a class 0 where
    it is neither present nor predicted. TransUNet and SAMed use it with the sums of a whole batch.

    Args:
      sums: from :func:`dice_sums`, of one image or added up over several.
      epsilon: e.
    """
    overlap, squares = sums[..., 0], sums[..., 1] + sums[..., 2]
    return (1 - (2 * overlap + epsilon) / (squares + epsilon)).mean(-1)


def contributions(
    function: Callable[[Float[Array, "..."]], Float[Array, ""]],
    sums: Float[Array, "b ..."],
    total: Float[Array, "..."],
    count: float | Float[Array, ""],
) -> Float[Array, " b"]:
    """Each example's part in a function f of sums over a batch: ``f(T) + <f'(T), n s_b - T>``, where T is the sum of all s_b.

    The mean of these parts over the batch is exactly f(T), and the gradient of the mean is that of f(T), however the batch
    is split over devices and microbatches. So an example can be weighted as if it had a loss of its own.

    Args:
      function: f.
      sums: s_b, the sums of each example; gradients flow through these.
      total: T, the sums over the whole batch.
      count: n, the number of examples in the batch.
    """
    total = jax.lax.stop_gradient(total)
    value, slope = jax.value_and_grad(function)(total)
    return value + ((count * sums - total) * slope).sum(tuple(range(1, sums.ndim)))


def _check_same_shape(output: Array, target: Array) -> None:
    if output.shape != target.shape:
        raise ValueError(f"outputs {output.shape} and targets {target.shape} differ in shape")


def _error(output: Array, target: Array) -> Array:
    if output.shape == (*target.shape, 1):
        output = output[..., 0]
    _check_same_shape(output, target)
    return output - target


def _per_example(values: Array) -> Array:
    return values.mean(tuple(range(1, values.ndim)))
