import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_breast_cancer

from equipoise.engine.metrics.estimates import comparisons, intervals, percentiles
from equipoise.engine.metrics.resampling import bootstrap as resample
from tests import oracles

Z = float(stats.norm.ppf(0.975))


def codes(subject):
    return intervals.subject_codes([str(s) for s in subject])[0]


def proportion(success, subject=None):
    code = codes(np.arange(len(success)) if subject is None else subject)
    return intervals.proportion(np.asarray(success, bool), code)


def area(truth, score, subject=None):
    code = codes(np.arange(len(truth)) if subject is None else subject)
    return intervals.area(np.asarray(truth, bool), np.asarray(score, float), code)


def test_wilson_by_hand():
    # 8 of 10: the textbook interval .490 to .943.
    low, high = intervals.wilson_limits(0.8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    for p, n in ((0.0, 10), (1.0, 10)):
        low, high = intervals.wilson_limits(p, n)
        assert (low == 0 and high > 0.2) if p == 0 else (high == 1 and low < 0.8)


def test_an_estimate_reads_as_one_line():
    success = np.arange(133) < 62
    assert repr(proportion(success)) == "0.466 (0.384 to 0.551), n=133"
    assert repr(proportion([])) == "undefined (no image), n=0"
    alone = area([1, 0], [0.9, 0.1])
    assert repr(alone) == "1.000, n=2" and alone.reason  # a class of one patient has no interval
    hidden = dataclasses.replace(alone, value=math.nan, n=None, reason="suppressed")
    assert repr(hidden) == "undefined (suppressed)"
    assert repr([intervals.constant(0.8)]) == "[0.800 (0.800 to 0.800), n=0]"


def test_clustered_wilson_equals_its_twin(rng):
    for _ in range(20):
        subject = rng.integers(0, 15, 40)
        success = rng.random(40) < (0.2 + 0.6 * (subject % 2))
        expected = oracles.clustered_wilson(success.tolist(), subject.tolist(), Z)
        assert proportion(success, subject).limits(0.95) == pytest.approx(expected, abs=1e-12)


def test_design_effect_bounds():
    once = proportion([1, 0, 1, 1]).limits(0.95)
    # Each patient's two images agree: two images say no more than one.
    assert proportion([1, 1, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3]).limits(0.95) == pytest.approx(once)
    # Each patient has one of each: as many patients as images, as far as forty patients can tell.
    mixed = proportion([1, 0] * 40, np.repeat(range(40), 2)).limits(0.95)
    assert mixed == pytest.approx(intervals.wilson_limits(0.5, 80 * (1.959964 / 2.022691) ** 2))
    # Four patients cannot tell: t is so wide that nothing is gained beyond one image each.
    few = proportion([1, 0] * 4, np.repeat(range(4), 2)).limits(0.95)
    assert few == pytest.approx(intervals.wilson_limits(0.5, 4))
    # At p = 1 clustering cannot be seen and the most cautious is assumed.
    assert proportion([1] * 8, np.repeat(range(4), 2)).limits(0.95) == pytest.approx(
        intervals.wilson_limits(1.0, 4)
    )


TOY_TRUTH = [1] * 6 + [0] * 7
TOY_SCORE = [9.0, 8.0, 7.0, 7.0, 5.0, 3.0, 6.0, 5.0, 4.0, 3.0, 2.0, 2.0, 1.0]


def test_auroc_variance_equals_delong():
    estimate = area(TOY_TRUTH, TOY_SCORE)
    assert estimate.value == pytest.approx(0.8809523809523809, abs=1e-14)
    assert estimate.se**2 == pytest.approx(0.009627739984882842, abs=1e-15)
    data = load_breast_cancer()
    truth = data.target == 0
    for name, value, variance in (
        ("mean texture", 0.7758244807356905, 0.0003894431132982799),
        ("mean smoothness", 0.7220416468474182, 0.0004522535297559956),
    ):
        estimate = area(truth, data.data[:, list(data.feature_names).index(name)])
        assert estimate.value == pytest.approx(value, abs=1e-12)
        assert estimate.se**2 == pytest.approx(variance, rel=1e-10)


def test_auroc_limits_stay_inside_where_wald_leaves():
    low, high = area(TOY_TRUTH, TOY_SCORE).limits(0.95)  # Wald ends at 1.073
    assert 0 < low < 0.8809 < high < 1
    se, value = 0.009627739984882842**0.5, 0.8809523809523809
    half = stats.t.ppf(0.975, 5) * se / (value * (1 - value))
    assert np.log(high / (1 - high)) == pytest.approx(np.log(value / (1 - value)) + half)


def test_clustered_auroc_equals_its_twin_and_ignores_copies(rng):
    for _ in range(10):
        subject, truth = rng.integers(0, 12, 40), rng.random(40) < 0.5
        score = (truth + rng.normal(size=40) + (subject % 3)).round(1)
        estimate = area(truth, score, subject)
        assert estimate.value == pytest.approx(oracles.auroc_by_pairs(truth, score), abs=1e-12)
        assert estimate.se**2 == pytest.approx(oracles.obuchowski_variance(truth, score, subject), rel=1e-10)
        thrice = area(np.repeat(truth, 3), np.repeat(score, 3), np.repeat(subject, 3))
        assert thrice.se == pytest.approx(estimate.se, rel=1e-10)
        assert thrice.limits(0.95) == pytest.approx(estimate.limits(0.95))


def test_clustered_auroc_is_within_3_percent_of_the_patient_bootstrap(rng):
    code = np.repeat(np.arange(600), 3)
    truth = rng.random(1800) < np.repeat(rng.choice([0.2, 0.8], 600), 3)
    score = truth + np.repeat(rng.normal(size=600), 3) + rng.normal(size=1800)
    drawn = resample.Bootstrap(
        {"m": {"truth": truth, "score": score}}, ["auroc"], code, 600, [(np.zeros(1800, int), 1)], 20_000, 0
    )
    variance = drawn.replicates["m", "auroc"][0].var()
    assert intervals.area(truth, score, code).se ** 2 == pytest.approx(variance, rel=0.03)
    assert intervals.area(truth, score, np.arange(1800)).se ** 2 < 0.75 * variance


def test_auroc_without_a_usable_variance_says_so():
    separated = area([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1])
    assert separated.value == 1 and np.isnan(separated.limits(0.95)).all() and "overlap" in separated.reason
    single = area([1, 0, 0], [0.5, 0.2, 0.8])
    assert single.value == 0.5 and np.isnan(single.limits(0.95)).all() and "single patient" in single.reason
    nothing = area([1, 1], [0.5, 0.2])
    assert np.isnan(nothing.value) and nothing.n == 2 and nothing.reason


def paired(both, gained, lost, neither):
    second = np.repeat([1, 1, 0, 0], [both, gained, lost, neither]).astype(bool)
    first = np.repeat([1, 0, 1, 0], [both, gained, lost, neither]).astype(bool)
    return intervals.paired_change(first, second)


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, table II, method 10
        ((18, 12, 2, 18), 0.0562, 0.3290),
        (
            (53, 0, 0, 1),
            -0.0729,
            0.0729,
        ),  # no discordant pair (worked by hand): no change, and an honest width
    ],
)
def test_paired_change_equals_published_intervals(cells, low, high):
    result = paired(*cells)
    n = sum(cells)
    assert result.value == pytest.approx((cells[1] - cells[2]) / n)
    assert (round(result.low, 4), round(result.high, 4)) == (low, high)
    assert (result.n, result.gained, result.lost) == (n, cells[1], cells[2])


