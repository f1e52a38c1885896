"""Invariant: a run that was stopped and went on is, to the bit, the run that never stopped."""

import functools
import random
import signal

import pytest

from equipoise.engine.training.checkpoint import checksums
from tests import launching


@pytest.fixture(scope="module")
def unbroken(tiny_data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    launching.train(workdir, tiny_data_dir)
    return workdir


def _same(unbroken, workdir, data_dir):
    assert (workdir / "metrics.jsonl").read_bytes() == (unbroken / "metrics.jsonl").read_bytes()
    assert _checksums(unbroken, data_dir) == _checksums(workdir, data_dir)
    names = sorted(p.name for p in (unbroken / "validation").iterdir())
    assert sorted(p.name for p in (workdir / "validation").iterdir()) == names


@functools.cache
def _checksums(workdir, data_dir):
    return checksums(launching.parameters(workdir, 12, workdir / "state.npz", data_dir))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_a_random_step(tiny_data_dir, tmp_path, unbroken, seed):
    workdir = tmp_path / "run"
    seen = random.Random(seed).choice(
        ["checkpoints/4*", "validation/00000008*", "checkpoints/8", "validation/00000004*"]
    )
    code = launching.train_until(workdir, tiny_data_dir, seen, signal.SIGKILL)
    assert code == -signal.SIGKILL
    launching.train(workdir, tiny_data_dir)
    _same(unbroken, workdir, tiny_data_dir)


def test_sigterm_saves_exits_75_and_goes_on(tiny_data_dir, tmp_path, unbroken):
    workdir = tmp_path / "run"
    code = launching.train_until(workdir, tiny_data_dir, "validation/00000004.parquet", signal.SIGTERM)
    assert code == 75
    saved = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    assert 4 <= saved < 12
    launching.train(workdir, tiny_data_dir)
    _same(unbroken, workdir, tiny_data_dir)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg", "travelling"])
def test_killed_in_the_middle_of_a_visit_to_a_site(tiny_data_dir, tmp_path, name):
    """Two visits of six updates; checkpoints after four and after eight."""
    sites = [
        f"--config.method.{field}" for field in (f"name={name}", "site=sex", "local_epochs=3", "cycles=1")
    ]
    launching.train(tmp_path / "whole", tiny_data_dir, *sites)
    code = launching.train_until(tmp_path / "run", tiny_data_dir, "checkpoints/8", signal.SIGKILL, *sites)
    assert code == -signal.SIGKILL
    launching.train(tmp_path / "run", tiny_data_dir, *sites)
    _same(tmp_path / "whole", tmp_path / "run", tiny_data_dir)


def test_a_run_can_be_extended(tiny_data_dir, tmp_path, unbroken):
    workdir = tmp_path / "run"
    launching.train(workdir, tiny_data_dir, "--config.num_steps=8")
    launching.train(workdir, tiny_data_dir)
    assert launching.rows(workdir)[-1] == launching.rows(unbroken)[-1]


def test_another_configuration_is_refused_with_the_difference(tiny_data_dir, unbroken):
    words = launching.train_words(unbroken, tiny_data_dir, "--config.optimizer.learning_rate=0.5")
    done = launching.equipoise(*words)
    assert done.returncode == 1
    assert "optimizer.learning_rate: 0.01 there, 0.5 asked" in done.stderr


def test_a_sigterm_to_one_process_stops_all(tiny_data_dir, tmp_path):
    workdir = tmp_path / "run"
    words = launching.train_words(workdir, tiny_data_dir, "--config.num_steps=300")
    with launching.free_address() as address:
        shared = [*words, f"--coordinator={address}", "--num_processes=2"]
    runs = [launching.start(*shared, f"--process_id={i}") for i in range(2)]
    launching.wait_for(workdir, "validation/00000008.parquet", runs[0])
    runs[1].send_signal(signal.SIGTERM)
    assert [run.wait(timeout=120) for run in runs] == [75, 75]
    saved = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    assert saved >= 8
