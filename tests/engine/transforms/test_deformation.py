import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, ndimage

from equipoise.engine.transforms import deformation
from equipoise.engine.transforms.masks import decode_mask, encode_mask

SHAPE = (16, 18, 14)
GRID = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")).astype(np.float32)
INNER = (slice(None), *(slice(4, -4),) * 3)


def smooth_field(seed, size=1.5):
    noise = np.random.default_rng(seed).normal(size=(3, *SHAPE))
    field = np.stack([ndimage.gaussian_filter(n, 3) for n in noise])
    return jnp.asarray(size * field / np.abs(field).max(), jnp.float32)


def test_warp_is_scipys_linear_interpolation(rng):
    image = rng.normal(size=SHAPE).astype(np.float32)
    displacement = rng.normal(0, 3, (3, *SHAPE)).astype(np.float32)
    expected = ndimage.map_coordinates(image, GRID + displacement, order=1, mode="nearest")
    np.testing.assert_allclose(
        deformation.warp(jnp.asarray(image), jnp.asarray(displacement)), expected, atol=1e-4
    )


def test_exponential_of_a_linear_field_is_the_matrix_exponential():
    matrix = np.array([[0.02, -0.05, 0.0], [0.05, 0.01, 0.0], [0.0, 0.03, -0.04]])
    centre = (np.array(SHAPE) - 1) / 2
    offset = GRID - centre[:, None, None, None]
    velocity = np.einsum("ij,j...->i...", matrix, offset)
    expected = np.einsum("ij,j...->i...", linalg.expm(matrix) - np.eye(3), offset)
    found = deformation.exponential(jnp.asarray(velocity, jnp.float32), num_squarings=8)
    np.testing.assert_allclose(found[INNER], expected[INNER], atol=2e-3)


def test_exponential_of_minus_v_inverts():
    v = smooth_field(0)
    forth, back = deformation.exponential(v), deformation.exponential(-v)
    both = deformation.compose(forth, back)
    assert float(jnp.abs(both[INNER]).max()) < 0.02 < float(jnp.abs(forth[INNER]).max())


def test_a_field_that_is_zero_outside_a_box_may_be_kept_on_the_box():
    """A box gives the exponential, and moves points anywhere, as the whole field does."""
    box, origin = (slice(None), slice(3, 13), slice(4, 15), slice(2, 12)), (3, 4, 2)
    inside = np.zeros(SHAPE, np.float32)
    inside[4:12, 5:14, 3:11] = 1
    velocity = smooth_field(4, size=3) * inside
    whole = deformation.exponential(velocity)
    part = deformation.exponential(velocity[box], origin=origin)
    np.testing.assert_allclose(part, whole[box], atol=1e-6)
    points = deformation.looks_at(smooth_field(5, size=4))
    found, expected = deformation.sample(part, points, origin), deformation.sample(whole, points)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert float(jnp.abs(whole).max()) > 1


def test_compose_is_one_map_after_the_other():
    a, b = smooth_field(1), smooth_field(2)
    image = jnp.asarray(ndimage.gaussian_filter(np.random.default_rng(3).normal(size=SHAPE), 2), jnp.float32)
    at_once = deformation.warp(image, deformation.compose(a, b))
    one_by_one = deformation.warp(deformation.warp(image, a), b)
    assert float(jnp.abs(at_once - one_by_one)[INNER[1:]].max()) < 0.05 * float(jnp.abs(image).max())


def test_jacobian_of_a_linear_map_is_its_determinant():
    matrix = np.array([[0.1, 0.2, 0.0], [-0.1, 0.05, 0.3], [0.0, 0.1, -0.2]])
    u = np.einsum("ij,j...->i...", matrix, GRID)
    found = deformation.jacobian_determinant(jnp.asarray(u, jnp.float32))
    np.testing.assert_allclose(found, np.linalg.det(np.eye(3) + matrix), atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 3, 4), (16, 5, 4), (37, 6, 9)])
def test_jacobian_is_that_of_central_differences(rng, shape):
    """Every voxel is compared with NumPy's gradient and determinant, edges too, for numbers of planes that do not divide evenly."""
    u = rng.normal(size=(3, *shape))
    matrices = np.stack([np.stack(np.gradient(row), -1) for row in u], -2) + np.eye(3)
    found = deformation.jacobian_determinant(jnp.asarray(u, jnp.float32))
    np.testing.assert_allclose(found, np.linalg.det(matrices), atol=1e-4)


def test_a_fold_shows_as_a_negative_determinant():
    u = np.zeros((3, *SHAPE), np.float32)
    u[0, 8:] = -4.0
    assert float(deformation.jacobian_determinant(jnp.asarray(u)).min()) < 0


@pytest.mark.parametrize("shape", [(5,), (3, 4), (7, 6, 5), (0, 3)])
def test_masks_survive_the_round_trip(rng, shape):
    mask = rng.random(shape) > 0.5
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)


@pytest.mark.parametrize(("every", "expected"), [(1, (9, 10, 12)), (2, (5, 6, 7)), (4, (3, 4, 4))])
def test_a_control_grid_covers_the_volume(every, expected):
    assert deformation.control_shape((9, 10, 12), every) == expected


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_a_linear_displacement_is_brought_from_the_control_grid_exactly(every):
    matrix = np.array([[0.1, 0.2, 0.0], [-0.1, 0.05, 0.3], [0.0, 0.1, -0.2]])
    coarse_grid = np.stack(
        np.meshgrid(*map(np.arange, deformation.control_shape(SHAPE, every)), indexing="ij")
    )
    coarse = jnp.asarray(np.einsum("ij,j...->i...", matrix, coarse_grid), jnp.float32)
    np.testing.assert_allclose(
        deformation.upsample(coarse, SHAPE, every), np.einsum("ij,j...->i...", matrix, GRID), atol=1e-5
    )


def test_the_error_of_a_control_grid_falls_with_the_square_of_its_step():
    """A rough wave, 48 voxels long and 3 high: halving the step must divide the error by about four."""
    shape = (49, 49, 49)
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij") * np.array(2 * np.pi / 48)
    velocity = jnp.asarray(3 * np.stack([np.sin(y), np.sin(z), np.sin(x)]), jnp.float32)
    full = deformation.exponential(velocity)
    errors = []
    for every in (4, 2, 1):
        coarse = deformation.exponential(velocity[:, ::every, ::every, ::every] / every)
        assert coarse.shape[1:] == deformation.control_shape(shape, every)
        away = jnp.abs(deformation.upsample(coarse, shape, every) - full)[:, 6:-6, 6:-6, 6:-6]
        errors.append(float(away.max()))
    assert 3 < errors[0] / errors[1] < 5
    assert errors[2] == 0 < errors[1] < errors[0] < 0.1 * float(jnp.abs(full).max())
