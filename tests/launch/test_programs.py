import json

import numpy as np
import pytest

from equipoise.engine import config
from equipoise.launch import program, reference
from equipoise.launch.__main__ import COMMANDS
from tests import launching
from tests.launching import RUNS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_with_examples(command):
    done = launching.equipoise(command, "--help")
    assert done.returncode == 0
    assert f"equipoise {command} " in done.stdout
    assert "flags:" in done.stdout and "--data_dir" in done.stdout


def test_the_command_line_lists_its_commands():
    done = launching.equipoise("--help")
    assert done.returncode == 0
    assert all(f"equipoise {c}" in done.stdout for c in COMMANDS)
    done = launching.equipoise("trian")
    assert done.returncode == 2
    assert "Did you mean 'train'" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "--config=simbaa:near"], 2, "Did you mean 'simba'"),
        (["train", "--config=simba:nearr"], 2, "Did you mean 'near'? There are: none"),
        (
            ["train", "--config=simba:near", "--config.optimizer.learning_rat=1"],
            2,
            "Did you mean 'optimizer.learning_rate'",
        ),
        (["train", "--config=simba:near", "--config.num_steps=many", "--workdir=x"], 2, "num_steps"),
        (
            ["train", "--config=simba:near", "--config.optimizer.name=adm", "--workdir=x"],
            1,
            "Did you mean 'adam'",
        ),
        (["train", "--config=simba:near", "extra"], 2, "unexpected argument 'extra'"),
        (["train", "--config=simba:near"], 1, "no --workdir"),
        (["train", "--config=no/such/file.py:x"], 2, "no file"),
        (["train", "--workdir=x"], 1, "no --config"),
        (
            ["train", "--config=simba:near", "--workdir=x", "--data_dir=/nowhere"],
            1,
            "equipoise prepare --cohort=simba/near_4mm",
        ),
        (["evaluate", "--workdir=/nowhere"], 1, "holds no run"),
        (["prepare", "--cohort=simbaa/near_4mm"], 1, "Did you mean"),
        (["prepare", "--cohrt=simba"], 2, "cohrt"),
    ],
    ids=lambda x: " ".join(x)[:60] if isinstance(x, list) else None,
)
def test_mistakes_get_one_clear_line(words, code, message, tmp_path):
    done = launching.equipoise(*[w.replace("--workdir=x", f"--workdir={tmp_path}") for w in words])
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1


def test_the_command_line_reference_is_current():
    written = (launching.ROOT / "docs" / "cli.md").read_text()
    assert written == reference.text(), "run `make docs`"


def test_every_field_of_a_run_and_every_flag_says_what_it_means():
    lines = reference.text().splitlines()
    cells = [line.strip("|").split(" | ") for line in lines if line.startswith("| `")]
    fields = [name.strip(" `") for name, *_ in cells]
    assert fields == [name for name, _ in config.flatten(config.to_dict(config.Run()))]
    assert [name for name, *_, meaning in cells if len(meaning.split()) < 2] == []
    stated = [line.strip() for line in lines if line.startswith("  --")]
    assert len(stated) > 100
    assert [line for line in stated if len(line.partition(": ")[2].split()) < 2] == []


def test_arguments_of_a_network_are_flags():
    given = ["--config.model.args.head=gap", "--config.model.args.features=(4, 8)"]
    done = launching.equipoise("train", "--config=simba:near", *given, "--print_config")
    assert json.loads(done.stdout)["model"]["args"] == {"features": [4, 8], "head": "gap"}


def test_print_config_shows_overrides():
    done = launching.equipoise(
        "train", f"--config={RUNS}:float32", "--config.data.batch_size=99", "--print_config"
    )
    assert done.returncode == 0
    assert '"batch_size": 99' in done.stdout


