import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engine import rng as streams
from engine import transforms
from engine.config import UserError
from engine.transforms import spatial


def keys(n, seed=0):
    return streams.example_keys(streams.key(seed, "augment", 3), jnp.arange(n))


def test_minmax_and_rescale_by_hand():
    images = jnp.array([[2.0, 4.0, 6.0], [5.0, 5.0, 5.0]])[..., None]
    out = transforms.chain("minmax|rescale(offset=-0.5)", allow_random=False)(images)
    np.testing.assert_allclose(out[..., 0], [[-0.5, 0.0, 0.5], [-0.5, -0.5, -0.5]])


def test_contrast_turns_about_the_middle_of_the_range_and_stays_within_it():
    images = jnp.array([[0.0, 2.0, 5.0, 7.0, 10.0], [3.0] * 5])[..., None]
    out = transforms.chain("contrast(factor=1.5)", allow_random=False)(images)
    np.testing.assert_allclose(out[..., 0], [[0, 0.5, 5, 8, 10], [3] * 5], atol=1e-6)


def test_standardise_over_the_foreground_leaves_the_background():
    image = jnp.array([0.0, 0.0, 1.0, 3.0])[None, :, None]
    out = transforms.chain("standardise(foreground=True)")(image)
    np.testing.assert_allclose(out[0, :, 0], [0, 0, -1, 1])


def test_random_operations_depend_on_the_examples_key_alone(rng):
    images = jnp.asarray(rng.normal(size=(6, 5, 5, 1)))
    chain = transforms.chain("shift(voxels=1)|flip(axis=1)|noise(sd=0.1)|gain(spread=0.2)")
    whole = chain(images, keys(6))
    np.testing.assert_allclose(chain(images[2:4], keys(6)[2:4]), whole[2:4], rtol=1e-6)
    order = np.array([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(chain(images[order], keys(6)[order]), whole[order], rtol=1e-6)


def test_shift_moves_whole_voxels():
    image = jnp.arange(9.0)[:, None]
    key = streams.key(1, "x")
    moved = [spatial.shift(image, jax.random.fold_in(key, i), voxels=2)[:, 0] for i in range(40)]
    shifts = {int(m[4] - 4) for m in moved}
    assert shifts == {-2, -1, 0, 1, 2}
    for m in moved:
        np.testing.assert_array_equal(m, np.clip(np.arange(9) + (m[4] - 4), 0, 8))


def test_flip_mirrors_half_of_the_time():
    image = jnp.arange(4.0)[:, None]
    outs = [spatial.flip(image, k)[0, 0] for k in keys(200)]
    assert set(map(float, outs)) == {0.0, 3.0}
    assert 70 < sum(o == 0 for o in outs) < 130


def test_crop_or_pad_by_hand():
    np.testing.assert_array_equal(spatial.crop_or_pad(np.arange(5), (3,)), [1, 2, 3])
    np.testing.assert_array_equal(spatial.crop_or_pad(np.arange(3), (6,)), [0, 0, 1, 2, 0, 0])
    both = spatial.crop_or_pad(np.ones((2, 4, 1)), (4, 2), value=7.0)
    assert both.shape == (4, 2, 1)
    assert both[0, 0, 0] == 7 and both[1, 0, 0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minmx", "Did you mean 'minmax'"),
        ("shift(voxel=2)", "no argument 'voxel'"),
        ("noise(sd=__import__('os'))", "does not read as"),
        ("minmax(0, 1)", "does not read as"),
        ("shift(", "does not read as"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(UserError, match=message):
        transforms.parse(text)


def test_random_operations_are_refused_in_preprocessing():
    with pytest.raises(UserError, match="belongs in data.augment"):
        transforms.parse("noise", allow_random=False)
