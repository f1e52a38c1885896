"""Losses against values worked by hand, optax, and plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equipoise.engine.update import losses

LN2 = np.log(2)


def test_weighted_mean_is_a_pair_that_adds_up():
    total, norm = losses.weighted_mean(jnp.asarray([1.0, 2, 4]), jnp.asarray([1.0, 0, 2]))
    assert (total, norm) == (9, 3)
    assert losses.weighted_mean(jnp.asarray([5.0, jnp.nan]), jnp.zeros(2)) == (0, 0)


def test_a_value_of_weight_zero_may_be_nan_in_value_and_gradient():
    def mean(x):
        known = jnp.asarray([[True], [False]])
        total, norm = losses.weighted_mean(
            losses.sigmoid_cross_entropy(x, x * 0, known), jnp.asarray([2.0, 0])
        )
        return total / norm

    value, gradient = jax.value_and_grad(mean)(jnp.zeros((2, 1)))
    np.testing.assert_allclose(value, LN2, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0.5], [0]])


def test_softmax_cross_entropy(rng):
    logits = jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)
    labels = jnp.asarray([0, 3, 1, 1, 2])
    np.testing.assert_allclose(
        losses.softmax_cross_entropy(jnp.zeros((1, 2)), jnp.asarray([1])), [LN2], rtol=1e-6
    )
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, labels), expected, rtol=1e-5)
    smooth = optax.softmax_cross_entropy(logits, optax.smooth_labels(jax.nn.one_hot(labels, 4), 0.2))
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, labels, 0.2), smooth, rtol=1e-5)
    assert losses.softmax_cross_entropy(jnp.asarray([[1e4, 0.0]]), jnp.asarray([1])) == 1e4


def test_sigmoid_cross_entropy(rng):
    logits = jnp.asarray(rng.normal(size=(3, 2)) * 30, jnp.float32)
    targets = jnp.asarray([[0, 1], [1, 1], [0, 0.5]])
    expected = optax.sigmoid_binary_cross_entropy(logits, targets)
    np.testing.assert_allclose(losses.sigmoid_cross_entropy(logits, targets), expected.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(
        losses.sigmoid_cross_entropy(logits[:, 0], targets[:, 0]), expected[:, 0], rtol=1e-5
    )
    known = jnp.asarray([[True, False], [True, True], [False, False]])
    masked = losses.sigmoid_cross_entropy(logits, jnp.where(known, targets, jnp.nan), known)
    np.testing.assert_allclose(masked, [expected[0, 0], expected[1].mean(), np.nan], rtol=1e-5)


def test_focal():
    # p_y = 1/4: 0.75^2 log 4 = 0.7798; doubled by the class weight.
    logits = jnp.log(jnp.asarray([[0.75, 0.25]]))
    np.testing.assert_allclose(losses.focal(logits, jnp.asarray([1])), [0.5625 * np.log(4)], rtol=1e-5)
    weighted = losses.focal(logits, jnp.asarray([1]), class_weights=jnp.asarray([1.0, 2.0]))
    np.testing.assert_allclose(weighted, [1.125 * np.log(4)], rtol=1e-5)
    np.testing.assert_allclose(losses.focal(logits, jnp.asarray([1]), gamma=0.0), [np.log(4)], rtol=1e-6)
    certain = jax.grad(lambda x: losses.focal(x, jnp.asarray([0])).sum())(jnp.asarray([[200.0, 0.0]]))
    np.testing.assert_array_equal(certain, [[0, 0]])
    with pytest.raises(ValueError, match=r"gamma=0\.5"):
        losses.focal(logits, jnp.asarray([1]), gamma=0.5)


def test_regression_errors():
    output, target = jnp.asarray([[1.0], [4.0]]), jnp.asarray([3.0, 3.5])
    np.testing.assert_array_equal(losses.squared_error(output, target), [4, 0.25])
    np.testing.assert_array_equal(losses.absolute_error(output, target), [2, 0.5])
    two = jnp.asarray([[1.0, 2.0]])
    np.testing.assert_array_equal(losses.squared_error(two, two + jnp.asarray([1.0, 3.0])), [5])
    with pytest.raises(ValueError, match="differ in shape"):
        losses.squared_error(jnp.zeros((2, 3)), jnp.zeros((2,)))


def test_squared_dice_by_hand_and_of_an_absent_class():
    # Class 0: 1 - (2 * 1 + e) / (1.25 + 1 + e); class 1: 1 - (2 * 0.5 + e) / (0.25 + 1 + e); class 2 is nowhere: 0.
    probabilities = jnp.asarray([[[1.0, 0, 0], [0.5, 0.5, 0]]])
    sums = losses.dice_sums(probabilities, jnp.asarray([[0, 1]]))
    np.testing.assert_allclose(sums[0], [[1, 1.25, 1], [0.5, 0.25, 1], [0, 0, 0]])
    expected = np.mean([1 - 2 / 2.25, 1 - 1 / 1.25, 0])
    np.testing.assert_allclose(losses.squared_dice(sums), [expected], rtol=1e-4)


@pytest.mark.parametrize("spatial", [(7, 5), (3, 4, 5)])
def test_squared_dice_is_that_of_monai(rng, spatial):
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.losses")
    logits, labels = rng.normal(size=(4, *spatial, 3)), rng.integers(0, 3, (4, *spatial))
    sums = losses.dice_sums(jax.nn.softmax(jnp.asarray(logits)), jnp.asarray(labels))
    given = torch.from_numpy(np.moveaxis(logits, -1, 1)), torch.from_numpy(labels[:, None])
    for batch, ours in ((False, losses.squared_dice(sums).mean()), (True, losses.squared_dice(sums.sum(0)))):
        peer = monai.DiceLoss(
            softmax=True, to_onehot_y=True, squared_pred=True, smooth_nr=1e-5, smooth_dr=1e-5, batch=batch
        )
        assert float(ours) == pytest.approx(float(peer(*given)), rel=1e-5)


def test_contributions_have_the_value_and_the_gradient_of_the_batch(rng):
    logits, labels = jnp.asarray(rng.normal(size=(5, 6, 3))), jnp.asarray(rng.integers(0, 3, (5, 6)))
    sums_of = lambda x: losses.dice_sums(jax.nn.softmax(x), labels)  # noqa: E731

    def by_parts(x):
        sums = sums_of(x)
        return losses.contributions(losses.squared_dice, sums, sums.sum(0), 5.0).mean()

    whole = jax.value_and_grad(lambda x: losses.squared_dice(sums_of(x).sum(0)))(logits)
    parts = jax.value_and_grad(by_parts)(logits)
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(parts[1], whole[1], atol=1e-7)
