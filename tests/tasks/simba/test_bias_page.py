import json

import numpy as np
import pandas as pd
import pytest

from equipoise.engine import config, rundir
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.table.table import Schema, write_table
from equipoise.tasks.simba import bias_outcomes as outcomes
from equipoise.tasks.simba import bias_page as summary

STEP, PER_CELL = 50, 40
SCHEMA = Schema("classification", "disease", ("absent", "present"), "present", {"bias": ["without", "with"]})


def subjects():
    """Forty subjects in each cell of disease and bias."""
    cells = [(sick, has) for sick in (1, 0) for has in ("with", "without")]
    sick, has = zip(*(c for c in cells for _ in range(PER_CELL)), strict=True)
    names = [f"subject-{i:04d}" for i in range(len(sick))]
    return pd.DataFrame({"scan_id": names, "subject_id": names, "target": sick, "bias": has})


def decided(frame, cohort, gained, lost):
    """Everyone is called sick who is, but: of the sick, ``gained`` are called so with the bias only, ``lost`` without it only."""
    place = frame.groupby(["target", "bias"]).cumcount()
    sick, has = frame["target"] == 1, frame["bias"] == "with"
    # Each of the two groups of the sick has half of those who change.
    half = (gained // 2, lost // 2)
    called = sick & ~((place < half[0]) & ~has) & ~((place >= half[0]) & (place < sum(half)) & has)
    return frame.assign(
        score=called.astype(float), threshold=0.5, cohort=cohort, split="test", threshold_split="fixed", checkpoint_step=STEP,
        checkpoint_fingerprint="0123456789ab-50", config_fingerprint="0123456789ab",
    )  # fmt: skip


def flipped(frame):
    other = frame["bias"].map({"with": "without", "without": "with"})
    return frame.assign(bias=other)


def make(folder, method, seed, gained, lost=0, told=None):
    """One finished, scored run under ``near``."""
    run = config.Run(seed=seed, num_steps=STEP)
    run.data.cohort, run.task.label = "simba/near_8mm", "disease"
    run = config.replaced(run, **{"method.name": method, "method.group": "" if method == "erm" else "bias"})
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict(run)))
    row = {"step": STEP, "split": "validation", "loss": 0.4, "auroc": 0.9}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    for cohort, frame in (
        ("simba/near_8mm", subjects()),
        ("simba/near_8mm_counterfactual", flipped(subjects())),
    ):
        frame = decided(frame, cohort, gained, lost)
        write_table(
            rundir.RunFolder(folder).evaluation(cohort, "test", STEP),
            frame.sample(frac=1, random_state=seed),
            SCHEMA,
        )
    if told is not None:
        path = rundir.RunFolder(folder).probes("simba/near_8mm", "test", STEP)
        path.parent.mkdir(parents=True)
        lines = [{"block": "pooled", "label": k, "accuracy": {"value": v}} for k, v in told.items()]
        path.write_text(json.dumps({"probes": lines}))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    for seed, gained in enumerate((8, 12, 16)):
        make(
            root / "runs/near-erm" / f"member_{seed:03d}",
            "erm",
            seed,
            gained,
            0,
            {"disease": 0.8, "bias": 0.9 + gained / 1000},
        )
    for seed, gained in enumerate((4, 4, 8)):
        make(root / "runs/near-reweighing" / f"member_{seed:03d}", "reweighing", seed, gained, 4)
    (root / "runs/near-erm/member_003").mkdir()
    (root / "runs/near-erm/member_003/config.json").write_text(
        (root / "runs/near-erm/member_000/config.json").read_text()
    )
    return root


def rows(study):
    return outcomes.gather(study).rows()


def test_changes_and_gaps_equal_hand_counts(study):
    runs = rows(study)["near", "erm", "near", "bias"]
    assert [o.seed for o in runs] == [0, 1, 2]
    for one, gained in zip(runs, (8, 12, 16), strict=True):
        value = {k: e.value for k, e in one.scores.items()}
        assert value["change_tpr"] == pytest.approx(gained / 80)
        assert value["change_fpr"] == 0
        assert value["shift"] == pytest.approx(gained / 160)
        assert value["gap_tpr"] == pytest.approx(
            gained / 2 / 40
        )  # all with the bias are called, those few without are not
        assert value["accuracy"] == pytest.approx(1 - gained / 2 / 160)
    other = rows(study)["near", "reweighing", "near", "bias"]
    assert [o.scores["change_tpr"].value for o in other] == pytest.approx([0, 0, 4 / 80])


