"""Invariant: the same run gives the same numbers however it is spread over devices and processes.

Dropout, augmentation and gradient accumulation are on in all of it. ``pytest -s`` prints each cell's largest difference.
"""

import numpy as np
import pytest

from tests import launching

STEPS, LEARNING_RATE = 12, 1e-2
# (runner, devices of each process, processes)
TOPOLOGIES = [
    ("jit", 2, 1),
    ("jit", 8, 1),
    ("pmap", 1, 1),
    ("pmap", 2, 1),
    ("pmap", 8, 1),
    ("jit", 4, 2),
    pytest.param("pmap", 4, 2, marks=pytest.mark.slow),
]
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
def reference_state(reference, tiny_data_dir):
    return launching.parameters(reference / "float64", STEPS, reference / "state.npz", tiny_data_dir)


def _largest_loss_difference(reference, workdir):
    worst = 0.0
    for a, b in zip(launching.rows(reference), launching.rows(workdir), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"split", "step"}:
            worst = max(worst, abs(a[name] - b[name]) / max(abs(a[name]), 1e-12))
    return worst


def _check_float64(reference, expected, workdir, data_dir, cell):
    found = launching.parameters(workdir, STEPS, workdir / "state.npz", data_dir)
    assert expected.keys() == found.keys()
    assert any("kernel" in k for k in expected)
    floor = LEARNING_RATE * 1e-6
    loss = _largest_loss_difference(reference / "float64", workdir)
    excess = {k: float((np.abs(found[k] - v) - 1e-9 * np.abs(v)).max(initial=0)) for k, v in expected.items()}
    largest = max(float(np.abs(found[k] - v).max(initial=0)) for k, v in expected.items())
    print(f"{cell:28} float64: losses differ by {loss:.1e} (relative), the state by {largest:.1e}")
    assert loss < 1e-9
    assert max(excess.values()) <= floor, max(excess, key=excess.get)


@pytest.mark.parametrize(("mode", "devices", "processes"), TOPOLOGIES)
def test_float64_run_is_the_same_everywhere(
    tiny_data_dir, tmp_path, reference, reference_state, mode, devices, processes
):
    workdir = tmp_path / "run"
    more = (*SETTINGS, f"--config.parallel.mode={mode}")
    launching.train(workdir, tiny_data_dir, *more, run="float64", devices=devices, processes=processes)
    cell = f"{mode} {processes} x {devices} devices"
    _check_float64(reference, reference_state, workdir, tiny_data_dir, cell)


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_float32_losses_agree(tiny_data_dir, tmp_path, reference, mode):
    workdir = tmp_path / "run"
    launching.train(workdir, tiny_data_dir, *SETTINGS, f"--config.parallel.mode={mode}", devices=8)
    difference = _largest_loss_difference(reference / "float32", workdir)
    print(f"{mode + ' 1 x 8 devices':28} float32: losses differ by {difference:.1e} (relative)")
    for a, b in zip(launching.rows(reference / "float32"), launching.rows(workdir), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5), (a, b)


def test_a_run_goes_on_with_other_devices(tiny_data_dir, tmp_path, reference, reference_state):
    workdir = tmp_path / "run"
    for mode, devices, steps in (("jit", 8, 4), ("pmap", 2, 8), ("jit", 1, STEPS)):
        more = (*SETTINGS, f"--config.parallel.mode={mode}", f"--config.num_steps={steps}")
        launching.train(workdir, tiny_data_dir, *more, run="float64", devices=devices)
    _check_float64(reference, reference_state, workdir, tiny_data_dir, "8, then 2, then 1 device")


def test_only_the_first_process_prints(tiny_data_dir, tmp_path):
    workdir = tmp_path / "run"
    first, second = launching.train(workdir, tiny_data_dir, "--config.num_steps=2", devices=1, processes=2)
    assert "trained to step 2" in first.stdout
    assert "step" not in second.stdout


def test_a_batch_that_does_not_divide_is_refused(tiny_data_dir, tmp_path):
    words = launching.train_words(tmp_path, tiny_data_dir, "--config.optimizer.accumulate=3")
    done = launching.equipoise(*words, devices=2)
    assert done.returncode == 1
    assert "batch_size=16 does not divide among 2 devices x 3 microbatches" in done.stderr
