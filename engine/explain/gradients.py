"""Which parts of an image a model's output depends on: input gradients, and their means over groups of people.

``predict`` is any function from images [b, *spatial, c] to logits [b, k] that treats each image on its own, such as
``lambda image: model.apply(variables, image, train=False)[0]``.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

Predict = Callable[[Float[Array, "b *spatial c"]], Float[Array, "b k"]]


def input_gradient(
    predict: Predict, images: Float[Array, "b *spatial c"], targets: Int[Array, " b"]
) -> Float[Array, "b *spatial c"]:
    """The derivative of each image's target logit with respect to its voxels.

    Args:
      predict: images to logits.
      images: the images to explain.
      targets: index of the logit, for instance the true class.
    """

    def chosen(x: Array) -> Array:
        return jnp.take_along_axis(predict(x), targets[:, None], -1).sum()

    return jax.grad(chosen)(images)


def magnitude(gradients: Float[Array, "b *spatial c"]) -> Float[Array, "b *spatial"]:
    """The largest absolute value over the channels (Simonyan et al. 2014, arXiv:1312.6034, section 3)."""
    return jnp.abs(gradients).max(-1)


def gradient(
    predict: Predict, images: Float[Array, "b *spatial c"], targets: Int[Array, " b"]
) -> Float[Array, "b *spatial"]:
    """The plain gradient map: the magnitude of :func:`input_gradient`."""
    return magnitude(input_gradient(predict, images, targets))


def smooth_grad(
    predict: Predict,
    images: Float[Array, "b *spatial c"],
    targets: Int[Array, " b"],
    keys: Key[Array, " b"],
    *,
    num_samples: int = 20,
    noise: float = 0.2,
    absolute: bool = True,
) -> Float[Array, "b *spatial"]:
    """SmoothGrad: the mean gradient map of noisy copies (Smilkov et al. 2017, arXiv:1706.03825, equation 1).

    The standard deviation of the noise is ``noise`` times the image's own range, maximum minus minimum. The samples are
    unrolled, because XLA's convolution is slow inside a loop on a CPU; memory is still that of one gradient.

    Args:
      predict: images to logits.
      images: the images to explain.
      targets: index of the logit.
      keys: one per image; a map depends on its own key, not on the batch around it.
      num_samples: noisy copies of each image.
      noise: standard deviation as a fraction of the range.
      absolute: whether to take the mean of the copies' magnitudes, in which signs cannot cancel; otherwise the magnitude of
        the mean gradient.
    """
    axes = tuple(range(1, images.ndim))
    sigma = noise * (images.max(axes, keepdims=True) - images.min(axes, keepdims=True))

    def one_sample(number: int) -> Array:
        def draw(key: Array) -> Array:
            return jax.random.normal(jax.random.fold_in(key, number), images.shape[1:], images.dtype)

        gradients = input_gradient(predict, images + sigma * jax.vmap(draw)(keys), targets)
        return magnitude(gradients) if absolute else gradients

    total = one_sample(0)
    for number in range(1, num_samples):
        total = total + one_sample(number)
    mean = total / num_samples
    return mean if absolute else magnitude(mean)


def normalise(maps: Float[Array, "b *spatial"]) -> Float[Array, "b *spatial"]:
    """Scales each map to [0, 1] by its own minimum and maximum; a constant map becomes 0."""
    axes = tuple(range(1, maps.ndim))
    low, high = maps.min(axes, keepdims=True), maps.max(axes, keepdims=True)
    return (maps - low) / jnp.where(high > low, high - low, 1)


class GroupMeans:
    """The mean map of each group, added up batch by batch in float64 on the host.

    Attributes:
      count: maps added to each group so far.
    """

    def __init__(self) -> None:
        self.count: dict[str, int] = {}
        self._total: dict[str, np.ndarray] = {}

    def add(self, maps: Float[Array, "b *spatial"], groups: list[str]) -> None:
        """Adds a batch of maps; ``groups`` names the group of each.

        Raises:
          ValueError: when there are not as many groups as maps.
        """
        for image_map, group in zip(np.asarray(maps, np.float64), groups, strict=True):
            self._total[group] = self._total.get(group, 0.0) + image_map
            self.count[group] = self.count.get(group, 0) + 1

    def means(self) -> dict[str, Float[np.ndarray, "*spatial"]]:
        """The mean map of every group that has at least one, by name."""
        return {group: self._total[group] / self.count[group] for group in sorted(self._total)}


def differences(means: Mapping[str, np.ndarray], reference: str) -> dict[str, np.ndarray]:
    """The mean map of every other group minus that of ``reference``.

    Raises:
      KeyError: when the reference has no map.
    """
    if reference not in means:
        raise KeyError(f"no map of the reference group {reference!r}; there are {sorted(means)}")
    return {group: mean - means[reference] for group, mean in means.items() if group != reference}
