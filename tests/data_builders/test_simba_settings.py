"""Settings of the synthetic cohort: their names, their limits, and what must not depend on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_builders import simba
from engine.config import UserError
from engine.transforms import deformation


def test_a_listed_configuration_with_one_setting_changed_can_be_rendered():
    config = simba.Simba.configure("near_4mm", subjects=40)
    assert config.name == "near_4mm_subjects40"
    assert simba.load_anatomy(config.resolution) is simba.load_anatomy(
        4
    )  # 4, not 4.0, which the template refuses


def test_settings_that_differ_never_share_a_name():
    names = {simba.Simba.configure("near_4mm", seed=s).name for s in (1234567, 1234568, 12345678)}
    names |= {simba.Simba.configure("near_4mm", noise=n).name for n in (0.0123456, 0.01234561)}
    assert len(names) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subjects": "forty"}, "subjects='forty' must be a whole number"),
        ({"subjects": 40.5}, "subjects=40.5 must be a whole number"),
        ({"resolution": 2.5}, "resolution=2.5 must be a whole number"),
        ({"counterfactual": "yes"}, "counterfactual='yes' must be true or false"),
        ({"seed": -1}, "seed=-1 must be 0 to"),
        ({"noise": -0.1}, "noise=-0.1 must be 0 or"),
        ({"effect_width_mm": 0}, "effect_width_mm=0 must be a positive number"),
        ({"subject_mm": float("nan")}, "subject_mm=nan must be 0 or"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(UserError, match=message):
        simba.Simba.configure("near_4mm", **options)


def test_draws_do_not_depend_on_the_precision_of_the_process():
    """A run in float64 switches 64-bit arithmetic on; random draws of that width would be other draws."""
    config = simba.Simba.configure("near_4mm", resolution=8, subjects=8, disease_mm=0, bias_mm=0)
    anatomy = simba.load_anatomy(8)

    def render():
        scores = jnp.zeros(1, jnp.float32)
        return np.asarray(simba.make_renderer(config, anatomy)(jnp.arange(1), scores, scores)[0]).astype(int)

    usual = render()
    with jax.enable_x64(True):
        wide = render()
    assert np.abs(usual - wide).max() <= 1  # rounding of one grey level


def test_subjects_may_be_exponentiated_on_the_control_grid():
    """At 1 mm, the one resolution that has a coarser grid, with every amplitude near its limit."""
    config = simba.Simba.configure("near_1mm")
    every = simba._CONTROL_MM
    shape = (57, 49, 53)
    modes = simba.subject_modes(config, shape)
    for seed in range(3):
        amplitudes = np.random.default_rng(seed).choice([-3.0, 3.0], config.num_modes).astype(np.float32)
        velocity = jnp.tensordot(amplitudes, modes, 1)
        full = deformation.exponential(velocity)
        coarse = deformation.exponential(velocity[:, ::every, ::every, ::every] / every)
        error = jnp.abs(deformation.upsample(coarse, shape, every) - full)
        assert float(jnp.abs(full).max()) > 2
        assert float(error.max()) < 0.1
