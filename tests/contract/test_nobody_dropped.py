"""Invariant: every image of a split is in the table exactly once, whatever the batch size and device count."""

import numpy as np
import pytest

from equipoise.engine import data
from equipoise.engine.config import Data
from equipoise.engine.metrics.table.table import read_table
from tests import launching


@pytest.mark.parametrize("batch_size", [1, 3, 7, 16, 64, 1000])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_eval_batches_hold_each_image_once(tiny_data_dir, batch_size, devices):
    split = data.open_split("tiny", "test", tiny_data_dir)
    config = Data(cohort="tiny", eval_batch_size=batch_size)
    batches = list(data.eval_batches(split, config, "disease", devices))
    index = np.concatenate([b["index"] for b in batches])
    weight = np.concatenate([b["weight"] for b in batches])
    assert sorted(index[index >= 0]) == list(range(len(split)))
    np.testing.assert_array_equal(weight, index >= 0)
    assert len({len(b["index"]) for b in batches}) == 1
    assert len(batches[0]["index"]) % devices == 0


def test_the_table_holds_each_image_once(tiny_run, tiny_data_dir):
    from equipoise.engine.training import choosing
    from equipoise.engine.training.machine import Machine
    from equipoise.tasks import make_task

    config, workdir = tiny_run
    split = data.open_split("tiny", "test", tiny_data_dir)
    for size in (1, 5, 64):
        config.data.eval_batch_size = size
        machine = Machine(config, make_task(config, split), split)
        frame, _ = machine.predict(choosing.restore(machine, workdir, 12), split)
        assert sorted(frame["scan_id"]) == sorted(split.columns["scan_id"])
        if size == 1:
            reference = frame
        np.testing.assert_allclose(frame["score"], reference["score"], rtol=1e-5)


def test_several_processes_write_the_table_of_one(tiny_run, tiny_data_dir):
    _, workdir = tiny_run
    tables = []
    for processes, devices in ((1, 1), (2, 2)):
        words = ("evaluate", f"--workdir={workdir}", f"--data_dir={tiny_data_dir}", "--saliency")
        first, *others = launching.together(*words, processes=processes, devices=devices)
        assert "step" in first.stdout and not any("step" in other.stdout for other in others)
        (path,) = (workdir / "evaluations").rglob("*.parquet")
        tables.append(read_table(path).frame)
    one, two = tables
    assert one.drop(columns="score").equals(two.drop(columns="score"))
    np.testing.assert_allclose(two["score"], one["score"], rtol=1e-5)
