"""What every method must keep: no NaN, resuming, and settings that are refused."""

import shutil

import jax
import numpy as np
import pytest

from equipoise.engine import config as run_config
from equipoise.engine import data, methods, validation
from equipoise.engine.errors import UserError
from equipoise.engine.training import loop
from equipoise.tasks import make_task
from tests import tiny_runs
from tests.engine.methods.tiny_methods import (
    BATCH,
    DISEASE,
    SETTINGS,
    SEX,
    Rows,
    batch_of,
    tiny_machine,
    tiny_method,
)


def test_the_registry_is_what_the_configuration_offers():
    assert tuple(methods.METHODS) == validation.CHOICES["method.name"]


@pytest.mark.parametrize("name", ["reweighing", "group_dro", "unlearning"])
@pytest.mark.parametrize("group", [[0] * BATCH, [-1] * BATCH], ids=["one group", "nobody known"])
def test_absent_groups_give_no_nan(rng, name, group):
    config, method = tiny_method(
        name,
        Rows(DISEASE, sex=SEX),
        **({"pretrain_steps": 0, "head_steps": 0} if name == "unlearning" else {}),
    )
    _, state, step = tiny_machine(config, method)
    for _ in range(2):
        state, shown = step(state, batch_of(rng, group))
    assert all(np.isfinite(v) for v in shown.values())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * name.startswith(("fed", "travelling")))
        for name in tiny_runs.OF_CLASSES  # across sites, tests/engine/methods/test_federated.py has the one that is most
    ],
)
def test_every_method_trains_and_goes_on_as_if_never_stopped(tiny_data_dir, tmp_path, name):
    """Four steps, and the last two again from the checkpoint at step 2: equal to the bit, across a method's phases."""
    config = tiny_runs.get_config()
    config.num_steps, config.model.args = 4, {}
    config.model.name, config.data.augment = "tests.tiny_network:Model", "flip(axis=1)"
    config.evaluation.every_steps = config.checkpoint.every_steps = 2
    config.writers.console = False
    config.method = run_config.Method(name=name, group="sex", **SETTINGS.get(name, {}))
    validation.validate(config)
    task = make_task(config, data.open_split("tiny", "train", tiny_data_dir))
    (whole,) = jax.device_get(loop.train(config, task, tiny_data_dir, tmp_path))
    rows = (tmp_path / "metrics.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    (again,) = loop.train(config, task, tiny_data_dir, tmp_path)
    assert int(again.step) == 4
    jax.tree.map(np.testing.assert_array_equal, whole, jax.device_get(again))
    assert (tmp_path / "metrics.jsonl").read_bytes() == rows


def test_settings_that_cannot_work_are_refused():
    config = tiny_runs.get_config()
    for changes, words in (
        (
            {"method.name": "erm", "method.alpha": 0.5},
            "alpha has no effect with erm: it belongs to unlearning",
        ),
        (
            {"method.name": "group_models", "method.group": "sex", "method.pretrain_steps": 12},
            "num_steps=12 ends before group_models is in force",
        ),
        ({"method.name": "group_dro"}, "needs --config.method.group"),
        ({"method.name": "groupdro"}, "Did you mean 'group_dro'"),
        (
            {"method.name": "unlearning", "method.group": "sex", "method.beta": -1.0},
            "beta=-1.0 must be at least 0",
        ),
    ):
        with pytest.raises(UserError, match=words):
            validation.validate(run_config.replaced(config, **changes))
