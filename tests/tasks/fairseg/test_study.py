"""The FairSeg study: its plan, and what its page makes of runs."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest

from equipoise.engine import config, rundir
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.table.table import Schema, write_table
from equipoise.tasks.fairseg import gradients, study, summary
from equipoise.tasks.fairseg.gradients import KeptGradient
from tests import launching
from tests.data_builders.harvard import test_fairseg as test_harvard

STEP = 30
SCORES = ("dice_rim", "dice_cup")
SCHEMA = Schema(
    task="values", label="segmentation", classes=(), positive=None, attributes={"race": ["Asian", "Black", "White"]},
    scores=SCORES, models={c: (c,) for c in SCORES},
)  # fmt: skip


def commands(size, **options):
    plan = study.plan(size, pathlib.Path("/study"), options)
    return [stage.command for phase in plan for job in phase for stage in job.stages]


@pytest.mark.parametrize("size", study.SIZES)
def test_the_cohort_is_prepared_before_it_is_used(size):
    first, *rest = commands(size)
    assert first[0] == "prepare"
    name = "fundus_phantom/demo_subjects2000" if size == "demo" else "harvard_fairseg/slo"
    used = {
        w.partition("=")[2]
        for words in rest
        for w in words
        if w.startswith(("--cohort=", "--config.data.cohort="))
    }
    assert used == {name}


def test_methods_differ_from_erm_in_the_method_alone():
    train = [c[1:] for c in commands("demo") if c[0] == "train"]
    plain = [{w for w in words if "config.method" not in w and "--workdir" not in w} for words in train]
    assert len(plain) == len(study.METHODS) and all(words == plain[0] for words in plain)
    febs = [words for words in train if any("febs" in w for w in words)]
    assert len(febs) == 2 and all("--config.method.pretrain_steps=200" in words for words in febs)
    assert all(
        "--config.method.group=gender" in w
        for w in [c for c in commands("demo", group="gender") if "name=febs_intent" in str(c)]
    )


def test_at_paper_size_each_seed_is_a_job_and_weights_go_to_their_model():
    plan = study.plan(
        "paper",
        pathlib.Path("/study"),
        {"seeds": 2, "sam": "/w/sam.pth", "vit": "/w/vit.npz", "source_dir": "/raw"},
    )
    assert len(plan[1]) == 3 * len(study.METHODS) * 2
    assert "--source_dir=/raw" in plan[0][0].stages[0].command
    found = {c.name: c.stages[0].command for c in plan[1]}
    assert (
        "--config.model.weights=/w/sam.pth" in found["samed-erm-0"]
        and "--config.model.weights=/w/vit.npz" in found["transunet-erm-1"]
    )
    assert not any("weights" in w for w in found["unet-erm-0"])


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ("demo", {"subject": 3}, "Did you mean 'subjects'"),
        ("demo", {"seeds": 0}, "whole number above 0"),
        ("demo", {"sam": "x"}, "fairseg at size demo has no 'sam'"),
        ("paper", {"subjects": 20}, "fairseg at size paper has no 'subjects'"),
    ],
)
def test_a_wrong_option_is_named(size, options, message):
    with pytest.raises(UserError, match=message):
        study.plan(size, pathlib.Path("/study"), options)


def people():
    race = ["Asian"] * 10 + ["Black"] * 10 + ["White"] * 20
    names = [f"subject-{i:03d}" for i in range(len(race))]
    return pd.DataFrame({"scan_id": names, "subject_id": names, "race": race})


def make(folder, method, seed, black):
    """One scored run: a Dice of 0.9 for everyone but the group Black."""
    run = config.Run(seed=seed, num_steps=STEP)
    run.data.cohort, run.task.kind, run.task.label = "fundus_phantom/demo", "segmentation", "mask"
    run.checkpoint.best_metric = "dice"
    run = config.replaced(run, **{"method.name": method, "method.group": "" if method == "erm" else "race"})
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict(run)))
    frame = people()
    dice = np.where(frame["race"] == "Black", black, 0.9) + np.resize([-0.01, 0.01], len(frame))
    frame = frame.assign(
        cohort=run.data.cohort, split="test", target=0, dice_rim=dice, dice_cup=dice - 0.1, threshold=np.nan, threshold_split="argmax",
        checkpoint_step=STEP, checkpoint_fingerprint="0123456789ab-30", config_fingerprint="0123456789ab",
    )  # fmt: skip
    write_table(rundir.RunFolder(folder).evaluation(run.data.cohort, "test", STEP), frame, SCHEMA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    for seed in range(3):
        make(root / "runs/phantom-erm" / f"member_{seed:03d}", "erm", seed, 0.7 + seed / 100)
        make(root / "runs/phantom-febs_intent" / f"member_{seed:03d}", "febs_intent", seed, 0.8 + seed / 100)
        make(
            root / "runs/phantom-febs_released" / f"member_{seed:03d}",
            "febs_released",
            seed,
            0.6 + seed / 100,
        )
    return root


def test_groups_ranges_and_differences_equal_hand_counts(folder):
    (model,), left_out = summary.gather(folder)
    assert not left_out and model.group == "race" and list(model.structures) == ["rim", "cup"]
    erm = model.methods["rim"]["erm"]
    assert erm.groups["race"]["Black"]["mean"].estimate.value == pytest.approx(0.71)
    assert erm.disparities["race"]["max_min:mean"].value == pytest.approx(0.19)
    worst = {c.first: c.value for c in model.contrasts["rim"] if c.score == "worst_group:mean"}
    assert worst == pytest.approx({"febs_intent": 0.1, "febs_released": -0.1})
    served = summary.served(model)
    rows = {row[0].text: [c.text for c in row] for row in served.tables[0].rows}
    everyone = (30 * 0.9 + 10 * 0.71) / 40
    scaled = everyone / (1 + abs(0.9 - everyone) * 2 + abs(0.71 - everyone))
    assert [float(rows["ERM"][i]) for i in (1, -1)] == pytest.approx([everyone, scaled], abs=6e-4)
    assert (
        "moves the worst group by +0.100" in served.headline
        and "moves the worst group by −0.100" in served.headline
    )


def test_the_hardest_group_is_the_one_with_the_largest_loss():
    kept = [
        KeptGradient(form, group, loss, ratio, 0.1, 20)
        for form, ratios in (("febs_released", (1.2, 0.5)), ("febs_intent", (0.8, 1.9)))
        for group, loss, ratio in zip(("Asian", "Black"), (0.1, 0.3), ratios, strict=True)
    ]
    text = summary.scaling(summary.Network("phantom", "race", (), {}, {}, pathlib.Path()), kept).headline
    assert (
        "hardest group (Black) Dice keeps 0.50 of its gradient under FEBS as released, and 1.90 under FEBS as intended"
        in text
    )


@pytest.mark.slow
def test_the_whole_study_runs_and_a_second_call_does_nothing_again(tmp_path):
    words = (
        "study", "--study=fairseg", "--size=demo", f"--workdir={tmp_path / 'study'}", f"--data_dir={tmp_path / 'data'}",
        "--options=subjects=200,seeds=2,steps=6", "--executor=local", "--jobs=2",
    )  # fmt: skip
    done = launching.equipoise(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "study/report/report.html").read_text()
    for word in ("Who is outlined worse", "What FEBS does to gradients", "How hard each group was made"):
        assert word in text
    rows = pd.read_csv(tmp_path / "study/report/dice.csv", comment="#")
    assert set(rows["method"]) == set(study.METHODS) and set(rows["structure"]) == {"rim", "cup", "disc"}
    again = launching.equipoise(*words)
    assert again.returncode == 0 and "6 of 6 done before" in again.stdout
    kept = gradients.measure(tmp_path / "study/runs/phantom-erm/member_000", tmp_path / "data", "race", 3)
    assert {k.form for k in kept} == set(gradients.FORMS) and all(np.isfinite(k.ratio) for k in kept)


VARIANTS = [
    pytest.param(v, marks=[pytest.mark.slow] * (v != "release")) for v in ("release", "code", "first")
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_folder_in_the_official_layout_builds_trains_and_evaluates(tmp_path, variant):
    test_harvard.write(tmp_path / "raw", variant=variant)
    where = (f"--data_dir={tmp_path / 'data'}",)
    run = (
        "--config=fairseg:unet", "--config.data.shape=(16,16)", "--config.data.batch_size=4", "--config.data.num_threads=1",
        "--config.model.args.features=(4,8)", "--config.num_steps=2", "--config.evaluation.every_steps=2",
        "--config.checkpoint.every_steps=2", "--config.method.name=febs_released", "--config.method.group=gender",
    )  # fmt: skip
    for words in (
        ("prepare", "--cohort=harvard_fairseg/slo", f"--source_dir={tmp_path / 'raw'}"),
        ("train", *run, f"--workdir={tmp_path / 'run'}"),
        ("evaluate", f"--workdir={tmp_path / 'run'}", "--cohort=harvard_fairseg/slo", "--split=test"),
    ):
        done = launching.equipoise(*words, *where)
        assert done.returncode == 0, done.stdout + done.stderr
    (scored,) = (tmp_path / "run/evaluations").glob("*/test/00000002.parquet")
    frame = pd.read_parquet(scored)
    assert {"dice_rim", "dice_cup", "dice_disc", "hd95_cup", "gender"} <= set(frame) and len(frame) == frame[
        "scan_id"
    ].nunique() > 3
