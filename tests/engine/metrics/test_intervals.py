import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_breast_cancer

from engine.metrics import classification, intervals
from tests import oracles

Z = float(stats.norm.ppf(0.975))


def codes(subject):
    return intervals.subject_codes([str(s) for s in subject])


def proportion(success, subject=None):
    code, number = codes(np.arange(len(success)) if subject is None else subject)
    return intervals.proportion(np.asarray(success, bool), code, number)


def area(truth, score, subject=None):
    code, number = codes(np.arange(len(truth)) if subject is None else subject)
    return intervals.area(np.asarray(truth, bool), np.asarray(score, float), code, number)


def test_wilson_by_hand():
    # 8 of 10: the textbook interval .490 to .943.
    low, high = intervals.wilson_limits(0.8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    for p, n in ((0.0, 10), (1.0, 10)):
        low, high = intervals.wilson_limits(p, n)
        assert (low == 0 and high > 0.2) if p == 0 else (high == 1 and low < 0.8)


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
    # Each patient has one of each: no less than one patient per image.
    mixed = proportion([1, 0] * 4, np.repeat(range(4), 2)).limits(0.95)
    assert mixed == pytest.approx(intervals.wilson_limits(0.5, 8))
    # At p = 1 clustering cannot be seen and the most cautious is assumed.
    assert proportion([1] * 8, np.repeat(range(4), 2)).limits(0.95) == pytest.approx(
        intervals.wilson_limits(1.0, 4)
    )


def test_mover_on_independent_groups_by_hand():
    # Newcombe 1998 (independent groups), example (a): 56/70 against 48/80, interval .0524 to .3339.
    a = np.r_[np.ones(56), np.zeros(14), np.zeros(80)].astype(bool)
    code, number = codes(np.arange(150))
    first = intervals.proportion(a[:70], code[:70], number)
    second = intervals.proportion(np.r_[np.ones(48), np.zeros(32)].astype(bool), code[70:], number)
    value, low, high = intervals.difference(first, second)
    assert value == pytest.approx(0.2)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)
    assert intervals.difference(second, first) == pytest.approx((-value, -high, -low))


def test_groups_that_share_patients_are_correlated():
    code, number = codes(np.r_[np.arange(40), np.arange(40)])
    x = np.random.default_rng(1).random(40) < 0.6
    first, second = intervals.proportion(x, code[:40], number), intervals.proportion(x, code[40:], number)
    apart = intervals.proportion(x, np.arange(40, 80), 80), intervals.proportion(x, np.arange(40), 80)
    value, low, high = intervals.difference(
        first, second
    )  # the same images, so that only Wilson's asymmetry is left
    assert value == 0 and high - low < 0.15 * (
        intervals.difference(*apart)[2] - intervals.difference(*apart)[1]
    )
    assert intervals.detectable(first, second) == pytest.approx(0, abs=1e-9)


TOY_TRUTH = [1] * 6 + [0] * 7
TOY_SCORE = [9.0, 8.0, 7.0, 7.0, 5.0, 3.0, 6.0, 5.0, 4.0, 3.0, 2.0, 2.0, 1.0]


def test_auroc_variance_equals_delong():
    found = area(TOY_TRUTH, TOY_SCORE)
    assert found.value == pytest.approx(0.8809523809523809, abs=1e-14)
    assert found.se**2 == pytest.approx(0.009627739984882842, abs=1e-15)
    data = load_breast_cancer()
    truth = data.target == 0
    for name, value, variance in (
        ("mean texture", 0.7758244807356905, 0.0003894431132982799),
        ("mean smoothness", 0.7220416468474182, 0.0004522535297559956),
    ):
        found = area(truth, data.data[:, list(data.feature_names).index(name)])
        assert found.value == pytest.approx(value, abs=1e-12)
        assert found.se**2 == pytest.approx(variance, rel=1e-10)


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
        found = area(truth, score, subject)
        assert found.value == pytest.approx(oracles.auroc_by_pairs(truth, score), abs=1e-12)
        assert found.se**2 == pytest.approx(oracles.obuchowski_variance(truth, score, subject), rel=1e-10)
        thrice = area(np.repeat(truth, 3), np.repeat(score, 3), np.repeat(subject, 3))
        assert thrice.se == pytest.approx(found.se, rel=1e-10)
        assert thrice.limits(0.95) == pytest.approx(found.limits(0.95))


