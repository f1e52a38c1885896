"""Runs across sites: what is read of them, and how sites' errors spread, against loops and by hand."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from equipoise.engine import config, rundir
from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.table.table import Schema, write_table
from equipoise.tasks.simba import schedule_outcomes as schedules
from equipoise.tasks.simba import schedule_page as across_sites
from equipoise.tasks.simba.schedule_outcomes import Schedules

STEP = 70
SIZES = {"A": 1, "B": 3, "C": 30, "D": 80}  # training scans; E has none
SITES = ["A"] * 2 + ["B"] * 4 + ["C"] * 12 + ["D"] * 24 + ["E"] * 3
SCHEMA = Schema("classification", "disease", ("absent", "present"), "present", {"site": list("ABCDE")})


def patients():
    names = [f"subject-{i:03d}" for i in range(len(SITES))]
    target = np.arange(len(SITES)) % 2
    return pd.DataFrame({"scan_id": names, "subject_id": names, "target": target, "site": SITES})


def make(folder, method, seed, wrong, told=None, **settings):
    """One finished, scored run that misclassifies the patients ``wrong``."""
    run = config.Run(seed=seed, num_steps=STEP)
    run.data.cohort, run.data.batch_size, run.task.label = "simba/sites_8mm", 5, "disease"
    run.method = config.Method(name=method, site="" if method == "erm" else "site", **settings)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict(run)))
    cost = {"cycles": 7, "transfers": 140, "network_bytes": 4_000_000, "optimizer_bytes": 0}
    rows = [
        {"step": s, "split": "validation", "loss": 0.4, "auroc": 0.8 + s / 1000} for s in (STEP // 2, STEP)
    ]
    rows = [r | ({} if method == "erm" else cost | {"cycles": r["step"] // 10}) for r in rows]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    frame = patients()
    called = frame["target"].to_numpy().astype(bool) ^ np.isin(np.arange(len(frame)), wrong)
    frame = frame.assign(
        score=np.where(called, 0.9, 0.1), threshold=0.5, cohort=run.data.cohort, split="test", threshold_split="fixed",
        checkpoint_step=STEP, checkpoint_fingerprint="0123456789ab-70", config_fingerprint="0123456789ab",
    )  # fmt: skip
    place = rundir.RunFolder(folder).evaluation(run.data.cohort, "test", STEP)
    write_table(place, frame.sample(frac=1, random_state=seed), SCHEMA)
    if told is not None:
        path = rundir.RunFolder(folder).probes(run.data.cohort, "test", STEP)
        path.parent.mkdir(parents=True)
        one = {"block": "pooled", "label": "scanner", "accuracy": {"value": told}, "chance": 0.2}
        path.write_text(json.dumps({"probes": [one]}))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    for seed in range(3):
        at = f"member_{seed:03d}"
        make(root / "runs/sites-central" / at, "erm", seed, [0, 7, 8, 20 + seed], 0.5)
        make(root / "runs/sites-fedavg_size" / at, "fedavg", seed, range(seed, 12), site_weights="size")
        make(root / "runs/sites-travelling" / at, "travelling", seed, [0, 7, 8, 21 + seed], 0.5 + seed / 100)
        make(
            root / "runs/sites-harmony_tm" / at,
            "harmony_tm",
            seed,
            [0, 7, 8],
            0.3 + seed / 100,
            group="scanner",
        )
        make(root / "runs/sites-fedtm" / at, "fedtm", seed, [0, 7, 8, 9 + seed])
    broken = root / "runs/sites-fedtm/member_003"
    broken.mkdir()
    (broken / "config.json").write_text((root / "runs/sites-fedtm/member_000/config.json").read_text())
    return root


@pytest.fixture
def read(study, monkeypatch):
    monkeypatch.setattr(schedules, "_site_sizes", lambda *_: SIZES)
    return schedules.gather(study, study)


def test_what_is_read_of_a_run_equals_hand_counts(read):
    assert list(read.runs) == ["central", "FedAvg, by size", "travelling", "HarmonyTM", "FedTM"]
    assert [run.seed for run in read.runs["travelling"]] == [0, 1, 2]
    run = read.runs["travelling"][0]
    assert run.scores["accuracy"].value == pytest.approx(1 - 4 / 45)
    assert {k: (e.events, e.n) for k, e in run.bands.items()} == {
        "1 to 4": (1, 6), "20 to 49": (2, 12), "50 or more": (1, 24),
    }  # fmt: skip
    assert {k: (e.events, e.n) for k, e in run.sites.items()} == {
        "A": (1, 2), "B": (0, 4), "C": (2, 12), "D": (1, 24), "E": (0, 3),
    }  # fmt: skip
    assert run.cost == {"cycles": 7, "transfers": 140, "network_bytes": 4_000_000, "optimizer_bytes": 0}
    assert run.curve == pytest.approx({3: 0.835, 7: 0.87})
    central = read.runs["central"][0]
    assert central.cost == {}
    assert [*central.curve] == pytest.approx([35 * 5 / 114, 70 * 5 / 114])  # passes over all images
    assert [*central.curve.values()] == pytest.approx([0.835, 0.87])
    assert central.told["pooled"]["scanner"] == {"accuracy": 0.5, "chance": 0.2}
    assert [name for name, _ in read.left_out] == ["sites-fedtm/member_003"]


def test_spread_equals_a_loop_over_every_deal():
    """Two sites of two and three patients: ten deals of the errors of two seeds."""
    site = np.array(["A", "A", "B", "B", "B"])
    wrong = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 0, 1]], float)

    def run(seed):
        def error(rows):
            return intervals.proportion(wrong[seed][rows] > 0, np.flatnonzero(rows))

        each = {name: error(site == name) for name in "AB"}
        return schedules.Learned("FedTM", seed, {}, {}, each, wrong[seed], site, {}, {}, {})

    found = schedules.spread([run(0), run(1)], min_scans=2, draws=20_000)
    mean = wrong.mean(axis=0)
    ranges = [
        abs(mean[list(a)].mean() - mean[[i for i in range(5) if i not in a]].mean())
        for a in itertools.combinations(range(5), 2)
    ]
    observed = abs(0.75 - 1 / 3)
    assert found.num_sites == 2 and found.max_min.value == pytest.approx(observed)
    assert found.sd.value == pytest.approx(observed / 2)
    assert found.max_min.null_mean == pytest.approx(np.mean(ranges), abs=0.01)
    assert found.max_min.p == pytest.approx(np.mean(np.array(ranges) >= observed - 1e-12), abs=0.015)
    assert found.sd.p == pytest.approx(found.max_min.p)
    assert found.max_min.low <= observed <= found.max_min.high
    assert np.isnan(schedules.spread([run(0)], min_scans=3).max_min.value)  # one site is left


def test_differences_are_paired(read):
    apart = schedules.against(read.runs["HarmonyTM"], read.runs["travelling"], "accuracy")
    assert apart.values == pytest.approx([1 / 45] * 3)
    told = schedules.told_against(read.runs["HarmonyTM"], read.runs["travelling"], "pooled", "scanner")
    assert told.values == pytest.approx([-0.2] * 3)
    assert schedules.told_against(read.runs["FedTM"], read.runs["travelling"], "pooled", "scanner") is None
    other = schedules.told_against(read.runs["travelling"], read.runs["central"], "pooled", "scanner")
    low, high = other.estimate.limits(0.95)  # of 0, 0.01, 0.02: t with 2 degrees of freedom
    assert (low, high) == pytest.approx(
        (0.01 - 4.302653 * 0.01 / 3**0.5, 0.01 + 4.302653 * 0.01 / 3**0.5), rel=1e-4
    )


def test_the_section_names_every_schedule_and_judges_what_was_published(read):
    section = across_sites.section(read)
    claims = section.tables[0]
    said = {row[0].text: row[-1].text for row in claims.rows}
    assert said["HarmonyTM lowers how well pooled tells the scanner"] == "holds"
    assert said["FedTM above averages alone in AUROC (the best: FedAvg, by size)"] == "holds"
    served = section.tables[1]
    assert [row[0].text for row in served.rows] == list(read.runs)
    assert (
        "114 training scans lie at 4 sites, 1 to 80 scans at each (1 with a single scan)" in section.text[0]
    )
    sent = next(t for t in section.tables if t.caption == "Communication of one run")
    assert [c.text for c in sent.rows[0]] == ["FedAvg, by size", "7", "140", "4.0", "0.0"]
    assert len(section.figures) == 2
    assert across_sites.section(Schedules({}, {})) is None
