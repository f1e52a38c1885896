import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.formulas import calibration, registry
from tests import oracles

WEIGHTED = (
    "calibration_intercept",
    "calibration_slope",
    "ece",
    "ece_equal_width",
    "squared_calibration_error_debiased",
)


def columns(truth, score):
    truth, score = np.asarray(truth, bool), np.asarray(score, np.float64)
    return {"truth": truth, "score": score, "called": score >= 0.5}


def simulated(n, seed=0, intercept=0.0, slope=1.0):
    """Scores and outcomes whose recalibration has the given intercept and slope."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-0.5, 1.5, n)
    truth = rng.random(n) < 1 / (1 + np.exp(-intercept - slope * logit))
    return columns(truth, 1 / (1 + np.exp(-logit)))


TABLES = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.3, 0.30001, 0.5, 0.8, 1.0])),
    min_size=1,
    max_size=40,
)


def test_errors_by_hand():
    # Two scores, so two bins, of .2 (one of four positive) and .6 (two of two).
    table = columns([1, 0, 0, 0, 1, 1], [0.2] * 4 + [0.6] * 2)
    assert registry.compute("ece", table) == pytest.approx(4 / 6 * 0.05 + 2 / 6 * 0.4)
    assert registry.compute("ece_equal_width", table) == pytest.approx(4 / 6 * 0.05 + 2 / 6 * 0.4)
    debiased = 4 / 6 * (0.05**2 - 0.25 * 0.75 / 3) + 2 / 6 * 0.4**2
    assert registry.compute("squared_calibration_error_debiased", table) == pytest.approx(debiased)


@settings(deadline=None, max_examples=60)
@given(TABLES)
def test_errors_of_equal_mass_are_those_of_explicit_bins(rows):
    truth, score = map(list, zip(*rows, strict=True))
    table, bins = columns(truth, score), oracles.binned_gaps(truth, score, 15)
    assert registry.compute("ece", table) == pytest.approx(
        sum(n * abs(p - y) for n, p, y in bins) / len(rows), abs=1e-12
    )
    counted = [(n, (p - y) ** 2 - y * (1 - y) / (n - 1)) for n, p, y in bins if n > 1]
    found = registry.compute("squared_calibration_error_debiased", table)
    if counted:
        assert found == pytest.approx(sum(n * e for n, e in counted) / sum(n for n, _ in counted), abs=1e-12)
    else:
        assert math.isnan(found)


@pytest.mark.parametrize(("n", "least", "most"), [(60, 0.14, 0.17), (1000, 0.034, 0.041)])
def test_a_calibrated_score_has_an_error_by_chance_that_only_the_debiased_form_removes(n, least, most):
    found = {"ece": [], "squared_calibration_error_debiased": []}
    for seed in range(200):
        table = simulated(n, seed)
        for name, values in found.items():
            values.append(registry.compute(name, table))
    assert least < np.mean(found["ece"]) < most
    debiased = np.array(found["squared_calibration_error_debiased"])
    assert abs(debiased.mean()) < 3 * debiased.std() / math.sqrt(len(debiased))
    assert debiased.min() < 0


def test_the_debiased_error_is_centred_in_a_bootstrap_too():
    table, rng = simulated(500, 3), np.random.default_rng(0)
    name = "squared_calibration_error_debiased"
    metric, value = registry.get(name), registry.compute(name, table)
    prepared = metric.prepare(table)
    drawn = [np.bincount(rng.integers(0, 500, 500), minlength=500).astype(float) for _ in range(400)]
    replicates = np.array([metric.weighted(prepared, w) for w in drawn])
    assert abs(replicates.mean() - value) < 0.25 * replicates.std()


def test_bins_are_of_all_rows_whatever_the_group():
    table = simulated(300, 1)
    metric = registry.get("ece")
    prepared, group = metric.prepare(table), np.arange(300) % 3 == 0
    cut = {name: column[group] for name, column in prepared.items()}
    assert metric.weighted(cut, np.ones(100)) == pytest.approx(metric.weighted(prepared, group.astype(float)))
    assert metric.weighted(cut, np.ones(100)) != pytest.approx(
        registry.compute("ece", {name: column[group] for name, column in table.items()})
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 20))
def test_bins_keep_ties_together_and_rise_with_the_score(scores, count):
    score = np.array(scores)
    for assign in (calibration.equal_mass_bins, calibration.equal_width_bins):
        number = assign(score, count)
        assert number.min() >= 0 and number.max() < count
        order = np.argsort(score)
        assert (np.diff(number[order]) >= 0).all()
        assert len(set(zip(score, number, strict=True))) == len(set(score))


def test_equal_mass_bins_hold_equally_many():
    score = np.random.default_rng(0).permutation(np.linspace(0, 1, 150))
    assert (np.bincount(calibration.equal_mass_bins(score, 15)) == 10).all()


@pytest.mark.parametrize("seed", range(4))
def test_intercept_and_slope_are_those_of_statsmodels(seed):
    api = pytest.importorskip("statsmodels.api")
    table = simulated(200, seed, intercept=(-2, 0, 1, 3)[seed], slope=(0.4, 1, 2.5, -1)[seed])
    logit = np.log(table["score"] / (1 - table["score"]))
    y, family = table["truth"].astype(float), api.families.Binomial()
    slope = api.GLM(y, np.stack([np.ones(200), logit], 1), family=family).fit(tol=1e-14).params[1]
    intercept = api.GLM(y, np.ones(200), family=family, offset=logit).fit(tol=1e-14).params[0]
    assert registry.compute("calibration_slope", table) == pytest.approx(slope, rel=1e-8)
    assert registry.compute("calibration_intercept", table) == pytest.approx(intercept, rel=1e-8)


def test_slope_is_that_of_scikit_learn_with_weights():
    linear = pytest.importorskip("sklearn.linear_model")
    table = simulated(150, 9, 0.5, 0.7)
    logit = np.log(table["score"] / (1 - table["score"]))[:, None]
    weight = np.random.default_rng(1).integers(0, 4, 150).astype(float)
    peer = linear.LogisticRegression(C=np.inf, tol=1e-10).fit(logit, table["truth"], weight)
    assert registry.compute("calibration_slope", table, weight) == pytest.approx(peer.coef_[0, 0], rel=1e-5)


def test_a_large_calibrated_table_has_intercept_0_and_slope_1():
    table = simulated(200_000, 2)
    assert registry.compute("calibration_intercept", table) == pytest.approx(0, abs=0.02)
    assert registry.compute("calibration_slope", table) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("truth", "score"),
    [([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9]),  # apart
     ([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9]),  # they touch
     ([1, 1, 0, 0], [0.1, 0.2, 0.7, 0.9]),  # apart, the wrong way round
     ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3]),  # constant
     ([0, 1], [0.0, 1.0]), ([1, 1], [0.2, 0.3]), ([0], [0.5])],
)  # fmt: skip
def test_no_slope_where_the_classes_do_not_overlap(truth, score):
    assert math.isnan(registry.compute("calibration_slope", columns(truth, score)))


def test_intercept_of_one_class_is_undefined_and_of_a_constant_score_known():
    assert math.isnan(registry.compute("calibration_intercept", columns([1, 1], [0.2, 0.9])))
    assert math.isnan(registry.compute("calibration_intercept", columns([], [])))
    log_odds = math.log(3) - math.log(0.25)
    assert registry.compute("calibration_intercept", columns([1, 1, 1, 0], [0.2] * 4)) == pytest.approx(
        log_odds
    )


@settings(deadline=None, max_examples=60)
@given(TABLES)
def test_intercept_and_slope_solve_their_equations(rows):
    truth, score = (np.array(x) for x in zip(*rows, strict=True))
    table = columns(truth, score)
    held = np.clip(score, calibration.LIMIT, 1 - calibration.LIMIT)
    logit = np.log(held / (1 - held))
    a = registry.compute("calibration_intercept", table)
    assert math.isnan(a) == (truth.all() or not truth.any())
    if not math.isnan(a):
        assert (1 / (1 + np.exp(-a - logit))).sum() == pytest.approx(truth.sum(), abs=1e-6)
    b = registry.compute("calibration_slope", table)
    positive, negative = logit[truth], logit[~truth]
    overlap = bool(len(positive) and len(negative)) and (
        negative.max() > positive.min() and positive.max() > negative.min()
    )
    assert math.isnan(b) == (not overlap)
    if overlap:
        # Given the slope, the intercept that fits it leaves no correlation of the misses with the logit.
        free = {"logit": b * logit, "truth": truth}
        a = float(registry.get("calibration_intercept").weighted(free, np.ones(len(truth))))
        assert ((truth - 1 / (1 + np.exp(-a - b * logit))) @ logit) == pytest.approx(0, abs=1e-5)


@settings(deadline=None, max_examples=8)
@given(TABLES, st.integers(0, 2**32 - 1))
def test_jax_gives_what_numpy_gives(rows, seed):
    truth, score = zip(*rows, strict=True)
    size = 40  # one shape compiles once
    fill = lambda values: np.resize(np.array(values), size)  # noqa: E731
    table = columns(fill(truth), fill(score))
    weight = np.random.default_rng(seed).integers(0, 3, (size, 5)).astype(float)
    weight[len(rows) :] = 0
    weight[:, 0] = 0
    with jax.enable_x64(True):
        for name in WEIGHTED:
            metric = registry.get(name)
            prepared = metric.prepare(table)
            found = _lanes(name)(prepared, weight)
            expected = [metric.weighted(prepared, weight[:, lane]) for lane in range(5)]
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=name)


COMPILED = {}


def _lanes(name):
    return COMPILED.setdefault(name, jax.jit(jax.vmap(registry.get(name).weighted, in_axes=(None, 1))))


@pytest.mark.parametrize("name", WEIGHTED)
def test_absent_rows_and_their_order_change_nothing(name):
    table, order = simulated(120, 5), np.random.default_rng(2).permutation(120)
    value = registry.compute(name, table)
    assert registry.compute(name, {k: v[order] for k, v in table.items()}) == pytest.approx(value, rel=1e-9)
    assert math.isfinite(value)
    assert math.isnan(registry.compute(name, table, np.zeros(120)))


def test_single_precision_converges_too():
    table = simulated(400, 6)
    for name in ("calibration_intercept", "calibration_slope"):
        metric = registry.get(name)
        single = {
            k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in metric.prepare(table).items()
        }
        assert metric.weighted(single, np.ones(400, np.float32)) == pytest.approx(
            registry.compute(name, table), rel=1e-3
        )


def test_of_one_class_of_several():
    rng = np.random.default_rng(4)
    scores = rng.dirichlet(np.ones(3), 200)
    truth = np.array([rng.choice(3, p=p) for p in scores])
    several = {"truth": truth, "scores": scores, "called": scores.argmax(1)}
    single = columns(truth == 1, scores[:, 1])
    for name in WEIGHTED:
        assert registry.compute(f"{name}:1", several) == pytest.approx(registry.compute(name, single))


def test_curve():
    table = columns([1, 0, 0, 0, 1, 1, 0, 1], [0.2] * 4 + [0.6] * 4)
    found = calibration.curve(table["truth"], table["score"], bins=2)
    np.testing.assert_allclose(found.predicted, [0.2, 0.6])
    np.testing.assert_allclose(found.observed, [0.25, 0.75])
    assert found.n.tolist() == [4, 4]
    assert (found.low[0], found.high[0]) == pytest.approx(intervals.wilson_limits(0.25, 4))
    clustered = calibration.curve(table["truth"], table["score"], code=np.arange(8) // 4, bins=2)
    assert (clustered.high - clustered.low > found.high - found.low).all()
    pooled = np.array([0, 0, 0, 0, 5, 5, 5, 7])
    assert calibration.curve(table["truth"], table["score"], bins=pooled).n.tolist() == [4, 3, 1]
    assert len(calibration.curve([], []).n) == 0