@pytest.mark.parametrize(("gained", "lost"), [(8, 0), (16, 4), (30, 30), (0, 0)])
def test_limits_of_a_change_are_close_to_newcombes_and_never_of_no_width(gained, lost):
    frame = subjects()
    factual = decided(frame, "a", gained, lost)
    other = decided(flipped(frame), "b", gained, lost)
    found = outcomes.score(factual, other, "bias", 1)["change_tpr"]
    low, high = found.limits(0.95)
    assert low < found.value < high
    first = np.arange(80) < 40
    second = first.copy()
    second[:lost], second[40 : 40 + gained] = False, True
    peer = intervals.paired_change(first, second)
    assert found.value == pytest.approx(peer.value)
    assert abs(low - peer.low) < 0.05 and abs(high - peer.high) < 0.05


def test_a_change_covers_what_it_says():
    """Newcombe's and ours side by side, 80 subjects whose decision changes with probability 0.12 up and 0.04 down."""
    generator = np.random.default_rng(0)
    frame = subjects()
    sick = np.flatnonzero(frame["target"] == 1)
    inside = 0
    for _ in range(400):
        draw = generator.choice(3, 80, p=[0.84, 0.12, 0.04])
        base = generator.random(80) < 0.6
        with_bias, without = (np.where(draw == 1, x, np.where(draw == 2, not x, base)) for x in (True, False))
        a, b = (decided(f, c, 0, 0).set_index("subject_id") for f, c in ((frame, "a"), (flipped(frame), "b")))
        for table in (a, b):
            has = (table["bias"].iloc[sick] == "with").to_numpy()
            table.iloc[sick, table.columns.get_loc("score")] = np.where(has, with_bias, without).astype(float)
        low, high = outcomes.score(a.reset_index(), b.reset_index(), "bias", 1)["change_tpr"].limits(0.95)
        inside += low <= 0.08 <= high
    assert 0.925 <= inside / 400 <= 0.985


def test_methods_are_paired_by_seed(study):
    found = rows(study)
    apart = outcomes.against(
        found["near", "reweighing", "near", "bias"], found["near", "erm", "near", "bias"], "shift"
    )
    assert apart.values == pytest.approx([-8 / 160, -12 / 160, -12 / 160])
    assert apart.estimate.value == pytest.approx(-32 / 480)
    low, high = apart.estimate.limits(0.95)
    assert low < apart.estimate.value < high < 0


def test_the_page_and_its_table_hold_every_run_and_name_what_is_left_out(study, tmp_path):
    files = summary.write(study, tmp_path)
    assert files[0] == study / "report" / "report.html"
    text = files[0].read_text()
    assert "The method that the bias moves least is reweighing" in text
    assert "member_003" in text and "has not been evaluated" in text
    assert str(study) not in text
    lines = pd.read_csv(study / "report" / "outcomes.csv")
    assert len(lines) == 6 and lines["shift"].notna().all()
    assert lines.loc[lines["method"] == "erm", "probe:pooled:bias"].tolist() == pytest.approx(
        [0.908, 0.912, 0.916]
    )
    assert {p.name for p in (study / "report" / "figures").glob("*.png")} >= {
        "changes.png",
        "gaps.png",
        "methods.png",
        "encoding_and_use.png",
    }


def test_a_run_without_its_counterfactual_has_gaps_and_no_change():
    found = outcomes.score(decided(subjects(), "a", 8, 0), None, "bias", 1)
    assert set(found) == {"accuracy", "gap_tpr", "gap_fpr"}


def test_a_folder_without_runs_says_what_makes_them(tmp_path):
    with pytest.raises(UserError, match="equipoise study"):
        outcomes.gather(tmp_path)
