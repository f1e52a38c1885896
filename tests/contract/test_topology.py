"""Invariant: the same run gives the same numbers however it is spread over devices and processes.

Dropout, augmentation and gradient accumulation are on in all of it. ``pytest -s`` prints each cell's largest difference.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests import launching

STEPS, LEARNING_RATE = 12, 1e-2
# (precision, runner, devices): one process with eight devices trains all of these runs, those in 64 bits last.
ALONE = [
    ("float32", "jit", 8),
    ("float32", "pmap", 8),
    *(("float64", *cell) for cell in (("jit", 2), ("jit", 8), ("pmap", 1), ("pmap", 2), ("pmap", 8))),
]
TRAIN = """
import json, pathlib, sys
import jax, numpy as np
from equipoise.engine import config as run_config, data
from equipoise.engine.training import loop
from equipoise.tasks import make_task
from tests import tiny_runs

folder, data_dir, settings, cells = *map(pathlib.Path, sys.argv[1:3]), *map(json.loads, sys.argv[3:])
for dtype, mode, devices in cells:
    parallel = {"parallel.mode": mode, "parallel.num_devices": devices}
    config = run_config.replaced(tiny_runs.get_config(dtype), **settings, **parallel)
    split = data.open_split(config.data.cohort, "train", data_dir)
    workdir = folder / f"{dtype}_{mode}_{devices}"
    (state,) = loop.train(config, make_task(config, split), data_dir, workdir)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    np.savez(workdir / "state.npz", **{jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves})
"""
SETTINGS = (
    "--config.data.eval_batch_size=8",
    "--config.optimizer.accumulate=2",
    "--config.writers.every_steps=4",
)


@pytest.fixture(scope="module")
def reference(tiny_data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    for run in ("float32", "float64"):
        launching.train(folder / run, tiny_data_dir, *SETTINGS, run=run)
    return folder


@pytest.fixture(scope="module")
def alone(tiny_data_dir, tmp_path_factory):
    """Folder of the runs of :data:`ALONE`, each in a folder of its name."""
    folder = tmp_path_factory.mktemp("alone")
    settings = {"data.eval_batch_size": 8, "optimizer.accumulate": 2, "writers.every_steps": 4}
    words = [
        sys.executable,
        "-c",
        TRAIN,
        str(folder),
        str(tiny_data_dir),
        json.dumps(settings),
        json.dumps(ALONE),
    ]
    done = subprocess.run(
        words, env=launching.environment(8), cwd=launching.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def reference_state(reference, tiny_data_dir):
    return launching.parameters(reference / "float64", STEPS, reference / "state.npz", tiny_data_dir)


def _largest_loss_difference(reference, workdir):
    worst = 0.0
    for a, b in zip(launching.rows(reference), launching.rows(workdir), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"split", "step"}:
            worst = max(worst, abs(a[name] - b[name]) / max(abs(a[name]), 1e-12))
    return worst


def _check_float64(reference, expected, workdir, state, cell):
    assert expected.keys() == state.keys()
    assert any("kernel" in k for k in expected)
    floor = LEARNING_RATE * 1e-6
    loss = _largest_loss_difference(reference / "float64", workdir)
    excess = {k: float((np.abs(state[k] - v) - 1e-9 * np.abs(v)).max(initial=0)) for k, v in expected.items()}
    largest = max(float(np.abs(state[k] - v).max(initial=0)) for k, v in expected.items())
    print(f"{cell:28} float64: losses differ by {loss:.1e} (relative), the state by {largest:.1e}")
    assert loss < 1e-9
    assert max(excess.values()) <= floor, max(excess, key=excess.get)


@pytest.mark.parametrize(("mode", "devices"), [cell[1:] for cell in ALONE if cell[0] == "float64"])
def test_a_float64_run_is_the_same_on_any_devices(reference, reference_state, alone, mode, devices):
    workdir = alone / f"float64_{mode}_{devices}"
    with np.load(workdir / "state.npz") as state:
        _check_float64(reference, reference_state, workdir, dict(state), f"{mode} 1 x {devices} devices")


@pytest.mark.parametrize("mode", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
def test_a_float64_run_is_the_same_in_two_processes_and_the_first_prints(
    tiny_data_dir, tmp_path, reference, reference_state, mode
):
    workdir = tmp_path / "run"
    more = (*SETTINGS, f"--config.parallel.mode={mode}")
    first, second = launching.train(workdir, tiny_data_dir, *more, run="float64", devices=4, processes=2)
    state = launching.parameters(workdir, STEPS, workdir / "state.npz", tiny_data_dir)
    _check_float64(reference, reference_state, workdir, state, f"{mode} 2 x 4 devices")
    assert f"trained to step {STEPS}" in first.stdout
    assert "step" not in second.stdout


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_float32_losses_agree(reference, alone, mode):
    workdir = alone / f"float32_{mode}_8"
    difference = _largest_loss_difference(reference / "float32", workdir)
    print(f"{mode + ' 1 x 8 devices':28} float32: losses differ by {difference:.1e} (relative)")
    for a, b in zip(launching.rows(reference / "float32"), launching.rows(workdir), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5), (a, b)


def test_a_run_goes_on_with_other_devices(tiny_data_dir, tmp_path, reference, reference_state):
    workdir = tmp_path / "run"
    for mode, devices, steps in (("jit", 8, 4), ("pmap", 2, 8), ("jit", 1, STEPS)):
        more = (*SETTINGS, f"--config.parallel.mode={mode}", f"--config.num_steps={steps}")
        launching.train(workdir, tiny_data_dir, *more, run="float64", devices=devices)
    state = launching.parameters(workdir, STEPS, workdir / "state.npz", tiny_data_dir)
    _check_float64(reference, reference_state, workdir, state, "8, then 2, then 1 device")


def test_a_batch_that_does_not_divide_is_refused(tiny_data_dir, tmp_path):
    words = launching.train_words(tmp_path, tiny_data_dir, "--config.optimizer.accumulate=3")
    done = launching.equipoise(*words, devices=2)
    assert done.returncode == 1
    assert "batch_size=16 does not divide among 2 devices x 3 microbatches" in done.stderr
