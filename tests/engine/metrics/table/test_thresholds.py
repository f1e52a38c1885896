import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.table import thresholds
from equipoise.engine.metrics.table.table import Schema, Table
from equipoise.engine.metrics.table.thresholds import Threshold, choose

TRUTH = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
SCORE = np.array([0.9, 0.8, 0.5, 0.4, 0.6, 0.7, 0.1, 0.2])


def test_every_rule_by_hand():
    assert choose("fixed:0.25", TRUTH, SCORE, "val") == Threshold(0.25, "fixed:0.25", "fixed")
    # J: 0.8 -> 2/4; 0.5 -> 3/4 - 2/4 = 1/4; 0.4 -> 4/4 - 2/4 = 2/4. Of equals the lowest.
    assert choose("youden", TRUTH, SCORE, "val") == Threshold(0.4, "youden", "val")
    assert choose("max_accuracy", TRUTH, SCORE, "val").value == 0.4
    # Sensitivity .5 with no false positive at 0.8; specificity .9 likewise; sensitivity .9 needs 0.4.
    assert choose("sens0.5", TRUTH, SCORE, "val").value == 0.8
    assert choose("spec0.9", TRUTH, SCORE, "val").value == 0.8
    assert choose("sens0.9", TRUTH, SCORE, "val").value == 0.4
    assert choose("spec.5", TRUTH, SCORE, "val").value == 0.4


def test_calling_nobody_positive_is_a_choice():
    truth, score = np.array([0, 0, 0, 1], bool), np.array([0.9, 0.8, 0.7, 0.1])
    for rule in ("max_accuracy", "spec0.9"):
        assert choose(rule, truth, score, "val").value > 0.9


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30).filter(
        lambda rows: len({truth for truth, _ in rows}) == 2
    ),
    st.sampled_from(["youden", "max_accuracy", "sens0.8", "spec0.8"]),
)
def test_a_choice_is_the_lowest_of_the_best_thresholds(rows, rule):
    truth, score = np.array([t for t, _ in rows]), np.array([s for _, s in rows]) / 6
    gains = {}
    for cut in [*sorted(set(score)), np.nextafter(score.max(), np.inf)]:
        columns = {"truth": truth, "score": score, "called": score >= cut}
        tpr, tnr, right = (
            registry.compute(name, columns) for name in ("sensitivity", "specificity", "accuracy")
        )
        gains[cut] = {
            "youden": tpr + tnr - 1,
            "max_accuracy": right,
            "sens0.8": tnr if tpr >= 0.8 - 1e-12 else -1,
            "spec0.8": tpr if tnr >= 0.8 - 1e-12 else -1,
        }[rule]
    best = max(gains.values())
    assert choose(rule, truth, score, "val").value == min(c for c, v in gains.items() if v > best - 1e-12)


def test_equally_good_thresholds_are_exactly_equal():
    # At 0.9 two of ten positives and no negative, at 0.5 three and one: .3 - .1 is less than .2 in float64.
    assert 3 / 10 - 1 / 10 < 2 / 10
    truth = np.arange(20) < 10
    score = np.full(20, 0.1)
    score[:2], score[2], score[10] = 0.9, 0.5, 0.5
    assert choose("youden", truth, score, "val").value == 0.5


def test_a_threshold_refuses_the_rows_that_it_was_chosen_on():
    threshold = choose("youden", TRUTH, SCORE, "val")
    assert threshold.call(SCORE, "test").sum() == 6
    with pytest.raises(UserError, match=r"chosen on 'val' by youden would be judged on the same images"):
        threshold.call(SCORE, "val")
    assert Threshold(0.5, "fixed:0.5").call(SCORE, "val").sum() == 5
    assert choose("fixed:0.5", TRUTH, SCORE, "val").call(SCORE, "val").sum() == 5
    with pytest.raises(AttributeError):
        threshold.split = "train"


def test_a_score_at_the_threshold_is_positive_in_float64():
    threshold = Threshold(0.7, "fixed:0.7")
    assert threshold.call(np.full(101, 0.7), "test").all()
    # float32(0.7) is below 0.7: what is stored is compared, and not the threshold rounded to it.
    assert not threshold.call(np.full(101, 0.7, np.float32), "test").any()


@pytest.mark.parametrize(
    ("rule", "truth", "words"),
    [
        ("youden", np.ones(8, bool), "both classes"),
        ("youden", np.zeros(8, bool), "both classes"),
        ("yuden", TRUTH, "Did you mean 'youden'"),
        ("sens90", TRUTH, "between 0 and 1"),
        ("sens0", TRUTH, "between 0 and 1"),
        ("fixed:half", TRUTH, "fixed:NUMBER"),
        ("fixed", TRUTH, "fixed:NUMBER"),
    ],
)
def test_choices_that_cannot_be_made(rule, truth, words):
    with pytest.raises(UserError, match=words):
        choose(rule, truth, SCORE, "val")


def _table(kind="binary"):
    frame = pd.DataFrame({
        "cohort": "c", "threshold": 0.5, "split": ["val"] * 4 + ["test"] * 2, "target": [0, 1, 1, 1, 1, 1],
        "a": [0.1, 0.3, 0.4, 0.8, 0.35, 0.2], "b": [0.9, 0.1, 0.2, 0.3, 0.15, 0.05],
    })  # fmt: skip
    models = {"one": ("a",), "two": ("b",)}
    if kind == "binary":
        return Table(frame, Schema("classification", "y", ("no", "yes"), "yes", {}, ("a", "b"), models))
    frame = frame.assign(**{"target:p": frame["target"], "target:q": [1, 0, 0, 1, 0, 0]})
    return Table(frame, Schema("multilabel", "y", ("p", "q"), None, {}, ("a", "b")))


def test_every_model_is_judged_at_a_threshold_of_its_own():
    judged = thresholds.reported(_table(), "test", "youden:val")
    assert judged.frame["threshold:a"].tolist() == [0.3, 0.3] and judged.frame["threshold"].tolist() == [
        0.3,
        0.3,
    ]
    assert judged.columns("one")["called"].tolist() == [True, False]
    assert (judged.frame["threshold:b"] == 0.1).all() and set(judged.frame["threshold_split"]) == {"val"}
    assert judged.columns("two")["called"].tolist() == [True, False]
    assert "Every case of this table is y yes" in judged.notes[0]


def test_every_label_is_judged_at_a_threshold_of_its_own():
    judged = thresholds.reported(_table("multilabel"), "test", "sens0.9:val")
    assert (judged.frame["threshold:a"] == 0.3).all() and (judged.frame["threshold:b"] == 0.3).all()
    assert judged.columns()["called"].tolist() == [[True, False], [False, False]]


def test_a_number_is_for_every_model():
    judged = thresholds.reported(_table(), "val", "0.3")
    assert (judged.frame["threshold"] == 0.3).all() and set(judged.frame["threshold_split"]) == {"fixed"}
    assert judged.columns("one")["called"].tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("split", "rule", "words"),
    [
        ("test", "youden:test", "judged on the same"),
        ("tset", "0.5", "Did you mean 'test'"),
        ("test", "youden:vla", "Did you mean 'val'"),
        ("test", "high", "RULE:SPLIT"),
        ("test", "yuoden:val", "Did you mean 'youden'"),
        ("val", "youden:test", "both classes"),
    ],
)
def test_reports_that_cannot_be_made(split, rule, words):
    with pytest.raises(UserError, match=words):
        thresholds.reported(_table(), split, rule)
