"""Rendered images: where effects land, which order of maps puts them there, and what must not change a number."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from equipoise.data_builders.simba.anatomy import load_mni152
from equipoise.data_builders.simba.builder import Simba
from equipoise.data_builders.simba.design import design_subjects
from equipoise.data_builders.simba.render import Renderer, Request, _patches
from equipoise.data_builders.simba.velocity import GaussianProcess, Modes
from equipoise.engine.transforms import deformation


def requests(base="near_4mm", shown=(), count=4, **options):
    subjects = design_subjects(Simba.configure(base, **options))
    return [Request(s, frozenset(shown)) for s in subjects[:count]]


def render(base, asked, model=None, anatomy=None, **options):
    config = Simba.configure(base, **options)
    anatomy = anatomy or load_mni152(config.resolution)
    model = model or GaussianProcess(subject_mm=config.subject_mm, num_modes=config.num_modes)
    return [r.image.astype(int) for r in Renderer(config, anatomy, model).render(asked)]


def test_an_effect_lands_on_the_subjects_own_region():
    """The map carried into subject space moves what the subject's deformation made of the region."""
    shape = (32, 32, 32)
    marker = np.zeros(shape, np.float32)
    marker[14:18, 14:18, 14:18] = 1
    push = np.zeros((3, *shape), np.float32)
    push[1] = 6.0
    psi = deformation.exponential(jnp.asarray(-push))
    swell = GaussianProcess(width_mm=2.0).effect(marker > 0, 1).modes[0]
    effect = deformation.exponential(jnp.asarray(3 * swell))
    ours = deformation.compose(effect, psi)
    where = np.abs(np.asarray(ours - psi)).sum(0)
    subjects_marker = np.asarray(deformation.warp(jnp.asarray(marker), psi))
    centre = np.array(ndimage.center_of_mass(where))
    np.testing.assert_allclose(centre, ndimage.center_of_mass(subjects_marker), atol=0.7)
    assert np.linalg.norm(centre - ndimage.center_of_mass(marker)) > 4
    # The slip of the published generator, conjugating the other way round, misses it by twice the subject's own shift.
    inverse = deformation.exponential(jnp.asarray(push))
    slipped = deformation.compose(psi, deformation.compose(effect, inverse))
    right = deformation.compose(inverse, deformation.compose(effect, psi))
    home = np.array(ndimage.center_of_mass(subjects_marker))
    miss = np.array(ndimage.center_of_mass(np.abs(np.asarray(slipped)).sum(0))) - home
    hit = np.array(ndimage.center_of_mass(np.abs(np.asarray(right)).sum(0))) - home
    assert np.linalg.norm(hit) < 1
    assert np.linalg.norm(miss) > 8
    np.testing.assert_allclose(
        deformation.compose(psi, right)[:, 4:-4, 12:-4, 4:-4], ours[:, 4:-4, 12:-4, 4:-4], atol=0.15
    )


@pytest.mark.parametrize("variability", ["independent", "shared_scalar"])
def test_an_image_is_the_template_through_effects_then_subject(variability, monkeypatch):
    """The compiled, boxed, batched program, in both its forms, against the composition written out on whole fields."""
    if variability == "shared_scalar":  # an accelerator maps over the batch, a CPU goes one by one
        monkeypatch.setattr(jax.lax, "map", lambda function, batch, **_: jax.vmap(function)(batch))
    anatomy, model = load_mni152(8), GaussianProcess()
    options = {"resolution": 8, "subjects": 60, "variability": variability, "noise": 0}
    asked = requests("near_4mm", ["morphology"], **options)
    images = render("near_4mm", asked, **options)
    modes = model.subject(anatomy.template.shape, 8).modes
    fields = [model.effect(anatomy.region(label), 8).modes[0] for label in (75, 78)]
    exponential, compose = jax.jit(deformation.exponential), jax.jit(deformation.compose)
    for request, image in zip(asked, images, strict=True):
        drawn = request.subject
        key = jax.random.split(jax.random.fold_in(jax.random.key(0), drawn.number))[0]
        amplitudes = {
            "independent": np.asarray(jax.random.truncated_normal(key, -3.5, 3.5, (24,), jnp.float32)),
            "shared_scalar": np.full(24, drawn.subject_score, np.float32),
        }[variability]
        psi = exponential(jnp.asarray(-np.tensordot(amplitudes, modes, 1)))
        g = exponential(
            jnp.asarray(2.5 * (drawn.disease_score * fields[0] + drawn.bias_score * fields[1]), jnp.float32)
        )
        expected = deformation.warp(jnp.asarray(anatomy.template), compose(g, psi))
        np.testing.assert_allclose(image, 255 * np.asarray(expected), atol=0.6)


