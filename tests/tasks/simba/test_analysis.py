import numpy as np
import pytest

from engine.config import UserError
from tasks.simba import analysis
from tests.engine.report import fake_run

# gamma, alpha: TPR with, TPR without, difference, FPR with, FPR without, difference, accuracy.
TABLE = [
    (0.6, 0.4, 0.885, 0.787, 0.098, 0.213, 0.115, 0.098, 0.846),
    (0.7, 0.3, 0.923, 0.718, 0.205, 0.282, 0.077, 0.205, 0.861),
    (0.8, 0.2, 0.955, 0.621, 0.334, 0.379, 0.045, 0.334, 0.888),
    (0.9, 0.1, 0.982, 0.461, 0.521, 0.539, 0.018, 0.521, 0.930),
]


@pytest.mark.parametrize("row", TABLE)
def test_shortcut_expectation_equals_the_published_closed_form(row):
    gamma, alpha, *expected = row
    found = analysis.expect(gamma, alpha)
    values = [
        found.tpr["with"], found.tpr["without"], found.delta_tpr, found.fpr["with"], found.fpr["without"], found.delta_fpr, found.accuracy
    ]  # fmt: skip
    assert values == pytest.approx(expected, abs=0.00051)


def test_without_the_shortcut_everyone_is_treated_alike():
    found = analysis.expect(0.7, 0.3, uses_shortcut=False)
    assert found.tpr == pytest.approx({"with": 0.8413, "without": 0.8413}, abs=1e-4)
    assert found.fpr == pytest.approx({"with": 0.1587, "without": 0.1587}, abs=1e-4)
    assert found.accuracy == pytest.approx(0.8413, abs=1e-4)
    assert found.delta_tpr == found.delta_fpr == 0


def test_an_uninformative_bias_is_no_shortcut():
    a, b = analysis.expect(0.4, 0.4, 0.3), analysis.expect(0.4, 0.4, 0.3, uses_shortcut=False)
    assert a.tpr == pytest.approx(b.tpr) and a.fpr == pytest.approx(b.fpr)


@pytest.mark.parametrize("prevalence", [0.5, 0.2])
def test_expectation_equals_a_simulation(prevalence, rng):
    n, gamma, alpha = 400_000, 0.8, 0.3
    sick = rng.random(n) < prevalence
    biased = rng.random(n) < np.where(sick, gamma, alpha)
    d = rng.normal(np.where(sick, 1, -1))
    prior = np.where(biased, np.log(gamma / alpha), np.log((1 - gamma) / (1 - alpha))) + np.log(
        prevalence / (1 - prevalence)
    )
    called = 2 * d + prior >= 0
    found = analysis.expect(gamma, alpha, prevalence)
    assert found.accuracy == pytest.approx((called == sick).mean(), abs=0.003)
    assert found.tpr["without"] == pytest.approx(called[sick & ~biased].mean(), abs=0.01)
    assert found.fpr["with"] == pytest.approx(called[~sick & biased].mean(), abs=0.01)


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_impossible_shares_are_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        analysis.expect(share, 0.3)


def pair(n=400, lean=1.0):
    return fake_run.predictions(n, 3, lean=lean), fake_run.predictions(n, 3, flip=True, lean=lean)


def test_paired_effect_equals_the_closed_form_and_a_count_by_hand():
    factual, flipped = pair(20_000)
    found = analysis.paired_effect(factual, flipped)
    assert found.sensitivity.value == pytest.approx(0.205, abs=0.015)
    assert found.fpr.value == pytest.approx(0.205, abs=0.015)
    with_bias = {}
    for table in (factual, flipped):
        for row in table[(table["bias"] == "with") & (table["target"] == 1)].itertuples():
            with_bias[row.subject_id] = row.score >= 0.5
    assert found.sensitivity.second == np.mean(list(with_bias.values()))
    assert found.sensitivity.n == len(with_bias) and found.sensitivity.lost == 0


def test_row_order_and_direction_do_not_matter():
    factual, flipped = pair()
    found = analysis.paired_effect(factual, flipped)
    assert analysis.paired_effect(flipped.sample(frac=1, random_state=0), factual) == found


def test_a_model_blind_to_the_bias_changes_nothing():
    found = analysis.paired_effect(*pair(lean=0.0))
    assert found.sensitivity.value == found.fpr.value == 0
    assert found.sensitivity.low < 0 < found.sensitivity.high


def test_tables_that_are_no_pair_are_refused():
    factual, flipped = pair(20)
    with pytest.raises(UserError, match="only 19 subjects"):
        analysis.paired_effect(factual, flipped.iloc[1:])
    with pytest.raises(UserError, match="'bias' is not flipped"):
        analysis.paired_effect(factual, factual)
    with pytest.raises(UserError, match="'target' differs"):
        analysis.paired_effect(factual, flipped.assign(target=1 - flipped["target"]))
    with pytest.raises(UserError, match="repeats in 1 rows"):
        analysis.paired_effect(factual.assign(subject_id=["a", "a", *map(str, range(18))]), flipped)


def test_the_other_rendering_has_a_name():
    assert analysis.partner("simba/near_4mm") == "simba/near_4mm_counterfactual"
    assert analysis.partner("simba/near_4mm_counterfactual_subjects500") == "simba/near_4mm_subjects500"
