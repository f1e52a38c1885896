"""Invariant: what a method carries, and what it makes of a run, is the same however a batch is spread over devices.

One process with eight devices makes every method's first steps, in float64 with dropout and, but across sites, two
microbatches, under each runner. ``tests/contract/test_topology.py`` has the whole runs, without a method.
"""

import subprocess
import sys

import pytest

from tests import launching, tiny_runs

CODE = """
import pathlib, sys
import jax, numpy as np
from equipoise.engine import config as run_config, data
from equipoise.engine.training.machine import Machine
from equipoise.tasks import make_task
from tests import tiny_runs
from tests.engine.methods.tiny_methods import SETTINGS

data_dir, every, *names = sys.argv[1:]
data_dir = pathlib.Path(data_dir)
split = data.open_split("tiny", "train", data_dir)
validation = data.open_split("tiny", "validation", data_dir)


def run(name, mode, devices):
    config = tiny_runs.get_config("float64")
    config.model.name, config.model.args = "tests.tiny_network:Model", {}
    # under Adam a gradient that is zero but for rounding, as of a bias before a normalisation, becomes an update
    config.optimizer.name, config.data.augment = "sgd", "flip(axis=1)"
    config.method = run_config.Method(name=name, group="sex", **SETTINGS.get(name, {}))
    config.optimizer.accumulate = 1 if config.method.has_cycles else 2
    config.parallel = run_config.Parallel(mode, devices)
    machine = Machine(config, make_task(config, split), split)
    state, shown = machine.init(), []
    for step in range(4):
        state, metrics = machine.train_step(step)(state, machine.runner.shard(machine.batches.at(step)))
        shown.append(metrics)
    leaves = jax.tree_util.tree_leaves_with_path((jax.device_get(state), shown))
    scores = machine.predict(state, validation)[0]["score"].to_numpy()
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves} | {"scores": scores}


for name in names:
    expected = run(name, "jit", 1)
    assert any(v.dtype == np.float64 for v in expected.values())
    topologies = [("jit", 8), ("pmap", 2)] + [("jit", 2), ("pmap", 1), ("pmap", 8)] * bool(int(every))
    for mode, devices in topologies:
        if mode == "pmap" and "site" in SETTINGS.get(name, {}):
            continue  # refused: tests/engine/methods/test_federated.py
        found, worst = run(name, mode, devices), 0.0
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-12, err_msg=f"{name} {mode} {devices} {key}")
            worst = max(worst, float(np.abs(found[key] - value).max(initial=0)))
        print(f"{name:14} {mode} x {devices} devices: state and scores differ by {worst:.1e}")
"""


def check(data_dir, *names, every=True):
    words = [sys.executable, "-c", CODE, str(data_dir), str(int(every)), *names]
    done = subprocess.run(
        words, env=launching.environment(8), cwd=launching.ROOT, capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr


def test_a_method_is_the_same_everywhere(tiny_data_dir):
    """The method whose programs differ most from a plain run's."""
    check(tiny_data_dir, "unlearning", every=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in tiny_runs.OF_CLASSES if name != "erm"])
def test_every_method_is_the_same_on_every_topology(tiny_data_dir, name):
    check(tiny_data_dir, name)
