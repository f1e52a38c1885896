import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.engine import mesh
from equipoise.engine.config import Run
from equipoise.engine.errors import UserError
from equipoise.engine.training.checkpoint import Checkpoints, Damaged, checksums
from equipoise.engine.update.state import TrainState
from tests import launching

# Orbax leaves coroutines of a failed read behind, and warns when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

RUNNER = mesh.make_runner(Run())


def state(step, value=1.0):
    params = {"a": {"kernel": jnp.full((64, 8), float(value)), "bias": jnp.arange(8.0)}}
    return RUNNER.replicate(TrainState(jnp.int32(step), params, {}, (jnp.zeros(3),)))


@pytest.fixture
def saved(tmp_path):
    """Steps 1 to 4 were saved with metrics 0.5, 0.9, 0.7, 0.6; two newest and the best are kept."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, metric in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.6)):
        checkpoints.save(state(step, step), {"window": [{"loss": step / 3}]}, metric)
    checkpoints.wait()
    checkpoints.close()
    return tmp_path


def opened(folder):
    return Checkpoints(folder, keep=2)


def abstract():
    return RUNNER.abstract(state(0))


def data_files(folder, step):
    return sorted(
        p
        for p in (folder / "checkpoints" / str(step) / "state").rglob("*")
        if p.is_file() and "/d/" in str(p)
    )


def test_newest_and_best_are_kept(saved):
    assert opened(saved).steps() == [2, 3, 4]


def test_restored_is_what_was_saved(saved):
    got, extra = opened(saved).restore_newest(abstract())
    assert checksums(got) == checksums(state(4, 4))
    assert extra == {"window": [{"loss": 4 / 3}]}


def test_what_is_saved_is_what_was_given(tmp_path):
    """Writing is asynchronous: what the caller does to its list meanwhile must not reach the disk."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    window = [{"loss": 1.0}]
    checkpoints.save(state(1), {"window": window}, None)
    window.append({"loss": 2.0})
    assert checkpoints.restore(abstract(), 1)[1] == {"window": [{"loss": 1.0}]}


def test_the_best_is_still_kept_after_a_restart(saved):
    again = opened(saved)
    for step in (5, 6, 7):
        again.save(state(step, step), {}, 0.1 * step)
        again.wait()
    assert again.steps() == [2, 6, 7]


def test_lower_can_be_better(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, higher_is_better=False)
    for step, metric in ((1, 0.5), (2, 0.9), (3, float("nan"))):
        checkpoints.save(state(step), {}, metric)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 3]


def test_every_flipped_bit_is_noticed(saved):
    rng = np.random.default_rng(0)
    files = [p for p in data_files(saved, 4) if p.stat().st_size > 50]
    assert files
    for _ in range(30):
        path = files[rng.integers(len(files))]
        content = bytearray(path.read_bytes())
        before = bytes(content)
        at = int(rng.integers(len(content)))
        content[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            got, _ = opened(saved).restore(abstract(), 4)
        except Damaged:
            continue
        finally:
            path.write_bytes(before)
        assert checksums(got) == checksums(state(4, 4)), "a changed value was restored without a word"


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_newest_falls_back_to_the_one_before(saved, caplog, damage):
    path = max(data_files(saved, 4), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        for at in range(len(content) // 4, len(content) // 2):
            content[at] ^= 0x10
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        got, _ = opened(saved).restore_newest(abstract())
    assert int(got.step) == 3
    assert checksums(got) == checksums(state(3, 3))
    assert "step 4" in caplog.text
    assert (saved / "damaged" / "4").is_dir()
    again = opened(saved)
    again.save(state(4, 4), {}, 0.6)
    again.wait()
    assert 4 in again.steps()


def test_no_sound_checkpoint_is_an_error_and_none_at_all_is_not(saved, tmp_path):
    for step in (2, 3, 4):
        for path in data_files(saved, step):
            path.unlink()
    with pytest.raises(UserError, match="not one of 3 checkpoint"):
        opened(saved).restore_newest(abstract())
    assert opened(tmp_path / "fresh").restore_newest(abstract()) is None


def test_checksums_see_dtype_and_shape():
    same_bytes = [np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), np.zeros((2, 3), np.int32)]
    assert len({str(checksums(x)) for x in same_bytes}) == 3


def test_a_failed_write_names_the_last_whole_checkpoint(saved, monkeypatch):
    checkpoints = opened(saved)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(UserError, match=r"no space left on device; the last whole checkpoint is step 4"):
        checkpoints.save(state(5), {}, None)


def test_restoring_onto_more_devices_is_part_of_the_abstract_state():
    shapes = jax.tree.leaves(abstract())
    assert all(s.sharding is not None for s in shapes)


SHARDED = """
import sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from equipoise.engine import hosts
from equipoise.engine.training.checkpoint import Checkpoints, Damaged, checksums
from equipoise.engine.update.state import TrainState

folder, address, count, number = sys.argv[1:]
if int(count) > 1:
    hosts.join(address, int(count), int(number))
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
kernel = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
SPECS = (P("a", "b"), P(), P("a"), P(None, "b"), P(("a", "b")))


def place(values, spec):
    return jax.make_array_from_callback(values.shape, NamedSharding(mesh, spec), lambda index: values[index])


def state(values, spec):
    return TrainState(place(np.array(3, np.int32), P()), {"kernel": place(values, spec)}, {}, ())


def abstract(spec):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(np.zeros_like(kernel), spec)
    )


expected = checksums(TrainState(np.array(3, np.int32), {"kernel": kernel}, {}, ()))
for spec in SPECS:
    assert checksums(state(kernel, spec)) == expected, spec
shards = NamedSharding(mesh, SPECS[0]).devices_indices_map(kernel.shape).values()
assert len({str(index) for index in shards}) == 8
for index in shards:
    changed = kernel.copy()
    bits = changed.view(np.uint32)[index]
    bits[-1, -1] ^= 1
    assert checksums(state(changed, SPECS[0])) != expected, index
with Checkpoints(folder) as checkpoints:
    checkpoints.save(state(kernel, SPECS[0]), {}, None)
    checkpoints.wait()
    for spec in SPECS:
        restored, _ = checkpoints.restore(abstract(spec), 3)
        assert restored.params["kernel"].sharding.spec == spec
        assert checksums(restored) == expected
"""


def run_sharded(folder, processes):
    """Saves and restores a state that lies on eight devices, which the processes share."""
    with launching.free_address() as address:
        words = [sys.executable, "-c", SHARDED, str(folder), address, str(processes)]
    env = launching.environment(8 // processes)
    runs = [
        subprocess.Popen([*words, str(i)], env=env, cwd=launching.ROOT, stderr=subprocess.PIPE, text=True)
        for i in range(processes)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors


@pytest.mark.parametrize("processes", [1, 2])
def test_a_sharded_state_has_the_checksums_of_the_whole_and_goes_on_under_any_sharding(tmp_path, processes):
    run_sharded(tmp_path, processes)
