import pathlib

import pytest

from equipoise.tasks.simba import study
from tests import launching

TINY = "--options=subjects=80,seeds=2,steps=6,cycles=5,bias_in_disease=0.8"


def run(folder, *more):
    return launching.equipoise("study", f"--workdir={folder}", *more)


def commands(size, **options):
    plan = study.plan(size, pathlib.Path("/study"), options)
    return [stage.command for phase in plan for job in phase for stage in job.stages]


def test_the_list_says_what_each_size_costs(tmp_path):
    done = launching.equipoise("study", "--list")
    assert done.returncode == 0, done.stderr
    assert (
        "simba:" in done.stdout
        and "--size=demo" in done.stdout
        and "--size=paper" in done.stdout
        and "template=FILE" in done.stdout
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no --study"),
        (("--study=simbaa",), "Did you mean 'simba'"),
        (("--study=simba", "--size=papr"), "Did you mean 'paper'"),
        (("--study=simba", "--options=subject=3"), "Did you mean 'subjects'"),
        (("--study=simba", "--options=seeds=0"), "whole number above 0"),
        (("--study=simba", "--options=cycles=1"), "cycles=1"),
        (("--study=simba", "--options=subjects"), "NAME=VALUE"),
        (("--study=simba", "--options=subjects=many"), "a whole number"),
        (("--study=simba", "--report_only"), "no evaluated run"),
    ],
)
def test_a_wrong_word_is_named_before_anything_runs(tmp_path, words, message):
    done = run(tmp_path, *words)
    assert done.returncode == 1
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", study.SIZES)
def test_every_cohort_is_prepared_before_it_is_used(size):
    prepared = set()
    for words in commands(size, subjects=80):
        if words[0] == "prepare":
            settings = dict(o.split("=") for o in words[2].removeprefix("--options=").split(","))
            assert settings.pop("subjects") == "80"
            more = "".join(f"_{name}{value}" for name, value in settings.items())
            prepared.add(f"{words[1].removeprefix('--cohort=')}{more}_subjects80")
            continue
        used = [w.partition("=")[2] for w in words if w.startswith(("--cohort=", "--config.data.cohort="))]
        assert set(filter(None, ",".join(used).split(","))) <= prepared
    assert len(prepared) == 5 + 6 + 2


def test_methods_differ_from_erm_in_the_method_alone():
    train = {c[1:]: c for c in commands("demo") if c[0] == "train" and "--config=simba:near" in c}
    plain = [{w for w in words if "config.method" not in w and "--workdir" not in w} for words in train]
    assert len(plain) == 6 and all(words == plain[0] for words in plain)


def test_schedules_differ_from_each_other_in_the_method_alone():
    runs = [c[1:] for c in commands("demo", cycles=10) if c[0] == "train" and "--config=simba:sites" in c]
    apart = [{w for w in words if "config.method" not in w and "--workdir" not in w} for words in runs]
    assert len(apart) == 8 and all(words == apart[1] for words in apart[1:])
    (harmony,) = (words for words in runs if "--config.method.name=harmony_tm" in words)
    assert {
        "--config.method.pretrain_cycles=4",
        "--config.method.head_cycles=2",
        "--config.method.cycles=10",
    } <= set(harmony)


def test_at_paper_size_each_seed_is_a_job_of_its_own():
    plan = study.plan("paper", pathlib.Path("/study"), {"seeds": 3})
    assert len(plan[1]) == (10 + 8) * 3
    assert {job.name for job in plan[1]} >= {
        "near-erm-0",
        "near-erm-2",
        "near-unlearning-1",
        "sites-fedtm-2",
    }


@pytest.mark.slow
def test_the_whole_study_runs_and_a_second_call_does_nothing_again(tmp_path):
    data = f"--data_dir={tmp_path / 'data'}"
    words = ("--study=simba", "--size=demo", data, TINY, "--executor=local", "--jobs=2")
    done = run(tmp_path / "study", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    report = tmp_path / "study" / "report"
    text = (report / "report.html").read_text()
    for word in (
        "What the bias does",
        "What mitigation does",
        "Is what is encoded also used?",
        "Learning across sites",
    ):
        assert word in text
    assert (report / "methods" / "report.html").exists()
    lines = (report / "outcomes.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * (
        1 + 3 + 2 + 3 + 2 + 5
    )  # none on five cohorts, multi with two biases; three; multi; five methods
    again = run(tmp_path / "study", *words)
    assert again.returncode == 0
    assert "18 of 18 done before" in again.stdout and again.stdout.count("submitted") == 0
