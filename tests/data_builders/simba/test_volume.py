"""Effects with a volume: the shell against its formula, the search against balls in closed form, images against the target."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from equipoise.data_builders.simba.anatomy import load_mni152
from equipoise.data_builders.simba.builder import Simba
from equipoise.data_builders.simba.design import design_subjects
from equipoise.data_builders.simba.render import Renderer, Request
from equipoise.data_builders.simba.velocity import GaussianProcess, Pairing, growth
from equipoise.data_builders.simba.volume import Control, Shell, find_amplitudes, signed_distance
from equipoise.engine.transforms import deformation

ORIGIN = (0, 0, 0)
find = jax.jit(find_amplitudes, static_argnames="origin")
exponential = jax.jit(deformation.exponential)


def distances(shape, centre):
    return np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - np.array(centre), axis=-1)


def ball(radius, size=41):
    return distances((size,) * 3, [(size - 1) / 2] * 3) <= radius


def soft_volume(region, *displacements):
    """Computes the volume of a region after maps; the last map is applied to a point first."""
    whole = displacements[-1]
    for outer in reversed(displacements[:-1]):
        whole = deformation.compose(outer, whole)
    return float(deformation.warp(jnp.asarray(region, jnp.float32), whole).sum())


def search(region, mode, score, step, psi=None):
    points = deformation.looks_at(jnp.zeros(mode.shape) if psi is None else psi)
    control = Control(*(jnp.asarray(x, jnp.float32) for x in (region[None], [growth(mode, region)], [step])))
    amplitudes, error = find(
        jnp.asarray(mode)[None], control, jnp.array([score]), jnp.ones(1), points, origin=ORIGIN
    )
    return float(amplitudes[0]), float(error)


def test_distance_of_a_half_space_is_to_halfway_between_voxels():
    region = np.zeros((8, 3, 3), bool)
    region[:3] = True
    phi = signed_distance(region, 2.0)
    np.testing.assert_array_equal(phi[:, 1, 1], [-5, -3, -1, 1, 3, 5, 7, 9])


def test_a_shell_is_its_formula():
    """Around a half space at 1 mm: the normal is the first axis, the shell two voxels on either side."""
    region = np.zeros((12, 5, 5), bool)
    region[:6] = True
    shell = Shell(1.5).effect(region, 1.0)
    assert not shell.mean.any() and not shell.modes[0, 1:].any()
    phi = np.arange(12) - 5.5
    expected = np.where(np.abs(phi) <= 2, -np.exp(-((phi / 1.5) ** 2) / 2), 0)
    np.testing.assert_allclose(
        shell.modes[0, 0], np.broadcast_to(expected[:, None, None], region.shape), rtol=1e-6
    )
    coarse = Shell(6.0).effect(region, 4.0).modes[0, 0] * 4  # the same voxels of 4 mm: the same mm
    np.testing.assert_allclose(coarse, shell.modes[0, 0], rtol=1e-6)


def test_a_shell_is_that_of_the_whole_grid():
    """It is computed around the region alone; the formula, on every voxel."""
    region = distances((40, 44, 36), (12, 30, 17)) <= 6
    region |= distances((40, 44, 36), (14, 26, 20)) <= 4
    phi = signed_distance(region, 2.0)
    slope = np.stack(np.gradient(phi, 2.0))
    inside = np.abs(phi) <= 4
    velocity = Shell(3.0).effect(region, 2.0).modes[0]
    speed = 2 * np.linalg.norm(velocity, axis=0)
    np.testing.assert_allclose(speed[inside], np.exp(-((phi[inside] / 3) ** 2) / 2), rtol=1e-5)
    assert not speed[~inside].any()
    assert ((velocity * slope).sum(0)[inside] < 0).all()


def test_the_growth_of_a_box_is_its_surface():
    """Two faces of 4 x 6 voxels that each recede by a: the volume of 24 x 5 voxels grows by 2 a / 5."""
    region = np.zeros((11, 10, 12), bool)
    region[3:8, 3:7, 3:9] = True
    field = np.zeros((3, *region.shape))
    field[0, :5], field[0, 6:] = 1.0, -1.0  # images are pulled back: inward
    assert growth(field, region) == pytest.approx(2 / 5)
    grown = soft_volume(region, jnp.asarray(0.25 * field, jnp.float32)) / region.sum()
    assert grown == pytest.approx(1 + 0.25 * 2 / 5)


@pytest.mark.parametrize("target", [0.75, 0.9, 1.1, 1.3])
def test_a_ball_goes_as_far_as_in_closed_form(target):
    """Along a radius dr/dt = s exp(-(r - R)² / 2w²), so that s = w sqrt(π/2) erfi((R' - R) / w sqrt(2)), R' = R e^(1/3)."""
    region, width = ball(12.0), 1.5
    radius = (3 * region.sum() / (4 * np.pi)) ** (1 / 3)
    mode = Shell(width).effect(region, 1.0).modes[0]
    amplitude, error = search(region, mode, score=(target - 1) / 0.1, step=0.1)
    moved = radius * (target ** (1 / 3) - 1)
    expected = width * np.sqrt(np.pi / 2) * special.erfi(moved / (width * np.sqrt(2)))
    assert amplitude == pytest.approx(expected, rel=0.08)
    assert error < 1e-4
    effect = exponential(jnp.asarray(amplitude * mode))
    assert soft_volume(region, effect) / region.sum() == pytest.approx(target, abs=1e-4)


@pytest.mark.parametrize("score", [-2.0, -0.3, 1.0, 2.5])
def test_the_target_is_hit_through_the_subjects_own_map(score):
    shape = (41,) * 3
    region = ball(8.0)
    mode = Shell(2.0).effect(region, 1.0).modes[0]
    modes = GaussianProcess(num_modes=9, subject_mm=3.0, length_mm=25.0).subject(shape, 1).modes
    velocity = np.tensordot(np.random.default_rng(3).normal(size=9), modes, 1).astype(np.float32)
    psi = exponential(jnp.asarray(velocity))
    amplitude, error = search(region, mode, score, 0.1, psi)
    effect = exponential(jnp.asarray(amplitude * mode))
    before, after = soft_volume(region, psi), soft_volume(region, effect, psi)
    assert abs(before / region.sum() - 1) > 0.02  # it is the subject's own volume that counts
    assert after / before == pytest.approx(1 + 0.1 * score, abs=1.5e-4)
    assert error < 1e-4


def test_a_volume_out_of_reach_is_not_taken_for_found():
    region = ball(5.0, 21)
    mode = Shell(1.5).effect(region, 1.0).modes[0]
    for score in (30.0, -15.0):  # 4 times, and less than nothing
        _, error = search(region, mode, score, 0.1)
        assert not error < 1e-3
    jump = jnp.full((3, 21, 21, 21), 40.0)  # a subject that has no such region
    assert not search(region, mode, 1.0, 0.1, jump)[1] < 1e-3


def check_rendered_volumes(resolution, width_mm, count):
    """Both regions in whoever has both effects, though insula and putamen touch; of one effect, the region alone.

    The renderer is given a region for a brain, so that an image's sum is its volume. At a score of 0 nothing moves.
    """
    anatomy = load_mni152(resolution)
    config = Simba.configure(
        "near_4mm", resolution=resolution, local_model="volume", effect_width_mm=width_mm, noise=0
    )
    drawn = design_subjects(config)[:count]
    has_bias = np.arange(count) % 2 == 1
    requests = [Request(s, frozenset(["morphology"] * int(b))) for s, b in zip(drawn, has_bias, strict=True)]
    plain = [Request(dataclasses.replace(s, disease_score=0.0), frozenset()) for s in drawn]
    model = Pairing(GaussianProcess(), Shell(width_mm))
    for what, label in (("disease", 75), ("bias", 78)):
        masked = dataclasses.replace(anatomy, template=anatomy.region(label).astype(np.float32))
        renderings = list(Renderer(config, masked, model).render([*plain, *requests]))
        assert max(r.volume_error for r in renderings) < 1e-4
        before, after = np.split(np.array([r.image.sum() / 255 for r in renderings]), 2)
        counted = np.array([what == "disease"] * count) | has_bias
        targets = 1 + 0.1 * np.array([getattr(s, f"{what}_score") for s in drawn])
        # Images are bytes: half a grey level at the voxels of an edge.
        np.testing.assert_allclose((after / before)[counted], targets[counted], atol=1e-3)
        assert np.ptp(targets[counted]) > 0.3 and np.ptp(before / before.mean()) > 0.1


def test_rendered_regions_have_their_volumes():
    check_rendered_volumes(4, 6.0, 24)


@pytest.mark.slow
@pytest.mark.parametrize(("resolution", "width_mm"), [(4, 6.0), (2, 3.0), (2, 6.0), (1, 1.5)])
def test_all_volumes_are_hit(resolution, width_mm):
    check_rendered_volumes(resolution, width_mm, 400 if resolution == 4 else 32)


def test_a_scan_that_misses_its_volume_is_refused_and_listed(tmp_path):
    config = Simba.configure(
        "none_4mm", resolution=8, subjects=60, local_model="volume", effect_width_mm=12, disease_volume=0.6
    )
    builder = Simba(data_dir=tmp_path, config=config)
    builder.download_and_prepare()
    report = json.loads((pathlib.Path(builder.data_path) / "cohort_report.json").read_text())
    reasons = [s["reason"] for s in report["skipped"]]
    assert 0 < len(reasons) < 60
    assert any("a region misses its volume by" in reason for reason in reasons)
