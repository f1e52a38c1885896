import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as peer

from equipoise.engine.metrics.formulas import registry, regression

NUMBERS = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))


def columns(truth, score):
    return {"truth": np.asarray(truth, np.float64), "score": np.asarray(score, np.float64)}


def test_by_hand():
    table = columns([50, 60, 70], [52, 59, 75])
    assert registry.compute("mae", table) == pytest.approx(8 / 3)
    assert registry.compute("rmse", table) == pytest.approx(math.sqrt(30 / 3))
    assert registry.compute("bias", table) == pytest.approx(2)
    assert registry.compute("r2", table) == pytest.approx(1 - 30 / 200)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(0, 3)), min_size=2, max_size=30))
def test_scikit_learn_agrees(rows):
    truth, score, weight = (np.array(x, np.float64) for x in zip(*rows, strict=True))
    weight[0] = 1
    table, kept = columns(truth, score), np.repeat(np.arange(len(truth)), weight.astype(int))
    y, p = truth[kept], score[kept]
    assert registry.compute("mae", table, weight) == pytest.approx(peer.mean_absolute_error(y, p))
    assert registry.compute("rmse", table, weight) == pytest.approx(peer.root_mean_squared_error(y, p))
    assert registry.compute("bias", table, weight) == pytest.approx((p - y).mean(), abs=1e-9)
    found = registry.compute("r2", table, weight)
    if len(np.unique(y)) > 1:
        assert found == pytest.approx(peer.r2_score(y, p), rel=1e-7)
    else:
        assert math.isnan(found)


@pytest.mark.parametrize("task", ["regression", "values"])
def test_no_row_no_value(task):
    table = columns([], []) if task == "regression" else {"value": np.zeros(0)}
    assert all(math.isnan(registry.compute(name, table)) for name in registry.names(task))


def test_ages_of_a_million_keep_nine_digits():
    rng = np.random.default_rng(0)
    truth = rng.normal(50, 0.5, 1_000_000) + 1e5  # a narrow group, far from 0
    score = truth + rng.normal(0.1, 0.2, len(truth))
    exact, error = truth.astype(np.longdouble), score.astype(np.longdouble) - truth
    r2 = 1 - (error**2).sum() / ((exact - exact.mean()) ** 2).sum()
    table = columns(truth, score)
    assert registry.compute("r2", table) == pytest.approx(float(r2), rel=1e-9)
    assert registry.compute("bias", table) == pytest.approx(float(error.mean()), rel=1e-9)


def test_a_group_far_from_the_rest_is_judged_by_its_own_spread():
    rng = np.random.default_rng(1)
    truth = np.concatenate([rng.normal(20, 1, 500), rng.normal(80, 0.1, 500), np.full(500, 70.1)])
    table = columns(truth, truth + rng.normal(0, 0.5, 1500))
    own, parts = np.repeat(np.arange(3), 500), regression.components(table)
    for group in range(3):
        rows = own == group
        found = registry.get("r2").of_sums({name: part[rows].sum() for name, part in parts.items()})
        if group == 2:
            assert math.isnan(found), "the truth is constant, though not the mean of all rows"
        else:
            assert found == pytest.approx(peer.r2_score(truth[rows], table["score"][rows]), rel=1e-9)


def test_sums_of_many_sets_at_once():
    table = columns([50.0, 60, 70, 70], [52.0, 59, 75, 71])
    parts = regression.components(table)
    sets = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]], np.float64)
    found = registry.get("r2").of_sums({name: sets @ part for name, part in parts.items()})
    assert found.shape == (4,) and np.isnan(found).tolist() == [False, False, True, True]


def test_values_by_hand():
    table = {"value": np.array([0.8, 0.9, np.nan, 0.4, np.inf])}
    assert registry.compute("mean", table) == pytest.approx(0.7)
    assert registry.compute("undefined_rate", table) == pytest.approx(2 / 5)
    assert registry.compute("sd", table) == pytest.approx(np.std([0.8, 0.9, 0.4], ddof=1))
    none = {"value": np.full(3, np.nan)}
    assert math.isnan(registry.compute("mean", none)) and registry.compute("undefined_rate", none) == 1
    assert math.isnan(registry.compute("sd", {"value": np.array([0.3, np.nan])}))
    assert registry.compute("sd", {"value": np.full(7, 0.1)}) == 0


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.one_of(NUMBERS, st.just(math.nan)), st.integers(0, 3)), min_size=1, max_size=30))
def test_values_of_weighted_rows_are_those_of_repeated_rows(rows):
    value, weight = (np.array(x, np.float64) for x in zip(*rows, strict=True))
    kept = np.repeat(value, weight.astype(int))
    known, table = kept[~np.isnan(kept)], {"value": value}
    for name, least, expected in (
        ("mean", 1, known.mean),
        ("sd", 2, lambda: known.std(ddof=1)),
        ("undefined_rate", 0, lambda: np.isnan(kept).mean() if len(kept) else math.nan),
    ):
        found = registry.compute(name, table, weight)
        if len(known) < least:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(expected(), rel=1e-6, abs=1e-6, nan_ok=True)
