"""Invariant: a segmentation, with Dice of whole batches too, is the same however a batch is spread over devices.

One process with eight devices makes the first steps in float64 under each runner, with augmentation, dropout and two
microbatches, and once more with the whole batch as one: Dice of a batch does not depend on how it is accumulated.
"""

import subprocess
import sys

import pytest

from tests import launching

CODE = """
import pathlib, sys
import jax, numpy as np
from equipoise.engine import config as run_config, data
from equipoise.engine.training.machine import Machine
from equipoise.tasks import make_task
from tests import tiny_runs

folder, cohort, method, over = sys.argv[1:]
split = data.open_split(cohort, "train", pathlib.Path(folder))
validation = data.open_split(cohort, "validation", pathlib.Path(folder))


def run(mode, devices, parts, use_norm=True):
    config = tiny_runs.masks("float64")
    config.data.cohort, config.data.batch_size = cohort, 16
    config.task.dice_over, config.optimizer.name = over, "sgd"
    config.model.args = {"use_norm": use_norm}
    config.method = run_config.Method(name=method, group="sex")
    config.optimizer.accumulate = parts
    config.parallel = run_config.Parallel(mode, devices)
    machine = Machine(config, make_task(config, split), split)
    state, shown = machine.init(), []
    for step in range(2):
        state, metrics = machine.train_step(step)(state, machine.runner.shard(machine.batches.at(step)))
        shown.append(metrics)
    table = machine.predict(state, validation)[0].select_dtypes(float)
    leaves = jax.tree_util.tree_leaves_with_path((jax.device_get(state), shown))
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves} | {"table": table.to_numpy()}


def same(found, expected, what):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-12, err_msg=f"{what} {key}")


expected = run("jit", 1, 2)
assert any(v.dtype == np.float64 for v in expected.values())
for mode, devices in (("jit", 8), ("pmap", 2)):
    same(run(mode, devices, 2), expected, f"{mode} {devices}")
same(run("jit", 1, 2, False), run("jit", 1, 1, False), "accumulated")  # batch statistics would be of microbatches
"""


def check(folder, *words):
    env = launching.environment(8)
    env["XLA_FLAGS"] += " --xla_backend_optimization_level=0"  # nearly all of the time is compilation
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), *words],
        env=env, cwd=launching.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_dice_of_a_batch_and_group_weights_are_the_same_everywhere(masks_data_dir):
    check(masks_data_dir, "tiny_masks", "febs_released", "batch")


@pytest.mark.slow
@pytest.mark.parametrize("cohort", ["tiny_masks", "tiny_mask_volumes"])
@pytest.mark.parametrize(
    "method",
    [
        "erm",
        "reweighing",
        "resampling",
        "group_dro",
        "unlearning",
        "adversarial",
        "group_models",
        "febs_intent",
    ],
)
@pytest.mark.parametrize("over", ["image", "batch"])
def test_every_method_learns_masks_the_same_everywhere(masks_data_dir, cohort, method, over):
    check(masks_data_dir, cohort, method, over)
