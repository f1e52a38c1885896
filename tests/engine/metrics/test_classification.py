import math

import numpy as np
import pytest
from sklearn import metrics as peer

from engine.config import UserError
from engine.metrics import classification
from tests import oracles

# Threshold 0.5: TP 3 (0.9, 0.8, 0.5), FN 1 (0.4), FP 2 (0.6, 0.7), TN 2 (0.1, 0.2).
TRUTH = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
SCORE = np.array([0.9, 0.8, 0.5, 0.4, 0.6, 0.7, 0.1, 0.2])
BY_HAND = {
    "accuracy": 5 / 8,
    "balanced_accuracy": (3 / 4 + 2 / 4) / 2,
    "sensitivity": 3 / 4,
    "specificity": 2 / 4,
    "fpr": 2 / 4,
    "fnr": 1 / 4,
    "ppv": 3 / 5,
    "npv": 2 / 3,
    "f1": 6 / 9,
    "auroc": 12 / 16,
    "brier": (0.01 + 0.04 + 0.25 + 0.36 + 0.36 + 0.49 + 0.01 + 0.04) / 8,
    "log_loss": -math.log(0.9 * 0.8 * 0.5 * 0.4 * 0.4 * 0.3 * 0.9 * 0.8) / 8,
}


@pytest.mark.parametrize("name", classification.METRICS)
def test_every_score_by_hand(name):
    assert classification.compute(name, TRUTH, SCORE, 0.5) == pytest.approx(BY_HAND[name], abs=1e-12)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("auroc", peer.roc_auc_score), ("brier", peer.brier_score_loss), ("log_loss", peer.log_loss)],
)
def test_probability_scores_equal_scikit_learn(name, theirs, rng):
    truth, score = rng.random(500) < 0.3, rng.random(500).round(2)
    score[:3] = [0, 1, 0]  # certain and wrong: held within 2^-52, as scikit-learn does
    assert classification.compute(name, truth, score) == pytest.approx(theirs(truth, score), rel=1e-12)


def test_auroc_counts_ties_half(rng):
    truth, score = rng.random(60) < 0.4, rng.integers(0, 5, 60) / 4
    assert classification.auroc(truth, score) == pytest.approx(
        oracles.auroc_by_pairs(truth, score), abs=1e-12
    )


def test_a_score_at_the_threshold_is_positive():
    assert classification.compute("sensitivity", np.ones(3, bool), np.full(3, 0.7), 0.7) == 1
    narrow = np.full(3, 0.7, np.float32)  # float32(0.7) is below 0.7: the comparison is in float64, as stored
    assert classification.compute("sensitivity", np.ones(3, bool), narrow, 0.7) == 0


@pytest.mark.parametrize(
    ("name", "truth", "score"),
    [
        ("sensitivity", [0, 0], [0.1, 0.9]), ("fnr", [0, 0], [0.1, 0.9]), ("specificity", [1, 1], [0.1, 0.9]),
        ("fpr", [1, 1], [0.1, 0.9]), ("ppv", [1, 0], [0.1, 0.1]), ("npv", [1, 0], [0.9, 0.9]), ("auroc", [1, 1], [0.1, 0.9]),
        ("balanced_accuracy", [1, 1], [0.1, 0.9]), ("f1", [0, 0], [0.1, 0.1]), ("accuracy", [], []), ("brier", [], []),
    ],
)  # fmt: skip
def test_absent_is_not_zero(name, truth, score):
    assert math.isnan(classification.compute(name, np.array(truth, bool), np.array(score, float)))


def test_the_registry_is_complete():
    for name, metric in classification.METRICS.items():
        assert metric.name == name and metric.formula and metric.undefined and metric.reference
        assert metric.low < metric.high
    assert {n for n, m in classification.METRICS.items() if m.is_proportion} == {
        "accuracy", "sensitivity", "specificity", "fpr", "fnr", "ppv", "npv"
    }  # fmt: skip
    with pytest.raises(UserError, match="Did you mean 'auroc'"):
        classification.get("aurocc")


def test_thresholds():
    choose = classification.choose_threshold
    assert choose("fixed:0.25", TRUTH, SCORE, "validation") == (0.25, "fixed")
    # J: 0.8 -> 2/4; 0.5 -> 3/4 - 2/4 = 1/4; 0.4 -> 4/4 - 2/4 = 2/4. Of equals the lowest.
    assert choose("youden", TRUTH, SCORE, "validation") == (0.4, "validation")
    assert choose("max_accuracy", TRUTH, SCORE, "validation") == (0.4, "validation")
    nobody, _ = choose(
        "max_accuracy", np.array([0, 0, 0, 1], bool), np.array([0.9, 0.8, 0.7, 0.1]), "validation"
    )
    assert nobody > 0.9  # calling nobody positive is right for 3 of 4


def test_thresholds_are_not_chosen_on_what_is_scored():
    with pytest.raises(UserError, match="same images"):
        classification.choose_threshold("youden", TRUTH, SCORE, "test", reported="test")
    with pytest.raises(UserError, match="choose it on 'validation'"):
        classification.choose_threshold("youden", TRUTH, SCORE, "test")
    assert classification.choose_threshold("youden", TRUTH, SCORE, "tuning", reported="test")[1] == "tuning"
    with pytest.raises(UserError, match="both classes"):
        classification.choose_threshold("youden", np.ones(3, bool), SCORE[:3], "validation")
    with pytest.raises(UserError, match="Did you mean 'youden'"):
        classification.choose_threshold("yuden", TRUTH, SCORE, "validation")
    with pytest.raises(UserError, match="fixed:NUMBER"):
        classification.choose_threshold("fixed:half", TRUTH, SCORE, "validation")