def test_a_config_may_be_a_study_a_module_or_a_path(tmp_path, monkeypatch):
    assert program.locate_config("simba:near").endswith("tasks/simba/runs.py:near")
    assert program.locate_config("tests.tiny_runs:float32").endswith("tests/tiny_runs.py:float32")
    (tmp_path / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert program.locate_config("mine.py:a") == f"{tmp_path}/mine.py:a"


def test_data_dir_comes_from_the_environment(monkeypatch, tmp_path):
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    monkeypatch.setenv("EQUIPOISE_DATA", str(tmp_path))
    assert program.data_dir() == tmp_path
    monkeypatch.delenv("EQUIPOISE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert str(program.data_dir()) == "/cache/equipoise/cohorts"


def test_evaluate_writes_one_row_per_image(tiny_run, tiny_data_dir):
    from equipoise.engine.metrics.table.table import read_table

    _, workdir = tiny_run
    done = launching.equipoise(
        "evaluate", f"--workdir={workdir}", "--step=all", "--saliency", f"--data_dir={tiny_data_dir}"
    )
    assert done.returncode == 0, done.stderr
    tables = sorted((workdir / "evaluations" / "tiny" / "test").glob("*.parquet"))
    assert [int(t.stem) for t in tables] == sorted(
        int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()
    )
    frame = read_table(tables[-1]).frame
    assert frame["scan_id"].is_unique
    assert set(frame["threshold_split"]) == {"fixed"}
    assert frame["config_fingerprint"].str.len().eq(12).all()
    for maps in (workdir / "saliency" / "tiny").glob("*.npz"):
        assert str(np.load(maps)["attribute"]) == "sex"
    assert len(list((workdir / "saliency" / "tiny").iterdir())) == len(tables)


def test_evaluate_names_the_steps_there_are(tiny_run, tiny_data_dir):
    _, workdir = tiny_run
    done = launching.equipoise("evaluate", f"--workdir={workdir}", "--step=5", f"--data_dir={tiny_data_dir}")
    assert done.returncode == 1
    assert "give best, last, all or one of" in done.stderr


def test_logs_name_no_subject(tiny_run, tiny_data_dir):
    _, workdir = tiny_run
    done = launching.equipoise("evaluate", f"--workdir={workdir}", f"--data_dir={tiny_data_dir}")
    assert "subject-" not in done.stdout + done.stderr


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(tiny_data_dir, tmp_path):
    words = launching.train_words(
        tmp_path / "run", tiny_data_dir, "--config.optimizer.learning_rate=1e30", "--config.num_steps=100",
        "--config.optimizer.name=sgd", "--config.optimizer.weight_decay=0"
    )  # fmt: skip
    done = launching.equipoise(*words)
    assert done.returncode == 1
    assert "not finite at update" in done.stderr
    assert "Try a lower --config.optimizer.learning_rate" in done.stderr


def test_a_network_that_does_not_fit_leaves_no_run_behind(tiny_data_dir, tmp_path):
    deep = "--config.model.args.features=(4,4,4,4,4,4)"
    done = launching.equipoise(*launching.train_words(tmp_path / "run", tiny_data_dir, deep))
    assert done.returncode == 1 and "cannot be pooled" in done.stderr
    assert not (tmp_path / "run").exists()


def test_evaluate_scores_several_cohorts_and_every_member_of_a_population(tiny_data_dir, tmp_path):
    run = tmp_path / "run"
    words = launching.train_words(run, tiny_data_dir, "--config.population.seeds=2", "--config.num_steps=4")
    assert launching.equipoise(*words).returncode == 0
    done = launching.equipoise(
        "evaluate", f"--workdir={run}", "--cohort=tiny,tiny", f"--data_dir={tiny_data_dir}"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images of tiny test") == 4
    done = launching.equipoise(
        "probe",
        f"--workdir={run}",
        "--labels=disease,sex",
        "--folds=2",
        "--control=1",
        f"--data_dir={tiny_data_dir}",
    )
    assert done.returncode == 0, done.stderr
    for member in ("member_000", "member_001"):
        assert list((run / member / "evaluations" / "tiny" / "test").glob("*.parquet"))
        assert list((run / member / "probes" / "tiny" / "test").glob("*.json"))
