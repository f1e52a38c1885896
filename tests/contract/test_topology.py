"""Invariant: the same run gives the same numbers on any number of devices."""

import numpy as np
import pytest

from tests import launching


def _run(folder, data_dir, run, devices):
    workdir = folder / f"{run}-{devices}"
    launching.train(workdir, data_dir, "--config.data.eval_batch_size=8", run=run, devices=devices)
    return workdir


@pytest.mark.parametrize("devices", [2, 8])
def test_float64_run_is_the_same_on_any_number_of_devices(tiny_data_dir, tmp_path, one_device_run, devices):
    reference = one_device_run["float64"]
    workdir = _run(tmp_path, tiny_data_dir, "float64", devices)
    for a, b in zip(launching.rows(reference), launching.rows(workdir), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"split"}:
            assert b[name] == pytest.approx(a[name], rel=1e-9), (a, b)
    expected = launching.parameters(reference, 12, tmp_path / "a.npz", tiny_data_dir)
    found = launching.parameters(workdir, 12, tmp_path / "b.npz", tiny_data_dir)
    assert expected.keys() == found.keys()
    assert any("kernel" in k for k in expected)
    learning_rate = 1e-2
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=learning_rate * 1e-6, err_msg=name)


def test_float32_losses_agree(tiny_data_dir, tmp_path, one_device_run):
    workdir = _run(tmp_path, tiny_data_dir, "float32", 8)
    pairs = zip(launching.rows(one_device_run["float32"]), launching.rows(workdir), strict=True)
    for a, b in pairs:
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5), (a, b)


@pytest.fixture(scope="module")
def one_device_run(tiny_data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return {run: _run(folder, tiny_data_dir, run, 1) for run in ("float32", "float64")}