def test_clustered_auroc_is_near_the_patient_bootstrap(rng):
    subject = np.repeat(np.arange(150), 3)
    truth = rng.random(450) < np.repeat(rng.choice([0.2, 0.8], 150), 3)
    score = truth + np.repeat(rng.normal(size=150), 3) + rng.normal(size=450)
    rows = np.arange(450).reshape(150, 3)
    draws = []
    for _ in range(2000):
        pick = rows[rng.integers(0, 150, 150)].ravel()
        draws.append(classification.auroc(truth[pick], score[pick]))
    assert area(truth, score, subject).se == pytest.approx(np.std(draws), rel=0.06)


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
    found = paired(*cells)
    n = sum(cells)
    assert found.value == pytest.approx((cells[1] - cells[2]) / n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert (found.n, found.gained, found.lost) == (n, cells[1], cells[2])


def test_paired_change_edges():
    same = paired(10, 0, 0, 0)
    assert same.value == 0 and same.low < 0 < same.high
    assert np.isnan(intervals.paired_change(np.zeros(0, bool), np.zeros(0, bool)).value)
    mirrored = paired(18, 2, 12, 18)
    assert (round(mirrored.low, 4), round(mirrored.high, 4)) == (-0.3290, -0.0562)


def test_p_is_where_the_interval_touches_zero():
    code, number = codes(np.arange(150))
    success = np.r_[np.ones(56), np.zeros(14), np.ones(48), np.zeros(32)].astype(bool)
    a, b = (
        intervals.proportion(success[:70], code[:70], number),
        intervals.proportion(success[70:], code[70:], number),
    )
    p, test = intervals.p_value(a, b)
    assert test == "inverted MOVER interval"
    assert intervals.difference(a, b, 1 - p)[1] == pytest.approx(0, abs=1e-9)
    assert intervals.p_value(b, a)[0] == pytest.approx(p)
    assert intervals.p_value(a, a)[0] == 1
    assert stats.fisher_exact([[56, 14], [48, 32]])[1] == pytest.approx(p, abs=0.01)


def test_holm_by_hand():
    # .01 x 3, then max(.03, .02 x 2), then max(.04, .5 x 1).
    assert intervals.holm([0.5, 0.01, float("nan"), 0.02]) == pytest.approx(
        [0.5, 0.03, np.nan, 0.04], nan_ok=True
    )
    assert intervals.holm([]) == []


def test_detectable_gap_has_power_of_four_in_five(rng):
    n, p = 250, 0.7
    code, number = codes(np.arange(2 * n))
    base = np.arange(n) < n * p
    gap = intervals.detectable(
        intervals.proportion(base, code[:n], number), intervals.proportion(base, code[n:], number)
    )
    assert gap == pytest.approx(2.8016 * (2 * p * (1 - p) / n) ** 0.5, rel=1e-3)
    found = 0
    for _ in range(2000):
        a, b = rng.random(n) < p - gap / 2, rng.random(n) < p + gap / 2
        _, low, _ = intervals.difference(
            intervals.proportion(b, code[n:], number), intervals.proportion(a, code[:n], number)
        )
        found += low > 0
    assert found / 2000 == pytest.approx(0.8, abs=0.03)


def test_extremes_by_hand():
    estimates = [proportion(np.arange(50) < k) for k in (40, 30, 45)]
    value, low, high = intervals.worst_group(estimates, higher_is_better=True)
    assert value == 0.6
    assert low == pytest.approx(intervals.wilson_limits(0.6, 50)[0])
    assert high == pytest.approx(intervals.wilson_limits(0.6, 50, 1 - 0.05 / 3)[1])
    worst = intervals.worst_group(
        [proportion(np.arange(50) >= k) for k in (40, 30, 45)], higher_is_better=False
    )
    assert worst == pytest.approx((1 - value, 1 - high, 1 - low))  # the mirror image


def test_range_covers_zero_for_equal_groups_and_not_for_unequal():
    def disjoint(*counts):
        code, number = codes(np.arange(100 * len(counts)))
        return [
            intervals.proportion(np.arange(100) < k, code[100 * i : 100 * (i + 1)], number)
            for i, k in enumerate(counts)
        ]

    value, low, high = intervals.max_min(disjoint(80, 80, 80))
    assert value == 0 and low == 0 and high > 0.1
    value, low, high = intervals.max_min(disjoint(90, 60, 80))
    assert value == pytest.approx(0.3)
    a, b, _ = disjoint(90, 60, 80)
    assert (low, high) == pytest.approx(intervals.difference(a, b, 1 - 0.05 / 3)[1:])


def test_worst_and_range_cover_under_equal_and_unequal_groups(rng):
    sizes, covered = (120, 60, 12), np.zeros(4)
    code, number = codes(np.arange(sum(sizes)))
    cut = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    for truth, place in (((0.85, 0.85, 0.85), 0), ((0.85, 0.73, 0.85), 2)):
        for _ in range(300):
            groups = [
                intervals.proportion(rng.random(len(c)) < p, code[c], number)
                for c, p in zip(cut, truth, strict=True)
            ]
            _, low, high = intervals.worst_group(groups, True)
            covered[place] += low <= min(truth) <= high
            _, low, high = intervals.max_min(groups)
            covered[place + 1] += low <= max(truth) - min(truth) <= high
    assert (covered / 300 >= 0.93).all(), covered / 300


def sums_of(truth, score, code, number):
    parts = classification.components(truth, score, 0.5)
    return np.stack([np.bincount(code, p, number) for p in parts.T], 1), parts.sum(0)


def test_bootstrap_equals_an_explicit_resampling(rng):
    subject, truth, score = np.arange(80) // 2, rng.random(80) < 0.5, rng.random(80)
    code, number = codes(subject)
    sums, total = sums_of(truth, score, code, number)
    found = intervals.bootstrap(
        "brier", total, intervals.resample(sums, 4000, 0), n=80, n_subjects=40, events=int(truth.sum())
    )
    by_patient = [np.flatnonzero(subject == s) for s in range(40)]
    draws = []
    for _ in range(4000):
        pick = np.concatenate([by_patient[i] for i in rng.integers(0, 40, 40)])
        draws.append(((score[pick] - truth[pick]) ** 2).mean())
    assert found.value == pytest.approx(((score - truth) ** 2).mean())
    assert found.limits(0.95) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.006)
    assert found.b_valid == 4000


