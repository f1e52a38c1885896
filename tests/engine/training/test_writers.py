import json

from equipoise.engine.config import Writers
from equipoise.engine.training import writers


def test_rows_are_cut_back_to_the_restored_step(tmp_path):
    writer = writers.Jsonl(tmp_path, 0)
    for step in (2, 4, 6):
        writer.write(step, "train", {"loss": step / 2})
        writer.timing(step, {"examples_per_second": 1.0})
    writers.Jsonl(tmp_path, 4).write(6, "train", {"loss": float("nan")})
    rows = writers.read_rows(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in rows] == [2, 4, 6]
    assert rows[-1]["loss"] is None
    assert [r["step"] for r in writers.read_rows(tmp_path / "timing.jsonl")] == [2, 4]


def test_a_fresh_start_leaves_nothing_of_the_old(tmp_path):
    writers.Jsonl(tmp_path, 0).write(2, "train", {"loss": 1.0})
    writers.Jsonl(tmp_path, 0)
    assert writers.read_rows(tmp_path / "metrics.jsonl") == []


def test_a_line_cut_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    assert writers.read_rows(path) == [{"step": 1}]


def test_only_the_main_host_writes(tmp_path):
    assert isinstance(writers.make(Writers(), tmp_path, 0, is_main=False), writers.Noop)
    assert isinstance(writers.make_console(Writers(), 0, 10, is_main=False), writers.Noop)
    assert list(tmp_path.iterdir()) == []


def test_console_and_tensorboard(tmp_path, capsys):
    files = writers.make(Writers(), tmp_path, 0, is_main=True)
    writer = writers.Many(files, writers.make_console(Writers(), 0, 10, is_main=True))
    writer.write(10, "train", {"loss": 0.25})
    writer.timing(10, {"examples_per_second": 12.0, "wait_share": 0.5})
    writer.write(10, "validation", {"auroc": 0.75})
    writer.close()
    out = capsys.readouterr().out
    assert "loss 0.2500" in out and "12.0 examples/s" in out and "auroc 0.75" in out
    assert list((tmp_path / "tensorboard").glob("events*"))
