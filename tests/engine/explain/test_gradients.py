"""Saliency of functions whose derivative is known, and group means against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.engine.explain import gradients as saliency

SHAPE = (4, 3, 5, 2, 2)


@pytest.fixture
def setting(rng):
    """(weights [*spatial, c, k], images, targets, keys)."""
    weights = jnp.asarray(rng.normal(size=(*SHAPE[1:], 3)), jnp.float32)
    images = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
    return weights, images, jnp.asarray([0, 2, 1, 2]), jax.random.split(jax.random.key(0), 4)


def test_gradient_of_a_linear_model_is_its_weights(setting):
    weights, images, targets, _ = setting
    predict = lambda x: jnp.tensordot(x, weights, 4)  # noqa: E731
    expected = jnp.moveaxis(weights, -1, 0)[targets]
    np.testing.assert_allclose(saliency.input_gradient(predict, images, targets), expected, rtol=1e-5)
    maps = saliency.gradient(predict, images, targets)
    assert maps.shape == SHAPE[:-1]
    np.testing.assert_allclose(maps, np.abs(expected).max(-1), rtol=1e-5)


@pytest.mark.parametrize("absolute", [True, False])
def test_smooth_grad_of_a_linear_model_is_its_gradient(setting, absolute):
    weights, images, targets, keys = setting
    predict = lambda x: jnp.tensordot(x, weights, 4)  # noqa: E731
    smooth = saliency.smooth_grad(predict, images, targets, keys, num_samples=3, absolute=absolute)
    np.testing.assert_allclose(smooth, saliency.gradient(predict, images, targets), rtol=1e-5)


def test_smooth_grad_of_a_square_averages_over_noise_of_the_stated_width():
    # d/dx sum x^2 = 2x, so the map is the mean of |2 (x + sigma n)|. At x = 0 with range 4 and noise 0.25, sigma = 1
    # and the mean of |2 n| is 2 sqrt(2 / pi) = 1.596.
    images = jnp.zeros((1, 40, 40, 1)).at[0, 0, 0, 0].set(4.0)
    predict = lambda x: jnp.square(x).sum((1, 2, 3))[:, None]  # noqa: E731
    keys = jax.random.split(jax.random.key(1), 1)
    maps = saliency.smooth_grad(predict, images, jnp.asarray([0]), keys, num_samples=8, noise=0.25)
    assert abs(float(maps[0, 1:].mean()) - 2 * np.sqrt(2 / np.pi)) < 0.05  # five standard errors
    signed = saliency.smooth_grad(
        predict, images, jnp.asarray([0]), keys, num_samples=8, noise=0.25, absolute=False
    )
    assert float(signed[0, 1:].mean()) < 0.8  # signs cancel: 1.596 / sqrt(8)


def test_a_map_depends_on_its_own_key_only(setting):
    weights, images, targets, keys = setting
    predict = lambda x: jnp.square(jnp.tensordot(x, weights, 4))  # noqa: E731
    all_maps = saliency.smooth_grad(predict, images, targets, keys, num_samples=2)
    some = jnp.asarray([2, 0])
    one_by_one = saliency.smooth_grad(predict, images[some], targets[some], keys[some], num_samples=2)
    np.testing.assert_allclose(one_by_one, all_maps[some], rtol=1e-5)
    other = saliency.smooth_grad(
        predict, images[some], targets[some], keys[jnp.asarray([1, 3])], num_samples=2
    )
    assert np.abs(other - one_by_one).max() > 0.1


def test_normalise():
    maps = jnp.asarray([[1.0, 3, 5], [2, 2, 2]])
    np.testing.assert_array_equal(saliency.normalise(maps), [[0, 0.5, 1], [0, 0, 0]])


def test_group_means_equal_numpy(rng):
    maps, groups = rng.normal(size=(7, 2, 3)), np.asarray(["a", "b", "a", "a", "b", "c", "a"])
    means = saliency.GroupMeans()
    means.add(jnp.asarray(maps[:3]), list(groups[:3]))
    means.add(jnp.asarray(maps[3:]), list(groups[3:]))
    assert means.count == {"a": 4, "b": 2, "c": 1}
    for group, mean in means.means().items():
        np.testing.assert_allclose(mean, maps[groups == group].mean(0), rtol=1e-6, atol=1e-7)
    between = saliency.differences(means.means(), "b")
    assert sorted(between) == ["a", "c"]
    np.testing.assert_allclose(between["c"], means.means()["c"] - means.means()["b"])


def test_groups_that_do_not_fit():
    with pytest.raises(ValueError, match="zip"):
        saliency.GroupMeans().add(jnp.zeros((2, 3)), ["a"])
    with pytest.raises(KeyError, match="'b'"):
        saliency.differences({"a": np.zeros(2)}, "b")
