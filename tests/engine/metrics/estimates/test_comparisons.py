import numpy as np
import pytest
from scipy import stats

from equipoise.engine.metrics.estimates import comparisons, intervals, percentiles
from tests import oracles


def codes(subject):
    return intervals.subject_codes([str(s) for s in subject])[0]


def proportion(success):
    return intervals.proportion(np.asarray(success, bool), codes(np.arange(len(success))))


def test_mover_on_independent_groups_by_hand():
    # Newcombe 1998 (independent groups), example (a): 56/70 against 48/80, interval .0524 to .3339.
    a = np.r_[np.ones(56), np.zeros(14), np.zeros(80)].astype(bool)
    code = codes(np.arange(150))
    first = intervals.proportion(a[:70], code[:70])
    second = intervals.proportion(np.r_[np.ones(48), np.zeros(32)].astype(bool), code[70:])
    value, low, high = comparisons.difference(first, second)
    assert value == pytest.approx(0.2)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)
    assert comparisons.difference(second, first) == pytest.approx((-value, -high, -low))


def test_groups_that_share_patients_are_correlated():
    code = codes(np.r_[np.arange(40), np.arange(40)])
    x = np.random.default_rng(1).random(40) < 0.6
    first, second = intervals.proportion(x, code[:40]), intervals.proportion(x, code[40:])
    apart = intervals.proportion(x, np.arange(40, 80)), intervals.proportion(x, np.arange(40))
    value, low, high = comparisons.difference(
        first, second
    )  # the same images, so that only Wilson's asymmetry is left
    assert value == 0 and high - low < 0.15 * (
        comparisons.difference(*apart)[2] - comparisons.difference(*apart)[1]
    )
    assert comparisons.detectable(first, second) == pytest.approx(0, abs=1e-9)


def test_p_is_where_the_interval_touches_zero():
    code = codes(np.arange(150))
    success = np.r_[np.ones(56), np.zeros(14), np.ones(48), np.zeros(32)].astype(bool)
    a, b = (
        intervals.proportion(success[:70], code[:70]),
        intervals.proportion(success[70:], code[70:]),
    )
    p, test = comparisons.p_value(a, b)
    assert test == "inverted MOVER interval"
    assert comparisons.difference(a, b, 1 - p)[1] == pytest.approx(0, abs=1e-9)
    assert comparisons.p_value(b, a)[0] == pytest.approx(p)
    assert comparisons.p_value(a, a)[0] == 1
    assert stats.fisher_exact([[56, 14], [48, 32]])[1] == pytest.approx(p, abs=0.01)


def test_detectable_gap_has_power_of_four_in_five(rng):
    n, p = 250, 0.7
    code = codes(np.arange(2 * n))
    base = np.arange(n) < n * p
    gap = comparisons.detectable(intervals.proportion(base, code[:n]), intervals.proportion(base, code[n:]))
    assert gap == pytest.approx(2.8016 * (2 * p * (1 - p) / n) ** 0.5, rel=1e-3)
    num_found = 0
    for _ in range(2000):
        a, b = rng.random(n) < p - gap / 2, rng.random(n) < p + gap / 2
        _, low, _ = comparisons.difference(
            intervals.proportion(b, code[n:]), intervals.proportion(a, code[:n])
        )
        num_found += low > 0
    assert num_found / 2000 == pytest.approx(0.8, abs=0.03)


def test_extremes_by_hand():
    estimates = [proportion(np.arange(50) < k) for k in (40, 30, 45)]
    value, low, high = comparisons.worst_group(estimates, higher_is_better=True)
    assert value == 0.6
    assert low == pytest.approx(intervals.wilson_limits(0.6, 50)[0])
    assert high == pytest.approx(intervals.wilson_limits(0.6, 50, 1 - 0.05 / 3)[1])
    worst = comparisons.worst_group(
        [proportion(np.arange(50) >= k) for k in (40, 30, 45)], higher_is_better=False
    )
    assert worst == pytest.approx((1 - value, 1 - high, 1 - low))  # the mirror image


def test_range_covers_zero_for_equal_groups_and_not_for_unequal():
    def disjoint(*counts):
        code = codes(np.arange(100 * len(counts)))
        return [
            intervals.proportion(np.arange(100) < k, code[100 * i : 100 * (i + 1)])
            for i, k in enumerate(counts)
        ]

    value, low, high = comparisons.max_min(disjoint(80, 80, 80))
    assert value == 0 and low == 0 and high > 0.1
    value, low, high = comparisons.max_min(disjoint(90, 60, 80))
    assert value == pytest.approx(0.3)
    a, b, _ = disjoint(90, 60, 80)
    assert (low, high) == pytest.approx(comparisons.difference(a, b, 1 - 0.05 / 3)[1:])


def test_worst_and_range_cover_under_equal_and_unequal_groups(rng):
    sizes, covered = (120, 60, 12), np.zeros(4)
    code = codes(np.arange(sum(sizes)))
    cut = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    for truth, place in (((0.85, 0.85, 0.85), 0), ((0.85, 0.73, 0.85), 2)):
        for _ in range(300):
            groups = [
                intervals.proportion(rng.random(len(c)) < p, code[c]) for c, p in zip(cut, truth, strict=True)
            ]
            _, low, high = comparisons.worst_group(groups, True)
            covered[place] += low <= min(truth) <= high
            _, low, high = comparisons.max_min(groups)
            covered[place + 1] += low <= max(truth) - min(truth) <= high
    assert (covered / 300 >= 0.93).all(), covered / 300


