"""A population: every member is the run that it would be alone, and leaves the folder that it would leave."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pytest

from equipoise.engine import config as run_config
from equipoise.engine import data, mesh
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.table import table
from equipoise.engine.training import loop, population
from equipoise.engine.training.machine import Machine
from equipoise.tasks import make_task
from tests import launching, tiny_runs
from tests.engine.methods.tiny_methods import SETTINGS

# Adam takes the sign of a gradient that is zero but for rounding, as that of a bias before a normalisation is: SGD.
CODE = """
import pathlib, sys
import jax, numpy as np
from equipoise.engine import config as run_config, data
from equipoise.engine.training import population
from equipoise.tasks import make_task
from tests.engine.training.test_population import compare, tiny

dtype, network, devices, data_dir, *names = sys.argv[1:]
data_dir = pathlib.Path(data_dir)
for name in names:
    worst = 0.0
    for form in ("mapped", "turns"):
        config = tiny(dtype, name, network=network, devices=int(devices) if form == "mapped" else 1, form=form)
        worst = max(worst, compare(config, data_dir))
    print(f"{name:14} {dtype} {network} on {devices} devices: members differ from the runs alone by {worst:.1e}")
    assert worst < {"float64": 1e-9, "float32": 2e-5}[dtype], worst
"""


def tiny(
    dtype="float32", method="erm", network="tests.tiny_network:Model", devices=1, seeds=2, form="mapped"
):
    config = tiny_runs.get_config(dtype)
    config.num_steps, config.evaluation.every_steps, config.checkpoint.every_steps = 4, 2, 2
    config.data.augment = "flip(axis=1)|noise(sd=0.05)"
    config.model.name = network
    config.model.args = {"features": (3, 4), "dropout": 0.3} if network == "cnn" else {}
    config.optimizer.name, config.optimizer.schedule, config.optimizer.decay_steps = "sgd", "cosine", 8
    config.method = run_config.Method(name=method, group="sex", **SETTINGS.get(method, {}))
    is_across_sites = config.method.has_cycles  # where schedules count cycles, and microbatches are refused
    config.optimizer.warmup_steps, config.optimizer.accumulate = (0, 1) if is_across_sites else (2, 2)
    config.method.fixed_order = form == "mapped" and method in ("travelling", "harmony_tm", "fedtm")
    config.population.seeds = seeds
    config.population.grid = "optimizer.learning_rate=0.1,0.02|optimizer.weight_decay=0.3"
    if method == "group_dro":
        config.population.grid += "|method.step_size=0.5"
    config.writers.console = False
    config.parallel.num_devices, config.population.form = devices, form
    return config


def steps_of(machine, count=4):
    """Final state and metrics of the first updates."""
    state, shown = machine.init(), []
    for step in range(count):
        state, metrics = machine.train_step(step)(state, machine.runner.shard(machine.batches.at(step)))
        shown.append(jax.device_get(metrics))
    return state, shown


def compare(config, data_dir):
    """The largest difference between members and the runs alone: state, metrics, scores."""
    split = data.open_split("tiny", "train", data_dir)
    validation = data.open_split("tiny", "validation", data_dir)
    task, worst = make_task(config, split), 0.0
    many = population.make(config, task, split)
    states, shown = steps_of(many)
    tables = many.predict_members(states, validation)
    seen = set()
    for i, (run, state) in enumerate(zip(many.members, many.split(states), strict=True)):
        alone = Machine(run_config.replaced(run, **{"parallel.num_devices": 1}), task, split)
        expected, metrics = steps_of(alone)
        frame, loss = alone.predict(expected, validation)
        ours = (
            state,
            [many.rows(m)[i] for m in shown],
            tables[i][0]["score"].to_numpy(),
            tables[i][1],
        )
        theirs = (expected, [alone.rows(m)[0] for m in metrics], frame["score"].to_numpy(), loss)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert np.shape(a) == np.shape(b)
            worst = max(
                worst, float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max(initial=0))
            )
        seen.add(metrics[-1]["loss"].tobytes())
    assert len(seen) == len(many.members), "members that do not differ test nothing"
    return worst


def check(dtype, network, devices, data_dir, *names):
    words = [sys.executable, "-c", CODE, dtype, network, str(devices), str(data_dir), *names]
    done = subprocess.run(
        words, env=launching.environment(4), cwd=launching.ROOT, capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr


def test_a_member_is_the_run_alone(tiny_data_dir):
    check("float64", "tests.tiny_network:Model", 4, tiny_data_dir, "group_dro")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in tiny_runs.OF_CLASSES if name != "group_dro"])
def test_a_member_is_the_run_alone_under_every_method(tiny_data_dir, name):
    check("float64", "tests.tiny_network:Model", 2, tiny_data_dir, name)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_convolutional_member_is_the_run_alone(tiny_data_dir, dtype):
    check(dtype, "cnn", 1, tiny_data_dir, "erm")


def test_a_population_leaves_runs_and_goes_on_as_if_never_stopped(tiny_data_dir, tmp_path):
    config = tiny(seeds=2, form="auto")
    config.population.grid = ""
    task = make_task(config, data.open_split("tiny", "train", tiny_data_dir))
    whole = jax.device_get(loop.train(config, task, tiny_data_dir, tmp_path))
    assert [int(state.step) for state in whole] == [4, 4]
    folders = [tmp_path / "member_000", tmp_path / "member_001"]
    rows = [(f / "metrics.jsonl").read_bytes() for f in folders]
    assert rows[0] != rows[1]
    for i, folder in enumerate(folders):
        run = run_config.load(folder)
        assert (run.seed, run.population) == (3 + i, run_config.Population())
        assert [r["step"] for r in map(json.loads, rows[i].splitlines()) if r["split"] == "validation"] == [
            2,
            4,
        ]
        assert sorted(p.name for p in (folder / "validation").iterdir()) == [
            "00000002.parquet",
            "00000004.parquet",
        ]
    shutil.rmtree(folders[1] / "checkpoints" / "4")  # as when killed between two members' saves
    again = jax.device_get(loop.train(config, task, tiny_data_dir, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert [(f / "metrics.jsonl").read_bytes() for f in folders] == rows

    (alone,) = loop.train(run_config.load(folders[1]), task, tiny_data_dir, tmp_path / "alone")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole[1], jax.device_get(alone)
    )


def test_members_are_the_grid_with_every_seed():
    config = tiny(seeds=2)
    found = [
        (r.seed, r.optimizer.learning_rate, r.optimizer.weight_decay) for r in population.members(config)
    ]
    assert found == [(3, 0.1, 0.3), (4, 0.1, 0.3), (3, 0.02, 0.3), (4, 0.02, 0.3)]
    assert len({run_config.fingerprint(r) for r in population.members(config)}) == 4


def test_what_cannot_be_a_population_is_refused(tiny_data_dir):
    split = data.open_split("tiny", "train", tiny_data_dir)
    for changes, words in (
        ({"population.grid": "optimizer.learning_rat=1"}, "Did you mean 'optimizer.learning_rate'"),
        ({"population.grid": "model.args=1,2"}, "'model.args' cannot differ within a population"),
        ({"population.grid": "optimizer.learning_rate=a,b"}, "is not NAME=NUMBER,NUMBER"),
        ({"population.grid": "method.beta=1,2"}, "beta has no effect with erm"),
        ({"parallel.mode": "pmap"}, "under jit alone"),
        ({"population.form": "turns", "parallel.num_devices": 2}, "take turns use one device"),
    ):
        config = run_config.replaced(tiny(), **changes)
        with pytest.raises(UserError, match=words):
            population.make(config, make_task(config, split), split)
    with pytest.raises(UserError, match="3 does not divide among 2 devices|only 1 are here"):
        mesh.MemberRunner(3, 2)


@pytest.mark.slow
def test_a_population_from_the_command_line(tiny_data_dir, tmp_path):
    launching.train(tmp_path, tiny_data_dir, "--config.population.seeds=2", "--config.num_steps=4")
    launching.equipoise("evaluate", f"--workdir={tmp_path}", f"--data_dir={tiny_data_dir}", "--saliency")
    folders = [tmp_path / "member_000", tmp_path / "member_001"]
    tables = [table.read_table(next((f / "evaluations").rglob("*.parquet"))).frame for f in folders]
    assert tables[0]["config_fingerprint"][0] != tables[1]["config_fingerprint"][0]
    assert (tables[0]["score"] != tables[1]["score"]).any()
    maps = [dict(np.load(next((f / "saliency").rglob("*.npz")))) for f in folders]
    alone = launching.equipoise(
        "evaluate", f"--workdir={folders[1]}", f"--data_dir={tiny_data_dir}", "--saliency"
    )
    assert alone.returncode == 0, alone.stderr
    again = table.read_table(next((folders[1] / "evaluations").rglob("*.parquet"))).frame
    pd.testing.assert_frame_equal(again, tables[1])
    for name, values in np.load(next((folders[1] / "saliency").rglob("*.npz"))).items():
        np.testing.assert_array_equal(values, maps[1][name])
    refused = launching.equipoise("report", f"--workdir={tmp_path}", f"--data_dir={tiny_data_dir}")
    assert refused.returncode == 1 and "holds a population of 2 runs" in refused.stderr
