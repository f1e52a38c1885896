import json

import numpy as np
import pandas as pd
import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.frames import frame, ranking
from equipoise.engine.metrics.table.table import Schema, Table, validate

# One of each kind of interval: compiling every metric of ranks takes longer than all of the tests.
METRICS = ("accuracy", "sensitivity", "specificity", "fpr", "f1", "balanced_accuracy", "brier", "auroc")
SCHEMA = Schema(
    "classification", "disease", ("absent", "present"), "present", {"sex": ["F", "M", "unknown"], "age": None}
)


def table(cells, schema=SCHEMA, attribute="sex", images=1):
    """From {(level, target, called): count}: a 2x2x2 table a person can add up."""
    rows = []
    for (level, target, called), count in cells.items():
        rows += [{attribute: level, "target": target, "score": 0.9 if called else 0.1}] * count
    found = pd.DataFrame(rows).assign(
        scan_id=[f"scan-{i}" for i in range(len(rows))], subject_id=[f"p{i // images}" for i in range(len(rows))], cohort="x",
        split="test", threshold=0.5, threshold_split="validation", checkpoint_step=7, checkpoint_fingerprint="f",
        config_fingerprint="g", age=50.0,
    )  # fmt: skip
    return Table(validate(found, schema, "t"), schema)


CELLS = {
    ("F", 1, 1): 30, ("F", 1, 0): 10, ("F", 0, 1): 5, ("F", 0, 0): 45,
    ("M", 1, 1): 54, ("M", 1, 0): 6, ("M", 0, 1): 12, ("M", 0, 0): 28,
    ("unknown", 1, 1): 2, ("unknown", 1, 0): 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def found():
    return frame.evaluate(table(CELLS), metrics=METRICS, resamples=200)


def test_two_by_two_by_two_by_hand(found):
    women, men = found.groups["sex"]["F"], found.groups["sex"]["M"]
    assert women["sensitivity"].value == 30 / 40 and men["sensitivity"].value == 54 / 60
    assert women["fpr"].value == 5 / 50 and men["fpr"].value == 12 / 40
    assert women["accuracy"].value == 75 / 90 and found.overall["accuracy"].value == (75 + 82 + 2) / 193
    assert (men["sensitivity"].n, men["sensitivity"].events, men["sensitivity"].n_subjects) == (60, 54, 60)
    assert women["sensitivity"].limits(0.95) == pytest.approx(intervals.wilson_limits(0.75, 40))
    gaps = found.disparities["sex"]
    assert found.references == {"sex": "F"}
    assert gaps["difference:sensitivity:M-F"].value == pytest.approx(0.15)
    assert gaps["difference:fpr:M-F"].value == pytest.approx(0.2)
    low, high = intervals.wilson_limits(0.9, 60)
    low_f, high_f = intervals.wilson_limits(0.75, 40)
    assert gaps["difference:sensitivity:M-F"].low == pytest.approx(0.15 - np.hypot(0.9 - low, high_f - 0.75))
    assert gaps["difference:sensitivity:M-F"].high == pytest.approx(0.15 + np.hypot(high - 0.9, 0.75 - low_f))
    assert gaps["worst_group:sensitivity"].value == 0.75 and gaps["worst_group:sensitivity"].levels == ("F",)
    assert gaps["worst_group:fpr"].value == 0.3 and gaps["worst_group:fpr"].levels == ("M",)
    assert gaps["max_min:fpr"].value == pytest.approx(0.2)
    expected = 2.8016 * (0.75 * 0.25 / 40 + 0.9 * 0.1 / 60) ** 0.5
    assert gaps["difference:sensitivity:M-F"].min_detectable == pytest.approx(expected, rel=1e-3)


def test_unknown_is_shown_and_not_compared(found):
    assert found.groups["sex"]["unknown"]["sensitivity"].value == 2 / 3
    assert not any("unknown" in name for name in found.disparities["sex"])
    assert "fewer than" in found.groups["sex"]["unknown"]["sensitivity"].reason


def test_absent_is_null_with_its_n(found):
    document = frame.to_json({"m": found})
    cell = document["groups"]["sex"]["unknown"]["fpr"]
    assert cell["value"] is None and cell["low"] is None and cell["n"] == 0 and "negative" in cell["reason"]
    assert json.loads(json.dumps(document, allow_nan=False)) == json.loads(json.dumps(document))


def test_references_may_be_chosen():
    found = frame.evaluate(table(CELLS), reference={"sex": "M"}, metrics=METRICS, resamples=100)
    assert found.disparities["sex"]["difference:sensitivity:F-M"].value == pytest.approx(-0.15)
    with pytest.raises(UserError, match="no level of 'sex'"):
        frame.evaluate(table(CELLS), reference={"sex": "X"}, resamples=100)


def test_an_undefined_group_is_named_and_the_rest_compared():
    schema = Schema(
        "classification",
        "disease",
        ("absent", "present"),
        "present",
        {"site": ["a", "b", "c", "d"], "age": None},
    )
    cells = {(s, t, c): 20 for s in "ab" for t in (0, 1) for c in (0, 1)} | {("c", 0, 0): 15}
    gaps = frame.evaluate(table(cells, schema, "site"), metrics=METRICS, resamples=100).disparities["site"]
    assert gaps["worst_group:sensitivity"].value == 0.5
    assert gaps["worst_group:sensitivity"].reason == "undefined in c, d"
    assert np.isnan(gaps["difference:sensitivity:c-a"].value) and gaps["difference:sensitivity:c-a"].reason
    assert gaps["difference:specificity:c-a"].p_adjusted >= gaps["difference:specificity:c-a"].p


def test_row_order_changes_no_bit(rng):
    whole = table(CELLS, images=2)
    whole = Table(whole.frame.assign(score=rng.random(len(whole.frame))), SCHEMA)
    mixed = Table(whole.frame.sample(frac=1, random_state=1), SCHEMA)
    assert frame.to_json({"m": frame.evaluate(whole, metrics=METRICS, resamples=200)}) == frame.to_json(
        {"m": frame.evaluate(mixed, metrics=METRICS, resamples=200)}
    )


def test_copies_of_images_within_patients_change_no_interval():
    once = frame.evaluate(table(CELLS), metrics=(*METRICS, "calibration_intercept"), resamples=100)
    rows = table(CELLS).frame
    thrice = pd.concat([rows.assign(scan_id=rows["scan_id"] + f"-{i}") for i in range(3)])
    thrice = frame.evaluate(Table(thrice, SCHEMA), metrics=(*METRICS, "calibration_intercept"), resamples=100)
    for metric in once.overall:
        a, b = once.overall[metric], thrice.overall[metric]
        assert b.limits(0.95) == pytest.approx(a.limits(0.95), rel=1e-9), metric
        assert (b.n, b.n_subjects) == (3 * a.n, a.n_subjects)
    first, second = (f.disparities["sex"]["difference:fpr:M-F"] for f in (once, thrice))
    assert (second.low, second.high) == pytest.approx((first.low, first.high))


def test_tables_that_cannot_be_judged():
    with pytest.raises(UserError, match="no row"):
        frame.evaluate(Table(table(CELLS).frame.iloc[:0], SCHEMA))
    ages = Schema("regression", "age", (), None, {})
    with pytest.raises(UserError, match="metric 'auroc' is of binary tasks; the table's is regression"):
        frame.evaluate(Table(table(CELLS).frame, ages), metrics=("auroc",))


WIDE = Schema(
    "classification", "disease", ("absent", "present"), "present",
    {"sex": ["F", "M", "unknown"], "race": ["Black", "White", "unknown"], "site": ["A", "B"], "age": None},
)  # fmt: skip


def wide_table(rng, n=800, images=2):
    code = np.arange(n) // images
    pick = lambda levels, p=None: np.array(levels)[rng.choice(len(levels), code.max() + 1, p=p)][code]  # noqa: E731
    target = rng.random(n) < 0.4
    found = pd.DataFrame({
        "scan_id": [f"s{i}" for i in range(n)], "subject_id": [f"p{i}" for i in code], "cohort": "x", "split": "test",
        "target": target.astype(int), "score": 1 / (1 + np.exp(-(1.5 * target - 0.7 + rng.normal(size=n)))),
        "threshold": 0.5, "threshold_split": "validation", "checkpoint_step": 7, "checkpoint_fingerprint": "f",
        "config_fingerprint": "g", "age": 50.0, "sex": pick(["F", "M", "unknown"], [0.5, 0.45, 0.05]),
        "race": pick(["Black", "White", "unknown"], [0.3, 0.6, 0.1]), "site": pick(["A", "B"]),
    })  # fmt: skip
    return Table(validate(found, WIDE, "t"), WIDE)


@pytest.fixture(scope="module")
def wide():
    return wide_table(np.random.default_rng(5))


def test_intersections_equal_the_rows_they_hold(wide):
    found = frame.evaluate(wide, groups=("sex", "race*sex", "race*sex*site"), metrics=METRICS, resamples=50)
    assert set(found.groups) == {"sex", "race*sex", "race*sex*site"}
    rows = wide.frame
    inside = rows[(rows["race"] == "Black") & (rows["sex"] == "F")]
    called = inside["score"] >= 0.5
    cell = found.groups["race*sex"]["Black*F"]["accuracy"]
    assert cell.value == pytest.approx((called == (inside["target"] == 1)).mean()) and cell.n == len(inside)
    assert cell.n_subjects == inside["subject_id"].nunique()
    deep = found.groups["race*sex*site"]
    assert sum(cells["accuracy"].n for cells in deep.values()) == len(rows)
    assert found.references["race*sex"] == "Black*F"
    assert "difference:fpr:White*M-Black*F" in found.disparities["race*sex"]
    assert not any("unknown" in name for name in found.disparities["race*sex"])
    assert any("unknown" in level for level in found.groups["race*sex"])


def test_control_compares_within_strata(wide):
    found = frame.evaluate(
        wide, groups=("race",), control=("site",), reference={"race": "White"}, metrics=METRICS, resamples=50
    )
    rows = wide.frame[wide.frame["site"] == "B"]
    alone = frame.evaluate(
        Table(rows, WIDE), groups=("race",), reference={"race": "White"}, metrics=METRICS, resamples=50
    )
    assert set(found.groups) == {"site", "race|site"} and found.references == {"race|site": "White"}
    gaps, within = found.disparities["race|site"], alone.disparities["race"]
    for metric in ("sensitivity", "auroc"):
        ours, twin = gaps[f"difference:{metric}:Black|B-White|B"], within[f"difference:{metric}:Black-White"]
        assert (ours.value, ours.low, ours.high, ours.p) == pytest.approx(
            (twin.value, twin.low, twin.high, twin.p)
        )
        assert gaps[f"max_min:{metric}:B"].value == within[f"max_min:{metric}"].value
        to_all = gaps[f"to_overall:{metric}:Black|B"].value
        assert to_all == pytest.approx(
            found.groups["race|site"]["Black|B"][metric].value - found.groups["site"]["B"][metric].value
        )
    assert not any("Black|A-White|B" in name for name in gaps)


def test_values_equal_the_registry(wide):
    found = frame.evaluate(wide, groups=("race",), resamples=20)
    rows = (wide.frame["race"] == "Black").to_numpy()
    columns = wide.columns()
    for name in registry.names(wide.schema.kind):
        assert found.overall[name].value == pytest.approx(
            registry.compute(name, columns), abs=1e-9, nan_ok=True
        ), name
        inside = registry.compute(name, {k: v[rows] for k, v in columns.items()})
        if name in ("ece", "squared_calibration_error_debiased"):  # bins are those of all rows
            inside = registry.compute(name, columns, rows.astype(float))
        assert found.groups["race"]["Black"][name].value == pytest.approx(inside, abs=1e-9, nan_ok=True), name


def test_bca_is_asked_for(wide):
    settings = {"metrics": ("f1", "brier"), "groups": ("sex",), "resamples": 400}
    plain, corrected = frame.evaluate(wide, **settings), frame.evaluate(wide, bca=True, **settings)
    for name in ("f1", "brier"):
        a, b = plain.overall[name], corrected.overall[name]
        assert a.method == "percentile bootstrap by patient" and b.method == "BCa bootstrap by patient"
        assert a.limits(0.95) != b.limits(0.95) and a.limits(0.95) == pytest.approx(b.limits(0.95), abs=0.02)
    assert corrected.settings["bootstrap"] == "BCa"
    first, second = (f.disparities["sex"]["difference:brier:M-F"] for f in (plain, corrected))
    assert (first.low, first.high) != (second.low, second.high)
    assert (first.low, first.high) == pytest.approx((second.low, second.high), abs=0.01)


def test_subjects_decide_the_width(wide):
    apart = Table(wide.frame.assign(subject_id=wide.frame["scan_id"]), WIDE)
    a, b = (frame.evaluate(t, groups=(), metrics=METRICS, resamples=200).overall for t in (wide, apart))
    assert (a["accuracy"].n_subjects, b["accuracy"].n_subjects) == (400, 800)
    assert a["accuracy"].value == b["accuracy"].value


def test_what_cannot_be_grouped(wide):
    for groups, control, words in (
        (("rase",), (), "Did you mean 'race'"),
        (("age",), (), "is a number"),
        (("race*sx",), (), "Did you mean 'sex'"),
        (("race", "race*site"), ("site",), "'site' is both"),
    ):
        with pytest.raises(UserError, match=words):
            frame.evaluate(wide, groups=groups, control=control, resamples=10)
    with pytest.raises(UserError, match="Did you mean 'brier'"):
        frame.evaluate(wide, metrics=("briar",), resamples=10)


def test_groups_that_share_patients_are_compared_as_such(rng):
    """Two views of every patient, the same images: the gap is 0 and far surer than of different patients."""
    schema = Schema(
        "classification", "disease", ("absent", "present"), "present", {"view": ["AP", "PA"], "age": None}
    )
    one = wide_table(rng, 300, 1).frame.drop(columns=["sex", "race", "site"])
    both = pd.concat([one.assign(view=v, scan_id=one["scan_id"] + v) for v in ("AP", "PA")])
    gaps = frame.evaluate(
        Table(validate(both, schema, "t"), schema), metrics=METRICS, resamples=100
    ).disparities["view"]
    apart = both.assign(subject_id=both["scan_id"])
    wider = frame.evaluate(
        Table(validate(apart, schema, "t"), schema), metrics=METRICS, resamples=100
    ).disparities["view"]
    for metric in ("auroc", "sensitivity", "brier"):
        name = f"difference:{metric}:PA-AP"
        assert gaps[name].value == 0 and gaps[name].high - gaps[name].low < 0.2 * (
            wider[name].high - wider[name].low
        )


# ---- tables of several classes, of numbers and of values ----


def several(rng, n=240, exclusive=True):
    classes = ("cat", "dog", "emu")
    names = tuple(f"score:{c}" for c in classes)
    schema = Schema(
        "classification" if exclusive else "multilabel", "animal", classes, None, {"site": ["A", "B"]}, names
    )  # fmt: skip
    truth = rng.integers(0, 3, n)
    hit = np.eye(3)[truth] if exclusive else (rng.random((n, 3)) < 0.4).astype(float)
    scores = rng.random((n, 3)) + 0.6 * hit
    scores /= scores.sum(axis=1, keepdims=True)
    targets = {"target": truth} if exclusive else {f"target:{c}": hit[:, k] for k, c in enumerate(classes)}
    found = pd.DataFrame({
        "scan_id": [f"s{i}" for i in range(n)], "subject_id": [f"p{i // 2}" for i in range(n)], "cohort": "x", "split": "test",
        "threshold": 0.4, "threshold_split": "validation", "checkpoint_step": 7, "checkpoint_fingerprint": "f",
        "config_fingerprint": "g", "site": np.where(np.arange(n) < n // 3, "A", "B"), **targets,
        **{name: scores[:, k] for k, name in enumerate(names)},
    })  # fmt: skip
    return Table(validate(found, schema, "t"), schema)


@pytest.mark.parametrize("exclusive", [True, False])
def test_several_classes_equal_the_registry(rng, exclusive):
    whole = several(rng, exclusive=exclusive)
    columns, classes = whole.columns(), whole.schema.classes
    metrics = (
        "auroc:macro",
        "auroc:dog",
        "auprc:macro",
        "sensitivity:emu",
        "f1:macro",
        "accuracy",
        "balanced_accuracy:cat",
    )
    metrics = metrics if exclusive else (*metrics[:-2], "auroc:micro", "auprc:micro", "subset_accuracy")
    found = frame.evaluate(whole, metrics=metrics, resamples=100)
    rows = (whole.frame["site"] == "B").to_numpy()
    for name in metrics:
        assert found.overall[name].value == pytest.approx(registry.compute(name, columns, classes=classes)), (
            name
        )
        inside = registry.compute(name, {k: v[rows] for k, v in columns.items()}, classes=classes)
        cell = found.groups["site"]["B"][name]
        assert cell.value == pytest.approx(inside), name
        low, high = cell.limits(0.95)
        assert low < cell.value < high and high - low < 0.5
    assert found.groups["site"]["B"]["auroc:dog"].method.startswith("Obuchowski")
    assert "equity_scaled_sum:auroc:macro" in found.disparities["site"]
    assert set(found.settings["averaged_classes"]) == {"cat", "dog", "emu"}
    assert (
        ranking.select_value(whole.frame, "auroc:macro", whole.schema)[0]
        == found.overall["auroc:macro"].value
    )
    worst = min(found.groups["site"][level]["auroc:macro"].value for level in "AB")
    assert ranking.select_value(whole.frame, "worst_group:auroc:macro:site", whole.schema) == (
        pytest.approx(worst),
        True,
    )
    assert ranking.higher_is_better("auroc:dog")


def test_averages_are_over_classes_that_every_group_has(rng):
    whole = several(rng)
    rows = whole.frame
    whole = Table(rows[(rows["site"] == "A") | (rows["target"] != 2)], whole.schema)  # no emu at B
    found = frame.evaluate(whole, metrics=("auroc:macro", "f1:macro"), resamples=50)
    assert found.settings["averaged_classes"] == ["cat", "dog"]
    inside = {k: v[(whole.frame["site"] == "A").to_numpy()] for k, v in whole.columns().items()}
    for name in ("auroc:macro", "f1:macro"):
        metric = name.partition(":")[0]
        each = [
            registry.compute(f"{metric}:{c}", inside, classes=whole.schema.classes) for c in ("cat", "dog")
        ]
        assert found.groups["site"]["A"][name].value == pytest.approx(np.mean(each))


# ---- faults that other packages have had ----


def test_the_number_of_replicates_moves_no_p_value(wide):
    """A test across replicates would find anything significant with replicates enough."""
    few, many = (
        frame.evaluate(wide, metrics=("f1", "accuracy"), groups=("race",), resamples=b) for b in (1000, 8000)
    )
    for name in (
        "difference:f1:White-Black",
        "difference:accuracy:White-Black",
        "max_min:f1",
        "max_min:accuracy",
    ):
        a, b = few.disparities["race"][name], many.disparities["race"][name]
        assert a.p == pytest.approx(b.p, abs=0.06), name
        assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=0.02), name


def test_batches_change_no_bit(wide):
    """Rows that arrive in batches, in any order, are one table: no mean of means of batches."""
    rows = wide.frame
    parts = [rows.iloc[start : start + 37] for start in range(0, len(rows), 37)]
    again = Table(pd.concat(parts[::-1], ignore_index=True), WIDE)
    settings = {"metrics": ("auroc", "auprc", "brier"), "groups": ("sex",), "resamples": 50}
    assert frame.to_json({"m": frame.evaluate(wide, **settings)}) == frame.to_json(
        {"m": frame.evaluate(again, **settings)}
    )


def test_a_group_that_resamples_miss_is_counted_and_spares_the_others(rng):
    """fairlearn's MetricFrame raised where a resample left a group out."""
    schema = Schema("classification", "d", ("n", "y"), "y", {"site": ["A", "B"], "age": None})
    rows = table(
        {("A", t, c): 30 for t in (0, 1) for c in (0, 1)} | {("B", 1, 1): 1, ("B", 0, 0): 1}, schema, "site"
    )
    found = frame.evaluate(rows, metrics=("f1", "sensitivity"), resamples=400)
    rare, other = found.groups["site"]["B"]["f1"], found.groups["site"]["A"]["f1"]
    assert (
        200 < rare.b_valid < 300
        and "resamples are undefined" in rare.reason
        and np.isnan(rare.limits(0.95)).all()
    )
    assert other.b_valid == 400 and np.isfinite(other.limits(0.95)).all()
    assert np.isfinite(
        found.groups["site"]["B"]["sensitivity"].limits(0.95)
    ).all()  # a score interval needs no resample


def test_without_a_positive_there_is_no_sensitivity_to_poison_the_worst_group():
    schema = Schema("classification", "d", ("n", "y"), "y", {"site": ["A", "B", "C"], "age": None})
    cells = {(s, t, c): 20 for s in "AB" for t in (0, 1) for c in (0, 1)} | {("C", 0, 0): 20}
    gaps = frame.evaluate(table(cells, schema, "site"), metrics=("sensitivity", "fpr"), resamples=50)
    assert np.isnan(gaps.groups["site"]["C"]["sensitivity"].value)
    assert gaps.disparities["site"]["worst_group:sensitivity"].value == 0.5
    assert gaps.disparities["site"]["worst_group:sensitivity"].levels != ("C",)


def test_rates_that_sum_to_one_do(wide):
    found = frame.evaluate(wide, metrics=("sensitivity", "fnr", "specificity", "fpr"), resamples=20)
    for cells in (found.overall, *found.groups["race"].values()):
        assert cells["sensitivity"].value + cells["fnr"].value == pytest.approx(1)
        assert cells["specificity"].value + cells["fpr"].value == pytest.approx(1)


def test_a_score_that_chance_inflates_has_values_by_group_and_neither_interval_nor_gap(wide):
    judged = frame.evaluate(wide, metrics=["ece", "brier"], groups=["sex"], resamples=100)
    for level, cells in judged.groups["sex"].items():
        inside = (wide.frame["sex"] == level).to_numpy().astype(float)
        assert cells["ece"].value == pytest.approx(registry.compute("ece", wide.columns(), inside))
        assert np.isnan(cells["ece"].limits(0.95)).all()
        assert "chance" in cells["ece"].reason
    assert not any("ece" in name for name in judged.disparities["sex"])
    assert any("brier" in name for name in judged.disparities["sex"])
