import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from equipoise.engine.metrics.estimates import multiplicity


def test_holm_by_hand():
    # .01 x 3, then max(.03, .02 x 2), then max(.04, .5 x 1).
    assert multiplicity.holm([0.5, 0.01, float("nan"), 0.02]) == pytest.approx(
        [0.5, 0.03, np.nan, 0.04], nan_ok=True
    )
    assert multiplicity.holm([]) == [] == multiplicity.benjamini_hochberg([])


def test_benjamini_hochberg_by_hand():
    # .04 x 3/3, then min(.04, .03 x 3/2), then min(.04, .01 x 3/1).
    adjusted = multiplicity.benjamini_hochberg([0.03, float("nan"), 0.04, 0.01])
    assert adjusted == pytest.approx([0.04, np.nan, 0.04, 0.03], nan_ok=True)


@pytest.mark.parametrize(("ours", "peer"), [("holm", "holm"), ("benjamini_hochberg", "fdr_bh")])
def test_corrections_equal_statsmodels(rng, ours, peer):
    for size in (1, 2, 7, 40):
        p = np.round(rng.random(size) ** 3, 2)  # ties among them
        assert getattr(multiplicity, ours)(p) == pytest.approx(multipletests(p, method=peer)[1])


def max_t(observed, permuted, step_down):
    """Westfall and Young's algorithm, permutation by permutation."""
    order, adjusted, before = np.argsort(-abs(observed)), np.empty(len(observed)), 0.0
    for place, k in enumerate(order):
        rivals = order[place:] if step_down else order
        hits = sum(max(abs(draw[j]) for j in rivals) >= abs(observed[k]) for draw in permuted.T)
        before = adjusted[k] = max(before, (1 + hits) / (1 + permuted.shape[1]))
    return adjusted


@pytest.mark.parametrize("step_down", [True, False])
def test_max_t_equals_its_slow_twin(rng, step_down):
    shared = rng.normal(size=200)
    permuted = np.stack([shared + 0.5 * rng.normal(size=200) for _ in range(5)])
    observed = np.array([0.3, -2.5, 1.9, 1.2, -0.1])
    adjusted = multiplicity.max_t(observed, permuted, step_down=step_down)
    assert adjusted == pytest.approx(max_t(observed, permuted, step_down))
    with_nan = multiplicity.max_t(
        np.append(observed, np.nan), np.vstack([permuted, permuted[0]]), step_down=step_down
    )
    assert with_nan == pytest.approx([*adjusted, np.nan], nan_ok=True)


def test_max_t_of_equal_statistics_costs_nothing(rng):
    draws = np.abs(rng.normal(size=999))
    adjusted = multiplicity.max_t(np.full(4, 2.1), np.stack([draws] * 4))
    assert adjusted == pytest.approx([(1 + (draws >= 2.1).sum()) / 1000] * 4)


def test_permutations_without_a_value_are_not_counted():
    permuted = np.array([[1.0, np.nan, 3.0, 2.0, np.nan]])
    assert multiplicity.reached(np.array([2.0]), permuted).tolist() == [(1 + 2) / (1 + 3)]
    assert np.isnan(multiplicity.reached(np.array([np.nan]), permuted)).all()
