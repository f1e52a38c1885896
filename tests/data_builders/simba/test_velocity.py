"""The deformation model against closed forms: modes against the covariance they come from, effects against their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, ndimage

from equipoise.data_builders.simba import anatomy as simba_anatomy
from equipoise.data_builders.simba.render import CONTROL_MM
from equipoise.data_builders.simba.velocity import GaussianProcess, bounding_box
from equipoise.engine.transforms import deformation

exponential = jax.jit(deformation.exponential)


def kernel(points, length):
    """The covariance matrix between [n, 3] points, written out."""
    away = ((points[:, None] - points) ** 2).sum(-1)
    return np.exp(-away / (2 * length**2))


def grid(shape, spacing):
    return np.stack(np.meshgrid(*(np.arange(n) * spacing for n in shape), indexing="ij"), -1).reshape(-1, 3)


def ball(shape, centre, radii):
    x = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return (((x - np.array(centre)) / np.array(radii)) ** 2).sum(-1) <= 1


def test_subject_modes_are_the_eigenvectors_of_the_covariance_matrix():
    shape, spacing = (6, 7, 5), 9.0
    model = GaussianProcess(length_mm=20.0, num_modes=12, subject_mm=2.0)
    modes = model.subject(shape, spacing)
    assert not modes.mean.any()
    assert modes.modes.shape == (12, 3, *shape)
    values, vectors = linalg.eigh(kernel(grid(shape, spacing), 20.0))
    values, vectors = values[::-1], vectors[:, ::-1]
    scale = None
    for k in range(4):  # each scalar mode once along every axis
        for component in range(3):
            mode = modes.modes[3 * k + component].astype(float)
            others = np.delete(mode, component, axis=0)
            assert not others.any()
            flat = mode[component].ravel()
            assert abs(flat @ vectors[:, k]) == pytest.approx(np.linalg.norm(flat), rel=1e-5)
            ratio = np.linalg.norm(flat) / np.sqrt(values[k])
            scale = ratio if scale is None else scale
            assert ratio == pytest.approx(scale, rel=1e-5)


def test_with_all_modes_the_covariance_itself_comes_back():
    shape, spacing = (4, 3, 5), 15.0
    count = 3 * np.prod(shape)
    model = GaussianProcess(length_mm=12.0, num_modes=int(count), subject_mm=3.0)
    modes = model.subject(shape, spacing).modes.reshape(count, -1).astype(float) * spacing
    expected = np.kron(np.eye(3), 3.0**2 * kernel(grid(shape, spacing), 12.0))
    np.testing.assert_allclose(modes.T @ modes, expected, atol=2e-5)


def test_draws_have_the_asked_spread():
    model = GaussianProcess(subject_mm=2.0, num_modes=30)
    modes = model.subject((20, 24, 16), 4).modes
    amplitudes = np.random.default_rng(0).normal(size=(400, 30))
    fields = np.tensordot(amplitudes, modes, 1) * 4
    assert np.sqrt((fields**2).mean()) == pytest.approx(2.0, rel=0.05)  # along each axis


def test_an_expansion_is_the_covariance_with_the_regions_growth():
    """-∇(k * 1_R): the regression of the velocity at x on ∫_R div v, summed by hand over the region."""
    shape, spacing, width = (17, 19, 15), 2.0, 4.0
    region = ball(shape, (8, 9, 7), (3, 4, 2))
    model = GaussianProcess(width_mm=width)
    field = model.effect(region, spacing).modes[0].astype(float)
    points, inside = grid(shape, spacing), grid(shape, spacing)[region.ravel()]
    apart = points[:, None] - inside
    growth = (apart * np.exp(-(apart**2).sum(-1, keepdims=True) / (2 * width**2))).sum(1) / width**2
    inward = -growth.T.reshape(
        3, *shape
    )  # an image is pulled back, so that it swells where the map points inward
    inward *= np.linalg.norm(field, axis=0).max() / np.linalg.norm(inward, axis=0).max()
    core = (slice(None), *(slice(2, -2),) * 3)
    assert np.abs(field - inward)[core].max() < 0.06 * np.abs(field).max()


@pytest.mark.parametrize("local_model", ["expansion", "mode"])
def test_an_effect_is_one_millimetre_at_most_and_ends_near_its_region(local_model):
    shape, spacing, width = (40, 36, 32), 2.0, 4.0
    region = ball(shape, (20, 14, 16), (2, 5, 4))
    model = GaussianProcess(width_mm=width, local_model=local_model)
    effect = model.effect(region, spacing)
    assert effect.modes.shape == (1, 3, *shape) and not effect.mean.any()
    speed = np.linalg.norm(effect.modes[0], axis=0) * spacing
    assert speed.max() == pytest.approx(1, rel=1e-5)
    away = ndimage.distance_transform_edt(~region) * spacing
    assert not speed[away > 4 * width * np.sqrt(3) + 2 * spacing].any()
    assert speed[away <= 2 * width].sum() > 0.8 * speed.sum()


def test_a_region_mode_is_the_first_eigenvector_of_the_windowed_covariance():
    shape, spacing, width, length = (7, 8, 6), 6.0, 6.0, 20.0
    region = ball(shape, (3, 4, 3), (1, 2, 2))
    model = GaussianProcess(width_mm=width, length_mm=length, local_model="mode")
    field = model.effect(region, spacing).modes[0].astype(float)
    window = ndimage.gaussian_filter(region.astype(float), width / spacing).ravel()
    _, vectors = linalg.eigh(window[:, None] * kernel(grid(shape, spacing), length) * window)
    # One field of one direction, the region's thinnest axis, along which the scalar mode is the eigenvector.
    along = field.reshape(3, -1)
    direction = along[:, np.abs(along).sum(0).argmax()]
    direction = direction / np.linalg.norm(direction)
    assert abs(direction[0]) > 0.99
    scalar = direction @ along
    np.testing.assert_allclose(np.outer(direction, scalar), along, atol=1e-6)
    assert abs(scalar @ vectors[:, -1]) == pytest.approx(np.linalg.norm(scalar), rel=1e-5)


def test_a_positive_expansion_swells_its_region_and_a_negative_one_shrinks_it():
    shape = (32, 30, 28)
    region = ball(shape, (16, 15, 14), (5, 4, 4))
    field = GaussianProcess(width_mm=4.0).effect(region, 2).modes[0]
    image = jnp.asarray(region, jnp.float32)
    volumes = [float(deformation.warp(image, exponential(a * field)).sum()) for a in (-2, 0, 2)]
    assert volumes[0] < 0.9 * volumes[1] < volumes[1] < 0.9 * volumes[2]


def test_a_region_mode_moves_its_region_outwards_along_its_thin_direction():
    shape = (32, 30, 28)
    region = ball(shape, (20, 15, 14), (3, 5, 5))
    field = GaussianProcess(width_mm=4.0, local_model="mode").effect(region, 2).modes[0]
    moved = np.asarray(deformation.warp(jnp.asarray(region, jnp.float32), exponential(2 * field)))
    shift = np.array(ndimage.center_of_mass(moved)) - ndimage.center_of_mass(region)
    assert shift[0] > 0.3 > 10 * np.abs(shift[1:]).max()
    assert moved.sum() == pytest.approx(region.sum(), rel=0.1)


def test_a_bounding_box_holds_every_voxel_and_no_more():
    inside = np.zeros((5, 6, 7), bool)
    inside[1, 2, 3] = inside[3, 4, 3] = True
    assert bounding_box(inside) == (slice(1, 4), slice(2, 5), slice(3, 4))


@pytest.mark.parametrize("local_model", ["expansion", "mode"])
def test_the_shipped_effects_have_an_inverse(local_model):
    """exp(-v) composed with exp(v), disease and near bias together, at usual scores and the coarsest shipped grid."""
    anatomy = simba_anatomy.load_mni152(4)
    model = GaussianProcess(local_model=local_model)
    disease, bias = (model.effect(anatomy.region(label), 4).modes[0] for label in (75, 78))
    check_inverse(2.5 * (disease + 2 * bias))


def test_the_error_of_an_inverse_falls_with_the_voxel():
    """What linear interpolation loses where a region shrinks is of the grid, not of the field."""
    errors = []
    for spacing in (4, 2, 1):
        shape = tuple(n // spacing for n in (64, 60, 56))
        region = ball(shape, np.array([32, 30, 28]) / spacing, np.array([6, 9, 8]) / spacing)
        field = GaussianProcess().effect(region, spacing).modes[0]
        both = deformation.compose(exponential(-3 * field), exponential(3 * field))
        errors.append(float(jnp.abs(both).max()) * spacing)
    assert errors[0] > 1.5 * errors[1] > 1.5**2 * errors[2]
    assert errors[2] < 0.2  # mm


def test_the_shipped_subjects_have_an_inverse():
    modes = GaussianProcess().subject((40, 56, 48), 4).modes
    draws = np.clip(1.5 * np.random.default_rng(0).normal(size=(3, 24)), -3.5, 3.5)
    for amplitudes in draws.astype(np.float32):
        check_inverse(np.tensordot(amplitudes, modes, 1))


def check_inverse(field):
    """At the grid's edge, where a field does not end and none can look beyond, three voxels are left out."""
    forth, back = exponential(field), exponential(-field)
    moved = float(jnp.abs(forth).max())
    left = np.abs(np.asarray(deformation.compose(forth, back)))[:, 3:-3, 3:-3, 3:-3]
    assert moved > 0.5
    assert left.max() < 0.15 and left.mean() < 0.005  # voxels
    assert float(deformation.jacobian_determinant(forth).min()) > 0


def test_subjects_may_be_exponentiated_on_the_control_grid():
    """At 1 mm, the one resolution that has a coarser grid, with every amplitude near its limit."""
    shape = (57, 49, 53)
    modes = GaussianProcess().subject(shape, 1).modes
    for seed in range(3):
        amplitudes = np.random.default_rng(seed).choice([-3.0, 3.0], 24).astype(np.float32)
        velocity = jnp.tensordot(amplitudes, modes, 1)
        full = exponential(velocity)
        coarse = exponential(velocity[:, ::CONTROL_MM, ::CONTROL_MM, ::CONTROL_MM] / CONTROL_MM)
        error = jnp.abs(deformation.upsample(coarse, shape, CONTROL_MM) - full)
        assert float(jnp.abs(full).max()) > 2
        assert float(error.max()) < 0.1


def test_a_shared_scalar_spreads_subjects_as_much_as_independent_amplitudes():
    """The modes are orthogonal, so that one amplitude on all of them gives a field of the same mean square."""
    modes = GaussianProcess().subject((10, 12, 9), 16).modes.astype(float)
    assert (modes.sum(0) ** 2).sum() == pytest.approx((modes**2).sum(), rel=1e-4)