def test_resamples_in_parts_are_resamples_in_one(monkeypatch):
    sums = np.arange(12.0).reshape(6, 2)
    whole = intervals.resample(sums, 50, 3)
    assert whole.shape == (50, 2) and np.array_equal(whole, intervals.resample(sums, 50, 3))
    assert not np.array_equal(whole, intervals.resample(sums, 50, 4))


def test_undefined_resamples_are_counted():
    truth, score = np.array([1, 0, 0, 0], bool), np.array([0.2, 0.1, 0.1, 0.1])
    code, number = codes(range(4))
    sums, total = sums_of(truth, score, code, number)
    found = intervals.bootstrap("f1", total, intervals.resample(sums, 1000, 0), n=4, n_subjects=4, events=1)
    assert 0 < found.b_valid < 1000  # a resample without the only positive has no F1
    assert f"{1000 - found.b_valid} of 1000" in found.reason
    assert np.isnan(found.limits(0.95)).all()


@pytest.mark.parametrize("name", ["worst_group:sensitivity:sex", "max_min:fpr", "range", "equity_scaled_auc"])
def test_extremes_are_refused_by_the_bootstrap(name):
    with pytest.raises(ValueError, match=r"worst_group or intervals\.max_min"):
        intervals.bootstrap(name, np.zeros(6), np.zeros((10, 6)), n=1, n_subjects=1, events=1)
    with pytest.raises(ValueError, match="ranks"):
        intervals.bootstrap("auroc", np.zeros(6), np.zeros((10, 6)), n=1, n_subjects=1, events=1)


def test_codes_ignore_row_order():
    code, number = codes(["b", "a", "b", "c"])
    again, _ = codes(["c", "b", "a", "b"])
    assert number == 3 and code.tolist() == [again[1], again[2], again[1], again[0]]
