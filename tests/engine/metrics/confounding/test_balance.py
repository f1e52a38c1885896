import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.confounding import balance
from equipoise.engine.metrics.confounding.balance import Confounders, Matching, Standardization, Weighting

# Two strata: group 1 of 4 in "a" and 3 of 4 in "b"; reference 2 of 3 in "a" and 1 of 3 in "b".
MEMBER = np.array([1, 1, 1, 1, 0, 0, 0], bool)
LEVELS = Confounders({}, {"view": (np.array([0, 1, 1, 1, 0, 0, 1]), ("a", "b"))})
ONES = np.ones((7, 1))
BY_HAND = {
    "reference": ([2, 1 / 3, 1 / 3, 1 / 3], [1, 1, 1]),
    "group": ([1, 1, 1, 1], [1 / 2, 1 / 2, 3]),
    "pooled": ([3, 4 / 3, 4 / 3, 4 / 3], [3 / 2, 3 / 2, 4]),
}


def test_confounders_print_their_names_and_no_value():
    assert repr(Confounders({"age": np.ones(9)}, LEVELS.levels)) == "Confounders(numbers: age; levels: view)"


@pytest.mark.parametrize("method", [Standardization(), Weighting()], ids=["standardised", "propensity"])
@pytest.mark.parametrize("target", BY_HAND)
def test_weights_by_hand(method, target):
    weights, overlap = method.prepare(LEVELS, MEMBER, target, 0)(ONES, [0])
    assert weights[:, 0] == pytest.approx([*BY_HAND[target][0], *BY_HAND[target][1]], rel=1e-6)
    assert overlap == pytest.approx([1])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(balance.TARGETS))
def test_a_saturated_propensity_is_standardisation(seed, target):
    rng = np.random.default_rng(seed)
    code, member = rng.integers(0, 3, 120), rng.random(120) < 0.4
    counts = rng.integers(0, 4, (120, 3)).astype(float)
    levels = Confounders({}, {"site": (code, ("a", "b", "c"))})
    first, shared = Standardization().prepare(levels, member, target, 0)(counts, [0, 1, 2])
    second, within = Weighting().prepare(levels, member, target, 0)(counts, [0, 1, 2])
    np.testing.assert_allclose(first, second, rtol=1e-5)
    assert (shared == 1).all() and (within == 1).all()


def test_propensity_weights_are_those_of_a_peers_regression(rng):
    age, site = rng.normal(60, 10, 500), rng.integers(0, 3, 500)
    member = rng.random(500) < 1 / (1 + np.exp(-(age - 60) / 15))
    made = Confounders({"age": age}, {"site": (site, ("a", "b", "c"))})
    weights, _ = Weighting(powers=1).prepare(made, member, "reference", 0)(np.ones((500, 1)), [0])
    design = sm.add_constant(np.column_stack([age, site == 1, site == 2]).astype(float))
    chance = sm.GLM(member.astype(float), design, sm.families.Binomial()).fit(tol=1e-12).predict()
    kept = weights[:, 0] > 0
    assert kept.mean() > 0.95  # the rest are outside the other group's range
    expected = np.where(member, (1 - chance) / chance, 1)
    assert weights[kept, 0] == pytest.approx(expected[kept], rel=1e-5)


def test_a_stratum_without_a_counterpart_leaves_the_target():
    levels = Confounders({}, {"view": (np.array([0, 0, 1, 0, 0, 2]), ("a", "b", "c"))})
    member = np.array([1, 1, 1, 0, 0, 0], bool)
    for method in (Standardization(), Weighting()):
        weights, overlap = method.prepare(levels, member, "reference", 0)(np.ones((6, 1)), [0])
        assert weights[:, 0] == pytest.approx([1, 1, 0, 1, 1, 0], abs=1e-6)
        assert overlap == pytest.approx([2 / 3])


def test_bins_are_of_both_groups_and_edges_open_the_bin_above():
    made = Confounders({"age": np.array([10.0, 20, 30, 40])}, {})
    assert made.cells({"age": (20, 40)}).tolist() == [0, 1, 1, 2]
    assert balance.quantile_edges(np.arange(10.0), 5).tolist() == pytest.approx([1.8, 3.6, 5.4, 7.2])
    assert balance.quantile_edges(np.ones(10), 5).tolist() == [1]
    with pytest.raises(UserError, match="'age'"):
        Standardization({"weight": (1,)}).prepare(made, np.array([1, 1, 0, 0], bool), "group", 0)