def test_paired_change_edges():
    same = paired(10, 0, 0, 0)
    assert same.value == 0 and same.low < 0 < same.high
    assert np.isnan(intervals.paired_change(np.zeros(0, bool), np.zeros(0, bool)).value)
    mirrored = paired(18, 2, 12, 18)
    assert (round(mirrored.low, 4), round(mirrored.high, 4)) == (-0.3290, -0.0562)


def test_codes_ignore_row_order():
    code, number = intervals.subject_codes(["b", "a", "b", "c"])
    again, _ = intervals.subject_codes(["c", "b", "a", "b"])
    assert number == 3 and code.tolist() == [again[1], again[2], again[1], again[0]]
    assert sorted(set(code.tolist())) == [0, 1, 2]


@pytest.mark.parametrize(("events", "n"), [(0, 12), (3, 12), (12, 12), (81, 263)])
def test_clopper_pearson_equals_scipy(events, n):
    peer = stats.binomtest(events, n).proportion_ci(0.95, "exact")
    assert intervals.clopper_pearson_limits(events / n, n) == pytest.approx((peer.low, peer.high), abs=1e-9)
    success = np.arange(n) < events
    exact = intervals.proportion(success, codes(np.arange(n)), exact=True)
    assert exact.limits(0.95) == pytest.approx((peer.low, peer.high)) and exact.method.startswith("Clopper")
    # An effective number of images: each image twice says what it says once.
    twice = intervals.proportion(np.repeat(success, 2), codes(np.repeat(np.arange(n), 2)), exact=True)
    assert twice.limits(0.95) == pytest.approx((peer.low, peer.high))


@pytest.mark.parametrize(("events", "n"), [(0, 12), (3, 12), (12, 12), (81, 263)])
def test_wilson_equals_scipy(events, n):
    peer = stats.binomtest(events, n).proportion_ci(0.95, "wilson")
    assert intervals.wilson_limits(events / n, n) == pytest.approx((peer.low, peer.high), abs=1e-9)


def test_average_of_two_proportions_of_the_same_patients():
    """The mean of a proportion with itself is that proportion, with the same limits."""
    once = proportion(np.arange(50) < 30)
    both = intervals.average(once, once)
    assert both.value == once.value and both.limits(0.95) == pytest.approx(once.limits(0.95))
    assert both.se == pytest.approx(once.se) and both.n_subjects == 50
    assert np.isnan(intervals.average(once, intervals.undefined("no image")).value)


