import math

import numpy as np
import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.decisions import policy
from equipoise.engine.metrics.frames import frame
from equipoise.engine.metrics.table.table import Schema, Table, validate
from tests.engine.report import fake_run


@pytest.fixture(scope="module")
def frames():
    """Two models; by hand: sensitivity of 'score' is 8/10 in a, 5/10 in b, and group c has no positive."""
    group, truth = np.repeat(["a", "b", "c"], [20, 20, 6]), np.array([1, 0] * 20 + [0] * 6)
    called = np.zeros(46)
    called[[0, 2, 4, 6, 8, 10, 12, 14]] = 1
    called[[20, 22, 24, 26, 28]] = 1
    values = fake_run.predictions(46, 0).reset_index(drop=True)
    values = values.assign(
        target=truth, score=called, other=1 - called, group=group, sex=np.resize(["F", "M"], 46)
    )
    attributes = {"group": ["a", "b", "c"], "sex": ["F", "M"]}
    models = {"old": ("score",), "new": ("other",)}
    schema = Schema("classification", "y", ("no", "yes"), "yes", attributes, ("score", "other"), models)
    metrics = ("sensitivity", "fpr", "accuracy", "selection_rate", "auroc", "ece")
    table = Table(validate(values, schema, "t"), schema)
    return frame.evaluate_models(table, metrics=metrics, groups=("group", "sex", "group*sex"), resamples=100)


def judge(tmp_path, frames, text):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return policy.judge(policy.read(path), frames)


def rule(body):
    return "rules:\n" + "".join(
        f"  {'- ' if not i else '  '}{line}\n" for i, line in enumerate(body.split("; "))
    )


def test_a_minimum_is_held_against_the_lower_limit_unless_said_otherwise(tmp_path, frames):
    body = "metric: sensitivity; groups: {group: a}; model: old; min: 0.6"
    (strict,) = judge(tmp_path, frames, rule(body))
    assert (strict.on, strict.value, strict.n, strict.is_met) == ("lower", 0.8, 10, False)
    low, high = frames["old"].groups["group"]["a"]["sensitivity"].limits(0.95)
    assert (strict.low, strict.high) == (low, high) and strict.judged == low
    (plain,) = judge(tmp_path, frames, rule(f"{body}; on: estimate"))
    assert plain.is_met and plain.judged == 0.8
    (exact,) = judge(tmp_path, frames, rule(body.replace("0.6", "0.8") + "; on: estimate"))
    assert exact.is_met
    (upper,) = judge(tmp_path, frames, rule(body.replace("min: 0.6", "max: 0.9")))
    assert upper.on == "upper" and upper.judged == high and not upper.is_met


def test_what_is_undefined_or_has_no_interval_is_a_violation(tmp_path, frames):
    (empty,) = judge(tmp_path, frames, rule("metric: sensitivity; groups: {group: c}; model: old; min: 0"))
    assert not empty.is_met and math.isnan(empty.judged) and "undefined" in str(empty)
    verdicts = judge(tmp_path, frames, rule("metric: ece; groups: overall; max: 1"))
    assert not any(v.is_met for v in verdicts) and "no interval" in verdicts[0].reason
    (worst,) = judge(
        tmp_path, frames, rule("score: equal_opportunity_difference; groups: group; model: old; max: 1")
    )
    assert not worst.is_met and "undefined in c" in worst.reason


def test_without_groups_and_model_a_rule_is_about_all(tmp_path, frames):
    verdicts = judge(tmp_path, frames, rule("metric: accuracy; min: 0"))
    assert len(verdicts) == 2 * (1 + 3 + 2 + 6) and all(v.is_met for v in verdicts)
    assert {v.attribute for v in verdicts} == {"overall", "group", "sex", "group*sex"}
    assert {v.model for v in verdicts} == {"old", "new"}
    pairs = judge(tmp_path, frames, rule("score: difference:accuracy; model: old; min: -1; max: 1"))
    assert len(pairs) == 2 * (2 + 1 + 5)  # two bounds, every group but the reference


def test_a_gap_is_held_against_the_interval_of_the_gap(tmp_path, frames):
    verdicts = judge(
        tmp_path, frames, rule("score: difference:sensitivity; groups: {group: [b]}; model: old; min: -0.4")
    )
    gap = frames["old"].disparities["group"]["difference:sensitivity:b-a"]
    assert verdicts[0].judged == gap.low < -0.4 < verdicts[0].value == pytest.approx(-0.3)
    assert verdicts[0].levels == ("b", "a") and verdicts[0].place == "group: b - a" and not verdicts[0].is_met
    spread = judge(tmp_path, frames, rule("score: max_min:accuracy; groups: sex; model: old; max: 1"))
    assert spread[0].is_met and spread[0].levels == ()


def test_one_line_says_what_is_violated(tmp_path, frames):
    (one,) = judge(
        tmp_path, frames, rule("metric: sensitivity; groups: {group: b}; model: old; min: 0.9; on: estimate")
    )
    assert str(one) == "policy.yaml:2: old: sensitivity >= 0.9 (estimate) is violated in group: b: 0.5, n=10"
    assert policy.to_json([one])["is_met"] is False and policy.to_json([one])["verdicts"][0]["judged"] == 0.5


NOWHERE = {
    "metric: f1; min: 0": "no metric 'f1' in this report. There are: sensitivity, fpr,",
    "metric: fpr; min: 0; groups: grup": "no group 'grup' in this report. Did you mean 'group'?",
    "metric: fpr; min: 0; groups: {group: aa}": "no level of group 'aa' in this report. Did you mean 'a'?",
    "metric: fpr; min: 0; model: old2": "no model 'old2' in this report. Did you mean 'old'?",
    "score: difference:f1; min: 0; groups: group": "no metric 'f1' in this report",
    "score: difference:fpr; min: 0; groups: {group: a}": "no difference:fpr of group: 'a' in this report",
    "score: max_min:f1; max: 0; groups: group": "no score of group 'max_min:f1' in this report",
    "score: max_min:fpr; max: 0; groups: {group: a}": "about all levels of group together",
    "score: max_min:fpr; max: 0; groups: overall": "compares groups: name an attribute",
    "score: conditional_demographic_parity_difference; max: 0": "no score 'conditional_demographic_parity_difference'",
}  # fmt: skip


@pytest.mark.parametrize("body", NOWHERE)
def test_a_rule_about_no_cell_is_an_error_with_the_nearest_name(tmp_path, frames, body):
    with pytest.raises(UserError) as told:
        judge(tmp_path, frames, rule(body))
    assert str(told.value).startswith("policy.yaml:2: ") and NOWHERE[body] in str(told.value)
