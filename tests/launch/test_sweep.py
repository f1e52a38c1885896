import json

import pytest

from tests import launching


def sweep(folder, data_dir, *more, run="float32"):
    words = ("sweep", f"--config={launching.RUNS}:{run}", f"--workdir={folder}", f"--data_dir={data_dir}")
    return launching.equipoise(*words, "--config.num_steps=4", "--noreport", *more)


def test_a_grid_is_trained_scored_and_resumed_cell_by_cell(tiny_data_dir, tmp_path):
    done = sweep(tmp_path, tiny_data_dir, "--grid=seed=0")
    assert done.returncode == 0, done.stderr

    wider = sweep(tmp_path, tiny_data_dir, "--grid=seed=0..1", "--dry_run")
    assert wider.returncode == 0 and wider.stdout.count("equipoise train") == 2
    broken = tmp_path / "runs" / "seed=1"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    wider = sweep(tmp_path, tiny_data_dir, "--grid=seed=0..1", "--executor=local", "--jobs=2")
    assert wider.returncode == 1
    assert "1 of 2 done before" in wider.stdout
    assert "seed=1 stopped with exit code 1" in wider.stderr
    assert "JSON" in (tmp_path / "logs" / "seed=1.log").read_text()
    (broken / "config.json").unlink()
    again = sweep(tmp_path, tiny_data_dir, "--grid=seed=0..1", "--executor=local", "--jobs=2")
    assert again.returncode == 0, again.stderr
    assert "1 of 2 done before" in again.stdout and "seed=1: done" in again.stdout
    for seed in (0, 1):
        run = tmp_path / "runs" / f"seed={seed}"
        config = json.loads((run / "config.json").read_text())
        assert (config["seed"], config["num_steps"]) == (seed, 4)
        assert list(run.glob("evaluations/tiny/test/*.parquet"))
    losses = [(tmp_path / "runs" / f"seed={s}" / "metrics.jsonl").read_text() for s in (0, 1)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 1, "no --grid"),
        (("--grid=sed=1,2",), 1, "Did you mean 'seed'"),
        (("--grid=seed=1,2", "--grid=seed=3"), 1, "each field once"),
        (("--grid=seed=",), 1, "FIELD=VALUE"),
        (("--grid=optimizer.name=adamw,adm",), 1, "Did you mean 'adam'"),
        (("--grid=config=simba:near,simbaa:near",), 1, "Did you mean 'simba'"),
        (("--grid=config=simba:nearr2",), 1, "no run 'nearr2' in simba. Did you mean"),
        (("--grid=seed=1", "--executor=slurm"), 1, "no srun here"),
        (("--grid=seed=1", "--executor=local", "--jobs=2", "--gpus_per_job=1"), 1, "names 1"),
    ],
)
def test_a_grid_that_cannot_run_is_refused_before_anything_runs(words, code, message, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    done = sweep(tmp_path / "w", tmp_path, *words)
    assert done.returncode == code
    assert message in done.stderr
    assert not (tmp_path / "w" / "runs").exists()


def test_values_of_a_grid_may_hold_commas_and_any_setting(tmp_path):
    done = sweep(
        tmp_path, tmp_path, "--grid=model.args.features=(4,8),(8,16)", "--grid=config=simba:none,simba:near", "--dry_run"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    trained = [line for line in done.stdout.splitlines() if line.startswith("equipoise train")]
    assert len(trained) == 4
    assert all("--config.num_steps=4" in line for line in trained)
    assert sum("'--config.model.args.features=(8,16)'" in line for line in trained) == 2
    assert sum("simba:none" in line for line in trained) == 2


def reports(done):
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("equipoise report")]


def test_each_set_of_images_has_a_report(tmp_path):
    words = (
        "sweep",
        f"--workdir={tmp_path}",
        "--grid=config=simba:none,simba:near",
        "--grid=seed=0..1",
        "--dry_run",
    )
    own = reports(launching.equipoise(*words))
    assert [f"--cohort=simba/{s}_4mm " in line for s, line in zip(("none", "near"), own, strict=True)] == [
        True,
        True,
    ]
    assert len({line.partition("--out=")[2] for line in own}) == 2
    (one,) = reports(launching.equipoise(*words, "--evaluate=simba/far_4mm:validation"))
    assert "--cohort=simba/far_4mm --split=validation" in one
    (both,) = reports(
        launching.equipoise(*words, "--config=simba:near", "--config.data.cohort=simba/far_4mm")
    )
    assert "--cohort=simba/far_4mm " in both


def test_populations_are_reported_member_by_member(tiny_data_dir, tmp_path):
    done = sweep(tmp_path, tiny_data_dir, "--grid=method.name=erm,reweighing", "--config.method.group=sex",
                 "--config.population.seeds=2", "--report")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 runs of 2 methods" in done.stdout
    assert (tmp_path / "report" / "report.html").exists()
