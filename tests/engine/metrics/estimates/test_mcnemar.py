import itertools

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar as peer

from equipoise.engine.metrics.estimates.mcnemar import mcnemar


def calls(both, first, second, neither):
    """Two decisions of images with these counts."""
    a = np.r_[np.ones(both + first), np.zeros(second + neither)].astype(bool)
    b = np.r_[np.ones(both), np.zeros(first), np.ones(second), np.zeros(neither)].astype(bool)
    return a, b


@pytest.mark.parametrize("counts", [(30, 12, 4, 20), (5, 1, 0, 3), (100, 60, 90, 250), (10, 5, 5, 1)])
def test_one_image_per_patient_equals_statsmodels(counts):
    result, (both, first, second, neither) = mcnemar(*calls(*counts)), counts
    table, n = [[both, first], [second, neither]], sum(counts)
    assert result.p == pytest.approx(peer(table, exact=True).pvalue)
    asymptotic = peer(table, exact=False, correction=False).statistic
    assert result.statistic == pytest.approx(asymptotic * (n - 1) / n)
    assert (result.first_only, result.second_only, result.n) == (first, second, n)
    assert result.value == pytest.approx((second - first) / n)


def test_exact_p_equals_all_exchanges_within_patients(rng):
    subject = rng.integers(0, 9, 40)
    first, second = rng.random(40) < 0.4, rng.random(40) < 0.6
    change = [int(second[subject == i].sum()) - int(first[subject == i].sum()) for i in range(9)]
    sums = [
        sum(s * d for s, d in zip(signs, change, strict=True))
        for signs in itertools.product((-1, 1), repeat=9)
    ]
    result = mcnemar(first, second, subject)
    assert result.p == pytest.approx(np.mean(np.abs(sums) >= abs(sum(change))))
    assert result.statistic == pytest.approx(8 / 9 * sum(change) ** 2 / sum(d * d for d in change))


def test_copies_within_patients_change_no_p():
    first, second = calls(30, 14, 4, 20)
    once = mcnemar(first, second)
    thrice = mcnemar(*(np.tile(x, 3) for x in (first, second)), np.tile(np.arange(68), 3))
    assert (thrice.p, thrice.statistic) == pytest.approx((once.p, once.statistic))
    assert thrice.n == 3 * once.n and thrice.n_subjects == once.n_subjects
    naive = mcnemar(*(np.tile(x, 3) for x in (first, second)))
    assert naive.p < once.p / 10


def test_level_within_patients(rng):
    """Three images that a patient's two models call alike: the clustered test keeps its level, the naive one does not."""
    rejected = np.zeros(3)
    for _ in range(600):
        subject = np.repeat(np.arange(80), 3)
        first, second = ((rng.random(80) < 0.5)[subject] ^ (rng.random(240) < 0.1) for _ in range(2))
        result = mcnemar(first, second, subject)
        rejected += (result.p < 0.05, result.p_asymptotic < 0.05, mcnemar(first, second).p < 0.05)
    assert (rejected[:2] / 600 < 0.08).all() and rejected[2] / 600 > 0.15


def test_models_that_agree_and_no_image():
    same = mcnemar([True, False], [True, False])
    assert same.p == 1 and same.p_asymptotic == 1 and np.isnan(same.statistic)
    nothing = mcnemar(np.zeros(0, bool), np.zeros(0, bool))
    assert np.isnan(nothing.p) and nothing.n == 0
