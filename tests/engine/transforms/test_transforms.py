import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from equipoise.engine import rng as streams
from equipoise.engine import transforms
from equipoise.engine.errors import UserError
from equipoise.engine.transforms import intensity, spatial


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


@pytest.mark.parametrize(("shape", "axes"), [((11, 14), (0, 1)), ((5, 9, 8), (1, 2)), ((6, 5, 7), (0, 2))])
@pytest.mark.parametrize(("outside", "mode"), [("edge", "nearest"), ("zero", "grid-constant")])
def test_rotation_is_that_of_scipy(rng, shape, axes, outside, mode):
    image, mask = rng.normal(size=shape).astype(np.float32), rng.integers(0, 4, shape).astype(np.uint8)
    for degrees in (-33.0, 12.5):
        twin = lambda x, order, d=degrees: ndimage.rotate(x, d, axes, reshape=False, order=order, mode=mode)  # noqa: E731
        ours = lambda x, d=degrees: spatial.rotated(jnp.asarray(x)[..., None], d, axes, outside)[..., 0]  # noqa: E731
        np.testing.assert_allclose(ours(image), twin(image, 1), atol=2e-5)
        np.testing.assert_array_equal(ours(mask), twin(mask, 0))


@pytest.mark.parametrize("shape", [(9, 12), (4, 6, 5)])
def test_scaling_is_an_affine_map_about_the_centre(rng, shape):
    image = rng.normal(size=shape).astype(np.float32)
    middle = (np.array(shape) - 1) / 2
    twin = ndimage.affine_transform(
        image, np.full(len(shape), 1 / 1.3), middle * (1 - 1 / 1.3), order=1, mode="nearest"
    )
    np.testing.assert_allclose(spatial.scaled(jnp.asarray(image)[..., None], 1.3)[..., 0], twin, atol=1e-5)


def test_resize_is_that_of_torch(rng):
    torch = pytest.importorskip("torch")
    for shape, new, mode in (((9, 12), (5, 30), "bilinear"), ((4, 6, 5), (8, 3, 7), "trilinear")):
        image, mask = rng.normal(size=shape), rng.integers(0, 4, shape).astype(np.uint8)
        interpolate = torch.nn.functional.interpolate
        twin = interpolate(torch.from_numpy(image)[None, None], new, mode=mode, align_corners=False)[0, 0]
        np.testing.assert_allclose(
            spatial.resize(jnp.asarray(image)[..., None], new)[..., 0], twin, atol=1e-5
        )
        twin = interpolate(torch.from_numpy(mask)[None, None], new, mode="nearest-exact")[0, 0]
        np.testing.assert_array_equal(spatial.resize(jnp.asarray(mask)[..., None], new)[..., 0], twin)


def test_masks_reach_a_coarse_grid_from_corner_to_corner():
    index = jnp.arange(512)[None]
    coarse = spatial.nearest_by_corners(index, (128,))[0]
    np.testing.assert_array_equal(coarse[:4], [0, 4, 8, 12])
    np.testing.assert_array_equal(coarse, ndimage.zoom(np.arange(512), 128 / 512, order=0))


@pytest.mark.parametrize(
    "text",
    [
        "flip(axis=1)",
        "shift(voxels=2)",
        "rot90",
        "rotate(degrees=40.0, interpolation='nearest')",
        "crop(shape=(5, 7))",
        "transunet",
    ],
)
def test_a_mask_moves_with_its_image(rng, text):
    masks = jnp.asarray(rng.integers(1, 5, (12, 9, 9)), jnp.uint8)
    images = masks[..., None].astype(jnp.float32)
    chain = transforms.chain(f"{text}|brightness(spread=0.2)")
    moved, moved_masks = chain.with_masks(images, masks, keys(12))
    assert moved_masks.dtype == jnp.uint8 and moved_masks.shape == moved.shape[:-1]
    offset = np.asarray(moved[..., 0]) - np.asarray(moved_masks)
    np.testing.assert_allclose(offset, np.broadcast_to(offset[:, :1, :1], offset.shape), atol=1e-5)
    assert moved_masks.shape != masks.shape or not np.array_equal(moved_masks, masks)


def test_quarter_turns_and_gamma_by_hand():
    image = jnp.arange(9.0).reshape(3, 3, 1)
    for quarters in range(4):
        np.testing.assert_array_equal(
            spatial.turned(image, quarters)[..., 0], np.rot90(image[..., 0], quarters)
        )
    np.testing.assert_allclose(intensity.power(jnp.array([2.0, 4.0, 6.0]), 2.0), [2, 3, 6], rtol=1e-6)
    np.testing.assert_allclose(intensity.power(jnp.full(3, 5.0), 2.0), [5, 5, 5])
    with pytest.raises(UserError, match="axes of the same length"):
        spatial.turned(jnp.zeros((3, 4, 1)), 1)


def test_the_parts_of_the_transunet_augmentation_come_as_often_as_said():
    image = jnp.arange(41.0**2).reshape(41, 41, 1) + 1  # so large that a degree shows
    out = np.asarray(jax.vmap(spatial.transunet, (None, 0))(image, keys(400)))[..., 0]
    same = (out == image[..., 0]).all((1, 2)).mean()
    square = {np.flip(np.rot90(np.asarray(image)[..., 0], k), a).tobytes() for k in range(4) for a in (0, 1)}
    turned = np.mean([o.tobytes() in square for o in out])
    assert turned == pytest.approx(0.5, abs=0.08) and same == pytest.approx(0.25, abs=0.08)
