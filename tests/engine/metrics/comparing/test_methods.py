import numpy as np
import pytest
from sklearn.metrics import f1_score

from equipoise.engine.metrics.comparing import methods as runs
from equipoise.engine.metrics.estimates import multiplicity
from equipoise.engine.metrics.frames import frame
from equipoise.engine.metrics.resampling import bootstrap as resample
from equipoise.engine.metrics.table.table import Schema, Table, validate
from tests.engine.report import fake_runs

CLASSES = ("a", "b", "c")
SCHEMA = Schema("classification", "finding", CLASSES, None, {"sex": ["F", "M"]}, ("s:a", "s:b", "s:c"))


def multiclass(seed, n=120, skill=1.0):
    """Scores of a run of three classes; the images and patients are the same for every seed."""
    world, own = np.random.default_rng(0), np.random.default_rng(seed)
    target, who = world.integers(0, 3, n), world.integers(0, n // 2, n)
    scores = own.normal(0, 1, (n, 3)) + skill * np.eye(3)[target]
    scores = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    rows = fake_runs.images(n).head(n)[["scan_id"]].assign(
        subject_id=[f"p{i}" for i in who], sex=world.choice(["F", "M"], n), target=target, cohort="c", split="test", threshold=np.nan,
        threshold_split="fixed", checkpoint_step=1, checkpoint_fingerprint="x", config_fingerprint="x",
    )  # fmt: skip
    for place, name in enumerate(SCHEMA.scores):
        rows[name] = scores[:, place]
    return Table(validate(rows, SCHEMA, "t"), SCHEMA)


def scored(table, metrics=("accuracy", "f1:macro"), **more):
    return frame.evaluate(table, metrics=metrics, resamples=200, seed=4, compare=False, **more)


def test_replicates_of_every_run_see_the_same_draws():
    for seed in (1, 2):
        table = multiclass(seed)
        replicates = scored(table).overall["f1:macro"].replicates
        rows = frame.Rows(table)
        counts = resample.draw(rows.num_subjects, 0, 200, 4)
        truth, called = (rows.columns(None)[k] for k in ("truth", "called"))
        expected = [
            f1_score(truth, called, average="macro", sample_weight=counts[rows.code, b]) for b in range(5)
        ]
        assert replicates[:5] == pytest.approx(expected)


def test_estimates_alone_are_those_of_a_whole_frame():
    table = multiclass(1)
    whole = frame.evaluate(table, metrics=("accuracy", "f1:macro"), resamples=200)
    alone = scored(table)
    assert not alone.disparities and alone.references == whole.references
    for level in ("F", "M"):
        one, other = (f.groups["sex"][level]["accuracy"] for f in (alone, whole))
        assert one.value == other.value and one.limits(0.95) == other.limits(0.95)
    assert alone.overall["f1:macro"].limits(0.95) == pytest.approx(
        whole.overall["f1:macro"].limits(0.95), abs=0.03
    )


def test_methods_of_bootstrapped_scores_are_compared():
    better = runs.method({f"seed {s}": scored(multiclass(s, skill=2.5)) for s in range(4)})
    worse = runs.method({f"seed {s}": scored(multiclass(s + 9, skill=0.5)) for s in range(1, 5)})
    mean = better.overall["f1:macro"]
    low, high = mean.estimate.limits(0.95)
    assert 0 <= low < np.mean(mean.values) < high <= 1 and mean.variance_both > 0
    contrasts = runs.contrasts({"better": better, "worse": worse})
    one = next(c for c in contrasts if c.score == "f1:macro" and not c.attribute)
    assert one.low > 0 and one.p < 0.01 and one.num_runs == 3
    assert one.unpaired == ("seed 0 (better)", "seed 4 (worse)")
    gap = next(c for c in contrasts if c.score == "difference:accuracy")
    mine, theirs = ([m.runs[f"seed {s}"].groups["sex"] for s in (1, 2, 3)] for m in (better, worse))
    apart = [
        np.mean([g["M"]["accuracy"].value - g["F"]["accuracy"].value for g in side])
        for side in (mine, theirs)
    ]
    assert gap.level == "M - F" and gap.value == pytest.approx(apart[0] - apart[1])


def test_holm_is_over_the_pairs_of_one_score_and_place():
    methods = {
        name: runs.method({f"seed {s}": scored(multiclass(10 * k + s, skill=1 + k / 2), ("accuracy",)) for s in range(3)})
        for k, name in enumerate("abc")
    }  # fmt: skip
    seen = []
    contrasts = runs.contrasts(methods, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for score, attribute, level in {(c.score, c.attribute, c.level) for c in contrasts}:
        family = [c for c in contrasts if (c.score, c.attribute, c.level) == (score, attribute, level)]
        assert len(family) == 3
        assert [c.p_adjusted for c in family] == pytest.approx(
            multiplicity.holm([c.p for c in family]), nan_ok=True
        )


def test_the_worst_group_of_two_methods_by_hand():
    a, b = (
        runs.method({f"seed {s}": scored(multiclass(s + k), ("accuracy",)) for s in range(3)})
        for k in (0, 50)
    )
    one = next(c for c in runs.contrasts({"a": a, "b": b}) if c.score == "worst_group:accuracy")
    worst = [min(m.groups["sex"][k]["accuracy"].estimate.value for k in ("F", "M")) for m in (a, b)]
    assert one.value == pytest.approx(worst[0] - worst[1]) and one.low <= one.value <= one.high
    levels = [c for c in runs.contrasts({"a": a, "b": b}) if c.score == "accuracy" and c.attribute]
    assert one.low < min(c.low for c in levels) and one.high > max(c.high for c in levels)  # Bonferroni