@pytest.mark.parametrize("local_model", ["expansion", "mode"])
def test_the_bias_stays_around_its_region(local_model):
    anatomy, model = load_mni152(8), GaussianProcess(subject_mm=0.0, local_model=local_model)
    asked = [
        Request(r.subject, shown) for shown in (frozenset(), frozenset(["morphology"])) for r in requests()
    ]
    without, shown = np.split(np.array(render("far_4mm", asked, model, resolution=8, noise=0)), 2)
    change = np.abs(shown - without).mean(0)
    region = anatomy.region(21)
    around = ndimage.distance_transform_edt(~region) * 8 <= 16
    assert change[around].sum() > 0.9 * change.sum()
    assert change[region].mean() > 2
    assert not change[anatomy.region(75)].any()


def test_contrast_is_stretched_about_mid_range_and_nothing_moves():
    asked = [
        Request(r.subject, shown) for shown in (frozenset(), frozenset(["intensity"])) for r in requests()
    ]
    images = render("intensity_4mm", asked, resolution=8, noise=0)
    for before, after in zip(images[:4], images[4:], strict=True):
        middle = before.max() / 2
        expected = np.clip(middle + 1.2 * (before - middle), 0, before.max())
        np.testing.assert_allclose(after, expected, atol=1.3)  # both are rounded to grey levels
        assert np.abs(after - before).max() > 15


def test_a_model_of_ones_own_is_used():
    """One with a mean, as principal components have: it is there in whom the effect is shown, at any score."""

    class Shift:
        def subject(self, shape, spacing):
            return Modes(np.zeros((3, *shape), np.float32), np.zeros((24, 3, *shape), np.float32))

        def effect(self, region, spacing):
            mean = np.zeros((3, *region.shape), np.float32)
            mean[1, 1:-1, 1:-1, 1:-1] = 1.0 / 2.5  # the amplitude, in mm, is of mean and mode
            return Modes(mean, np.zeros((1, 3, *region.shape), np.float32))

    (moved,) = render("none_4mm", requests(count=1), Shift(), resolution=8, noise=0)
    template = load_mni152(8).template
    inside = (slice(4, -4),) * 3
    expected = np.round(255 * np.roll(template, -1, axis=1)).astype(int)
    assert np.abs(moved - expected)[inside].max() <= 1
    assert np.abs(255 * template - expected)[inside].max() > 20


def test_effects_are_cut_to_boxes_and_those_that_meet_share_one():
    def field(*box):
        values = np.zeros((2, 3, 20, 20, 20), np.float32)
        values[1, :, *box] = 1
        return values

    left, right = (
        field(slice(2, 5), slice(2, 5), slice(0, 4)),
        field(slice(12, 15), slice(12, 15), slice(12, 20)),
    )
    apart = _patches({"disease": left, "morphology": right})
    assert [(p.origin, p.names, p.fields.shape[2:]) for p in apart] == [
        ((1, 1, 0), ("disease",), (3, 5, 5, 5)),
        ((11, 11, 11), ("morphology",), (3, 5, 5, 9)),
    ]
    (shared,) = _patches({"disease": left, "morphology": left + right})
    assert shared.names == ("disease", "morphology") and shared.fields.shape == (2, 2, 3, 15, 15, 20)
    assert _patches({"disease": 0 * left}) == []


def test_no_subject_of_the_shipped_design_folds():
    config = Simba.configure("near_4mm")
    drawn = design_subjects(config)
    extreme = sorted(drawn, key=lambda s: -abs(s.disease_score) - s.bias_score * s.groups["bias"])[:32]
    asked = [Request(s, frozenset(["morphology"] if s.groups["bias"] else [])) for s in extreme]
    renderings = list(Renderer(config, load_mni152(4), GaussianProcess()).render(asked))
    assert min(r.least_jacobian for r in renderings) > 0


def test_draws_do_not_depend_on_the_precision_of_the_process():
    """A run in float64 switches 64-bit arithmetic on; random draws of that width would be other draws."""
    options = {"resolution": 8, "subjects": 8, "disease_mm": 0, "bias_mm": 0}
    (usual,) = render("near_4mm", requests(count=1, **options), **options)
    with jax.enable_x64(True):
        (wide,) = render("near_4mm", requests(count=1, **options), **options)
    assert np.abs(usual - wide).max() <= 1  # rounding of one grey level


ON_DEVICES = """
import jax, numpy as np
from tests.data_builders.test_simba_render import render, requests
assert jax.device_count() == {devices}
options = dict(resolution=8, subjects=60)
np.save({path!r}, render("multi_4mm", requests("multi_4mm", ["morphology", "intensity"], count=19, **options), **options))
"""


@pytest.mark.slow
def test_images_do_not_depend_on_the_number_of_devices(tmp_path):
    images = []
    for devices in (1, 4):
        path = str(tmp_path / f"{devices}.npy")
        environment = {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
        }
        code = ON_DEVICES.format(devices=devices, path=path)
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": ":".join(sys.path)} | environment,
            check=True,
        )
        images.append(np.load(path))
    assert images[0].shape[0] == 19 and images[0].std() > 0
    np.testing.assert_array_equal(*images)