def test_a_bootstrap_of_one_patient_has_no_interval():
    estimate = percentiles.bootstrap(0.3, np.full(100, 0.3), 4, 1, 2)
    assert (
        estimate.value == 0.3
        and np.isnan(estimate.limits(0.95)).all()
        and estimate.reason == "a single patient: no interval"
    )
    assert np.isnan(
        percentiles.bootstrap(np.nan, np.full(100, np.nan), 4, 3, 2, "no image is positive").value
    )


def _coverage(rng, patients, sensitivities, repeats):
    """Share of data sets in which 95 % limits hold the truth: each group's sensitivity, two gaps, the overall AUROC."""
    area = stats.norm.cdf(1.5 / 2**0.5)
    held, tried = np.zeros(9), np.zeros(9)
    for _ in range(repeats):
        called, score, truth, code, group = oracles.simulated_patients(rng, patients, sensitivities)
        cells = [intervals.proportion(called[r], code[r]) for r in (truth & (group == g) for g in range(6))]
        limits = [(*e.limits(0.95), p) for e, p in zip(cells, sensitivities, strict=True)]
        for other in (1, 5):
            limits.append(
                (*comparisons.difference(cells[0], cells[other])[1:], sensitivities[0] - sensitivities[other])
            )
        limits.append((*intervals.area(truth, score, code).limits(0.95), area))
        low, high, value = np.array(limits).T
        known = np.isfinite(low)
        tried += known
        held += known & (low <= value) & (value <= high)
    return held / tried


def test_limits_cover(rng):
    held = _coverage(rng, 500, [0.85] * 6, 150)
    assert (held >= 0.90).all() and (held[[0, 1, 6, 8]] <= 0.99).all(), held


def test_an_area_of_two_positives_has_the_widest_limits_and_no_overflow():
    truth = np.array([1, 1, 0, 0, 0, 0], bool)
    score = np.array([0.9, 0.2, 0.1, 0.3, 0.15, 0.05])
    low, high = intervals.area(truth, score, np.arange(6)).limits(0.9999)
    assert low == 0 and high == 1


def test_bootstrap_limits_stay_within_the_range_of_the_metric():
    replicates = np.linspace(0.9, 1.0, 100)
    estimate = percentiles.bootstrap(0.98, replicates, 12, 12, 12, bounds=(0, 1))
    low, high = estimate.limits(0.9999)  # too few replicates beyond: the normal limit, cut
    assert low < 0.98
    assert high == 1


def test_expanded_percentiles_of_a_mean_are_the_t_interval(rng):
    """Of normal replicates with the bootstrap's own spread, √((n − 1) / n) of the standard error, as Hesterberg 2015 has it."""
    sample = rng.normal(size=8)
    replicates = sample.mean() + stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000) * sample.std() / 8**0.5
    estimate = percentiles.bootstrap(sample.mean(), replicates, 8, 8, 8)
    expected = stats.t.interval(0.9, 7, sample.mean(), sample.std(ddof=1) / 8**0.5)
    assert estimate.limits(0.9) == pytest.approx(expected, abs=1e-3)
    few = percentiles.bootstrap(sample.mean(), replicates[50::100], 8, 8, 8)  # too few replicates beyond
    expected = stats.t.interval(0.99, 7, sample.mean(), sample.std(ddof=1) / 8**0.5)
    assert few.limits(0.99) == pytest.approx(expected, abs=0.02)
    p = percentiles.p_value(sample.mean() + 0.5, replicates + 0.5, 7)
    assert p == pytest.approx(stats.ttest_1samp(sample + 0.5, 0).pvalue, rel=0.01)


@pytest.mark.parametrize("centre", [0.25, 0.9, 3.0])
@pytest.mark.parametrize("freedom", [5, np.inf])
def test_p_of_replicates_is_where_their_limits_reach_zero(rng, centre, freedom):
    replicates = centre + rng.gamma(4, size=4000) / 4 - 1
    p = percentiles.p_value(centre, replicates, freedom)
    for times, excludes in ((1.02, True), (0.97, False)):
        low, _ = percentiles.limits_of(centre, replicates, 1 - times * p, freedom=freedom)
        assert (low > 0) == excludes, times


def test_a_class_of_one_patient_has_no_bootstrap_interval():
    replicates = np.linspace(0, 1, 100)
    estimate = percentiles.bootstrap(0.5, replicates, 12, 12, 1, freedom=0)
    assert np.isnan(estimate.limits(0.95)).all() and "a class has a single patient" in estimate.reason
    assert estimate.b_valid == 100


def test_bca_of_replicates_on_one_side_of_the_value_has_no_limits():
    replicates, left_out = np.linspace(1, 2, 1000), (np.array([0.1, 0.2]), np.array([1, 1]))
    assert np.isnan(percentiles.limits_of(0.5, replicates, left_out=left_out)).all()