def greedy(line, member, reach):
    """All pairs, closest first."""
    pairs = sorted(
        (abs(line[i] - line[j]), i, j)
        for i, j in itertools.product(np.flatnonzero(member), np.flatnonzero(~member))
    )
    used, taken = set(), []
    for gap, i, j in pairs:
        if gap <= reach and not {i, j} & used:
            used |= {i, j}
            taken.append((i, j))
    return sorted(taken)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10_000), st.floats(0.001, 0.5))
def test_pairs_are_those_of_looking_at_all_pairs(seed, reach):
    rng = np.random.default_rng(seed)
    line, member = np.sort(rng.random(40)), rng.random(40) < 0.4
    pairs = balance.closest_pairs(line, member, reach, rng.permutation(40))
    assert sorted((i, j) if member[i] else (j, i) for i, j in pairs.tolist()) == greedy(line, member, reach)


def test_matching_is_exact_in_levels_within_the_caliper_and_without_replacement(rng):
    n = 400
    age, view, member = rng.integers(40, 80, n).astype(float), rng.integers(0, 2, n), rng.random(n) < 0.3
    made = Confounders({"age": age}, {"view": (view, ("a", "b"))})
    counts = rng.integers(0, 3, (n, 2)).astype(float)
    kept, overlap = Matching("age", 3.0).prepare(made, member, "group", 5)(counts, [0, 1])
    assert (kept <= counts).all()
    for lane in range(2):
        for level in range(2):
            inside = kept[:, lane] * (view == level)
            assert inside[member].sum() == inside[~member].sum() > 0
            one, other = (
                np.repeat(np.sort(age[s]), inside[s][np.argsort(age[s])].astype(int))
                for s in (member, ~member)
            )
            assert abs(one - other).max() <= 3  # pairing in order never needs a wider caliper
        assert overlap[lane] == kept[member, lane].sum() / counts[member, lane].sum() > 0.9
    again, _ = Matching("age", 3.0).prepare(made, member, "group", 5)(counts[:, 1:], [1])
    assert (again[:, 0] == kept[:, 1]).all()  # of the seed and the replicate alone
    exact, _ = Matching().prepare(Confounders({}, made.levels), member, "group", 5)(counts, [0, 1])
    assert exact[member].sum() == exact[~member].sum() == counts[member].sum()


def test_matching_on_the_propensity_balances(rng):
    age, tall = rng.normal(60, 10, 2000), rng.normal(170, 10, 2000)
    member = rng.random(2000) < 0.6 / (1 + np.exp(-(age - 66) / 12 - (tall - 170) / 20))
    made = Confounders({"age": age, "height": tall}, {})
    kept, _ = Matching("propensity").prepare(made, member, "group", 0)(np.ones((2000, 1)), [0])
    after = balance.standardized_differences(made, member, kept[:, 0])
    assert all(abs(before) > 0.2 and abs(left) < 0.05 for before, left in after.values())


def test_standardised_differences_by_hand():
    made = Confounders({"age": np.array([50.0, 60, 40, 60])}, {"view": (np.array([0, 0, 0, 1]), ("a", "b"))})
    member = np.array([1, 1, 0, 0], bool)
    differences = balance.standardized_differences(made, member, np.array([1.0, 3, 0, 1]))
    unit = np.sqrt((25 + 100) / 2)
    assert differences["age"] == pytest.approx((5 / unit, -2.5 / unit))
    assert differences["view=b"] == pytest.approx((-0.5 / np.sqrt(0.125), -1 / np.sqrt(0.125)))


@pytest.mark.parametrize(
    ("method", "target", "said"),
    [
        (Matching("age"), "pooled", "cannot take the pooled target"),
        (Matching(), "group", "'age' is a number"),
        (Matching("height"), "group", "'age' is a number"),
        (Matching("age", -1), "group", "must be a distance"),
    ],
)
def test_what_matching_cannot_do(method, target, said):
    made = Confounders({"age": np.arange(4.0)}, {})
    with pytest.raises(UserError, match=said):
        method.prepare(made, np.array([1, 0, 1, 0], bool), target, 0)
