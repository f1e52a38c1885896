import json

import numpy as np
import pandas as pd
import pytest

from engine.config import UserError
from engine.metrics import classification, frame, intervals
from engine.metrics.table import Schema, Table, validate

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
    return frame.evaluate(table(CELLS), resamples=200)


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
    found = frame.evaluate(table(CELLS), references={"sex": "M"}, resamples=100)
    assert found.disparities["sex"]["difference:sensitivity:F-M"].value == pytest.approx(-0.15)
    with pytest.raises(UserError, match="no level of 'sex'"):
        frame.evaluate(table(CELLS), references={"sex": "X"}, resamples=100)


def test_an_undefined_group_is_named_and_the_rest_compared():
    schema = Schema(
        "classification",
        "disease",
        ("absent", "present"),
        "present",
        {"site": ["a", "b", "c", "d"], "age": None},
    )
    cells = {(s, t, c): 20 for s in "ab" for t in (0, 1) for c in (0, 1)} | {("c", 0, 0): 15}
    gaps = frame.evaluate(table(cells, schema, "site"), resamples=100).disparities["site"]
    assert gaps["worst_group:sensitivity"].value == 0.5
    assert gaps["worst_group:sensitivity"].reason == "undefined in c, d"
    assert np.isnan(gaps["difference:sensitivity:c-a"].value) and gaps["difference:sensitivity:c-a"].reason
    assert gaps["difference:specificity:c-a"].p_adjusted >= gaps["difference:specificity:c-a"].p


def test_row_order_changes_no_bit(rng):
    whole = table(CELLS, images=2)
    whole = Table(whole.frame.assign(score=rng.random(len(whole.frame))), SCHEMA)
    mixed = Table(whole.frame.sample(frac=1, random_state=1), SCHEMA)
    assert frame.to_json({"m": frame.evaluate(whole, resamples=200)}) == frame.to_json(
        {"m": frame.evaluate(mixed, resamples=200)}
    )


def test_copies_of_images_within_patients_change_no_interval():
    once = frame.evaluate(table(CELLS), resamples=100)
    rows = table(CELLS).frame
    thrice = pd.concat([rows.assign(scan_id=rows["scan_id"] + f"-{i}") for i in range(3)])
    thrice = frame.evaluate(Table(thrice, SCHEMA), resamples=100)
    for metric in classification.METRICS:
        a, b = once.overall[metric], thrice.overall[metric]
        assert b.limits(0.95) == pytest.approx(a.limits(0.95), rel=1e-9), metric
        assert (b.n, b.n_subjects) == (3 * a.n, a.n_subjects)
    first, second = (f.disparities["sex"]["difference:fpr:M-F"] for f in (once, thrice))
    assert (second.low, second.high) == pytest.approx((first.low, first.high))


def test_range_null_reads_zero_for_equal_groups():
    equal = {(s, t, c): 40 for s in "FM" for t in (0, 1) for c in (0, 1)}
    gap = frame.evaluate(table(equal), resamples=1000).disparities["sex"]["max_min:sensitivity"]
    assert gap.value == 0 and gap.low == 0 and gap.p == pytest.approx(1, abs=0.05)
    band = float(gap.null.split("up to ")[1].split()[0])
    assert band == pytest.approx(
        1.96 * (2 * 0.25 / 80) ** 0.5, abs=0.02
    )  # normal approximation of |difference|


def test_select_value():
    whole = table(CELLS)
    assert frame.select_value(whole.frame, "accuracy", SCHEMA) == ((75 + 82 + 2) / 193, True)
    assert frame.select_value(whole.frame, "worst_group:sensitivity:sex", SCHEMA) == (0.75, True)
    assert frame.select_value(whole.frame, "worst_group:fpr:sex", SCHEMA) == (0.3, False)
    only_unknown = whole.frame[whole.frame["sex"] == "unknown"]
    assert np.isnan(frame.select_value(only_unknown, "worst_group:sensitivity:sex", SCHEMA)[0])
    assert frame.higher_is_better("loss") is False
    for name, words in (
        ("worst_group:sensitivity", "write worst_group:METRIC:ATTRIBUTE"),
        ("worst_group:sensitivity:sx", "Did you mean 'sex'"),
        ("worst_group:sensitivity:age", "is a number"),
        ("sensitivty", "Did you mean 'sensitivity'"),
    ):
        with pytest.raises(UserError, match=words):
            frame.select_value(whole.frame, name, SCHEMA)


def test_tables_that_cannot_be_judged():
    with pytest.raises(UserError, match="no row"):
        frame.evaluate(Table(table(CELLS).frame.iloc[:0], SCHEMA))
    many = Schema("classification", "grade", ("a", "b", "c"), None, {}, ("score_0", "score_1", "score_2"))
    with pytest.raises(UserError, match="3 classes"):
        frame.evaluate(Table(table(CELLS).frame, many))