def test_ratio_by_mover_is_where_the_linear_contrast_reaches_zero():
    """The limits R of a / b are those at which a MOVER limit of a - R b is 0, for shared patients too."""
    rng = np.random.default_rng(4)
    code = codes(np.r_[np.arange(80), np.arange(40, 120)])
    leaning = rng.random(120)
    success = rng.random(160) < 0.3 + 0.6 * leaning[np.r_[np.arange(80), np.arange(40, 120)]]
    a, b = intervals.proportion(success[:80], code[:80]), intervals.proportion(success[80:], code[80:])
    shared = intervals.correlation(a, b)
    assert shared > 0.01
    value, low, high = comparisons.ratio(a, b)
    assert value == pytest.approx(a.value / b.value) and low < value < high
    for limit, end in ((low, 0), (high, 1)):
        scaled = (-limit * b.value, -limit * b.limits(0.95)[1], -limit * b.limits(0.95)[0])
        contrast = intervals.mover((a.value, *a.limits(0.95)), scaled, -shared)
        assert contrast[end] == pytest.approx(0, abs=1e-9)


def test_ratio_edges():
    some, none, all_ = (proportion(np.arange(50) < k) for k in (20, 0, 50))
    assert comparisons.ratio(none, some)[:2] == (0, 0) and comparisons.ratio(none, some)[2] < 0.3
    assert np.isnan(comparisons.ratio(some, none)).all()
    value, low, high = comparisons.ratio(some, proportion(np.arange(4) < 1))
    assert value == 1.6 and 0 < low < value < high < np.inf
    assert comparisons.ratio(all_, all_)[0] == 1


def test_areas_of_groups_that_share_patients(rng):
    """Two views of the same patients: the clustered difference is as wide as a bootstrap over patients says."""
    patients = 200
    truth = np.repeat(rng.random(patients) < 0.5, 2)
    score = truth + np.repeat(rng.normal(size=patients), 2) + 0.5 * rng.normal(size=2 * patients)
    code, view = np.repeat(np.arange(patients), 2), np.arange(2 * patients) % 2
    areas = [intervals.area(truth[view == v], score[view == v], code[view == v]) for v in (0, 1)]
    _, low, high = comparisons.difference(*areas)
    draws = []
    for _ in range(1000):
        pick = rng.integers(0, patients, patients)
        draws.append(
            np.subtract(*(oracles.auroc_by_ranks(truth[2 * pick], score[2 * pick + v]) for v in (0, 1)))
        )
    assert high - low == pytest.approx(2 * 1.96 * np.std(draws), rel=0.08)
    apart = np.hypot(areas[0].se, areas[1].se) * 2 * 1.96
    assert high - low < 0.7 * apart


def test_max_min_of_bootstrapped_estimates_uses_their_replicates(rng):
    shared = rng.normal(size=2000)
    draws = [0.5 + 0.01 * (shared + 0.1 * rng.normal(size=2000)) for _ in range(2)]
    estimates = [percentiles.bootstrap(0.5 + i / 100, d + i / 100, 50, 50, 20) for i, d in enumerate(draws)]
    value, low, high = comparisons.max_min(estimates)
    assert (
        value == pytest.approx(0.01) and 0.005 < low < 0.01 < high < 0.015
    )  # correlated: far narrower than either


def test_a_gap_is_an_estimate(rng):
    """The change of a gap between two models is a sum of four correlated shares: its SE is that of the patients' sums."""
    code = codes(np.repeat(np.arange(150), 2))
    lean = rng.random(150)[np.repeat(np.arange(150), 2)]
    calls = [rng.random(300) < np.where(lean < 0.5, 0.1, 0.95) for _ in range(2)]
    groups = np.repeat(np.arange(150), 2) < 60
    gaps = []
    for success in calls:
        a, b = (intervals.proportion(success[g], code[g]) for g in (groups, ~groups))
        gaps.append(comparisons.gap(a, b))
        assert (gaps[-1].value, *gaps[-1].limits(0.9)) == comparisons.difference(a, b, 0.9)
    change = comparisons.gap(*gaps)
    influence = np.zeros(code.max() + 1)
    for g, sign in ((groups, 1), (~groups, -1)):
        d = calls[0][g].astype(float) - calls[1][g]
        influence += sign * np.bincount(code[g], d - d.mean(), len(influence)) / g.sum()
    assert change.se == pytest.approx(np.sqrt((influence**2).sum()), rel=0.03)
    assert change.influence[1] == pytest.approx(influence)
    _, low, high = comparisons.difference(*gaps)
    assert high - low == pytest.approx(2 * 1.96 * change.se, rel=0.03)


def test_gap_of_bootstrapped_scores_keeps_their_replicates(rng):
    draws = rng.normal(size=(2, 500))
    a, b = (percentiles.bootstrap(0.0, d, 50, 50, 20) for d in draws)
    assert comparisons.gap(a, b).replicates == pytest.approx(draws[0] - draws[1])
    assert comparisons.gap(a, b).limits(0.95) == comparisons.difference(a, b)[1:]
    missing = comparisons.gap(a, intervals.undefined("no image"))
    assert np.isnan(missing.value) and missing.reason == "no image"


def test_tail_is_where_a_limit_reaches_the_bound():
    a, b = proportion(np.arange(200) < 170), proportion(np.arange(180) < 160)
    for bound in (-0.15, -0.06, 0.0, 0.02, 0.1):
        p = comparisons.tail(a, b, bound, above=True)
        assert comparisons.tail(a, b, bound, above=False) == pytest.approx(1 - p)
        limit = comparisons.difference(a, b, 1 - 2 * min(p, 1 - p))[1 if p < 0.5 else 2]
        assert limit == pytest.approx(bound, abs=1e-7)
    assert comparisons.tail(a, b, a.value - b.value, above=True) == 0.5
