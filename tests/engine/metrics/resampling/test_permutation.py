import dataclasses

import numpy as np
import pytest
from scipy import special, stats

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import comparisons, intervals, multiplicity
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.formulas.metric import per_image
from equipoise.engine.metrics.resampling import permutation
from equipoise.engine.metrics.resampling.permutation import Units
from tests import oracles

LEVELS = 4
PAIRS = [((1,), (0,)), ((2,), (0,)), ((3,), (0, 1, 2)), ((0,), (1, 2, 3))]
CLOSED = ("sensitivity", "ppv", "accuracy", "auroc")


def make_columns(truth, score):
    columns = {"truth": truth, "score": 1 / (1 + np.exp(-score)), "called": score > 0.7}
    return columns | registry.components(columns)


@pytest.fixture(scope="module")
def sample():
    """(columns, code, level): tied scores, and a fifth of the images at another level than the rest of their patient's."""
    rng = np.random.default_rng(3)
    _, score, truth, code, level = oracles.simulated_patients(rng, 200, [0.85] * LEVELS, [0.4, 0.3, 0.2, 0.1])
    level = np.where(rng.random(len(level)) < 0.2, rng.integers(0, LEVELS, len(level)), level)
    return make_columns(truth, np.round(score, 1)), code, level


def alone(rng, sizes, shift=0.0):
    """One image per patient."""
    level = np.repeat(np.arange(len(sizes)), sizes)
    truth = rng.random(len(level)) < 0.5
    return (
        make_columns(truth, rng.normal(size=len(level)) * (1 + level) + truth + shift * level),
        np.arange(len(level)),
        level,
    )


def normal_score(t, se, freedom):
    """Of a t with Welch's degrees of freedom."""
    welch = (se[0] ** 2 + se[1] ** 2) ** 2 / (se[0] ** 4 / freedom[0] + se[1] ** 4 / freedom[1])
    return np.sign(t) * stats.norm.isf(stats.t.sf(abs(t), welch))


def slow_statistic(metric, columns, code, level, pair):
    """Normal score of difference / SE of two estimates of the library; AUROCs on the logit scale."""

    def estimate(side):
        rows = np.isin(level, side)
        own = {name: column[rows] for name, column in columns.items()}
        if metric == "auroc":
            return intervals.area(own["truth"], own["score"], code[rows])
        success = per_image(registry.get(metric), own)
        counted = np.isfinite(success)
        return intervals.proportion(success[counted] > 0, code[rows][counted])

    estimates, freedom = [], []
    for side in pair:
        one, rows = estimate(side), np.isin(level, side)
        freedom.append(one.n_subjects - 1)
        if metric == "auroc":
            truth = columns["truth"]
            freedom[-1] = min(len(np.unique(code[rows & kind])) for kind in (truth, ~truth)) - 1
            slope = one.value * (1 - one.value)
            one = dataclasses.replace(one, value=np.log(one.value / (1 - one.value)), se=one.se / slope)
        estimates.append(one)
    t = (estimates[0].value - estimates[1].value) / comparisons.standard_error(*estimates)
    return normal_score(t, [e.se for e in estimates], freedom)


def test_statistics_are_those_of_the_estimates_in_every_permutation(sample):
    columns, code, level = sample
    found = permutation.permute(columns, CLOSED, code, level, PAIRS, permutations=4, seed=5)
    units = Units(code, level)
    assert units.alone < units.patients < len(units.level)
    each = np.concatenate([found.observed[:, None], found.permuted], axis=1).T
    for statistics, levels in zip(each, [level, *units.deal(0, 4, 5)[units.row].T], strict=True):
        slow = [slow_statistic(m, columns, code, levels, pair) for m in CLOSED for pair in PAIRS]
        assert statistics == pytest.approx(slow, rel=1e-9)


def test_a_mean_of_patients_gives_the_statistics_of_welch_and_of_pairs(rng):
    columns, code, level = alone(rng, (40, 25))
    error = columns["squared_error"]
    found = permutation.permute(columns, ["brier"], code, level, [((1,), (0,))], permutations=1)
    peer = stats.ttest_ind(error[40:], error[:40], equal_var=False)
    assert found.observed[0] == pytest.approx(np.sign(peer.statistic) * stats.norm.isf(peer.pvalue / 2))
    columns, _, level = alone(rng, (40, 40))
    error = columns["squared_error"]
    found = permutation.permute(
        columns, ["brier"], np.tile(np.arange(40), 2), level, [((1,), (0,))], permutations=1
    )
    # Each SE and the correlation are estimated with I / (I - 1), so that this is exact too.
    t, se = stats.ttest_rel(error[40:], error[:40]).statistic, [error[40:].std(), error[:40].std()]
    assert found.observed[0] == pytest.approx(normal_score(t, se, [39, 39]))


def test_p_equals_scipy(rng):
    columns, code, level = alone(rng, (30, 20), shift=0.5)
    error = columns["squared_error"]
    found = permutation.permute(columns, ["brier"], code, level, [((1,), (0,))], permutations=2000)
    welch = lambda x, y, axis: -stats.ttest_ind(x, y, axis=axis, equal_var=False).pvalue  # noqa: E731
    peer = stats.permutation_test(
        (error[30:], error[:30]), welch, n_resamples=2000, alternative="greater", vectorized=True, rng=1
    )
    p = multiplicity.reached(abs(found.observed), abs(found.permuted))[0]
    assert 0.01 < p < 0.9 and p == pytest.approx(peer.pvalue, abs=4 * np.sqrt(p * (1 - p) * 2 / 2000))


def test_a_patient_in_several_groups_keeps_all_sets_of_images():
    code = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 4, 5])
    level = np.array([0, 0, 1, 0, 0, 1, 2, 0, 1, 2, 2])
    units = Units(code, level)
    dealt = units.deal(0, 200, 0)[units.row]
    assert (dealt[0] == dealt[1]).all() and (dealt[3] == dealt[4]).all()  # images of a unit never part
    assert (np.sort(dealt[[0, 2]], axis=0).T == [0, 1]).all()
    assert (np.sort(dealt[[6, 7, 8]], axis=0).T == [0, 1, 2]).all()
    assert (np.sort(dealt[[3, 5, 9, 10]], axis=0).T == [0, 1, 2, 2]).all()  # the others exchange theirs
    assert len(np.unique(dealt, axis=1).T) > 60  # of 2 · 6 · 12
    assert 0.35 < (dealt[0] == 0).mean() < 0.65


def test_copies_of_images_within_patients_change_nothing(sample):
    rng = np.random.default_rng(0)
    for metrics, (columns, code, level) in (
        (("auroc", "f1"), sample),
        (CLOSED, alone(rng, (80, 60, 60, 50))),
    ):
        once = permutation.permute(columns, metrics, code, level, PAIRS, permutations=50)
        thrice = {name: np.tile(column, 3) for name, column in columns.items()}
        again = permutation.permute(
            thrice, metrics, np.tile(code, 3), np.tile(level, 3), PAIRS, permutations=50
        )
        assert again.observed == pytest.approx(once.observed)
        assert again.permuted == pytest.approx(once.permuted)


def test_more_permutations_go_on_where_fewer_end(sample):
    columns, code, level = sample
    few, many = (
        permutation.permute(columns, ["auroc", "fpr"], code, level, PAIRS, permutations=n, seed=1)
        for n in (20, 200)
    )
    assert (many.permuted[:, :20] == few.permuted).all()
    other = permutation.permute(columns, ["auroc", "fpr"], code, level, PAIRS, permutations=20, seed=2)
    assert (other.permuted != few.permuted).any() and (other.observed == few.observed).all()


def test_rows_of_unknown_group_take_no_part(sample):
    columns, code, level = sample
    hidden = np.where(level == 3, -1, level)
    kept = level != 3
    own = {name: column[kept] for name, column in columns.items()}
    for_two = [permutation.permute(*x, PAIRS[:2], permutations=30) for x in
               ((columns, ["npv"], code, hidden), (own, ["npv"], code[kept], level[kept]))]  # fmt: skip
    assert (for_two[0].permuted == for_two[1].permuted).all()


def test_the_jackknife_has_the_size_of_the_closed_form(rng):
    """For want of a formula some scores leave groups of patients out; of an AUROC both SEs are known."""
    truth, code = rng.random(600) < 0.4, np.repeat(np.arange(300), 2)
    columns, units = (
        make_columns(truth, truth + rng.normal(size=600)),
        Units(code, np.repeat(np.arange(300) % 2, 2)),
    )
    inside = units.deal(0, 64, 0) == 0
    closed = permutation._area(columns, units)(inside)
    left_out = permutation._by_jackknife(registry.get("auroc"), columns, units, code, (), None)(inside)
    assert left_out.value == pytest.approx(special.expit(closed.value))
    share = left_out.se / closed.se / (left_out.value * (1 - left_out.value))
    assert share.mean() == pytest.approx(1, abs=0.06)
    assert share.std() < 0.25  # of 20 groups: 1 / √38


def test_scores_without_a_formula(rng):
    truth = rng.random(240) < 0.4
    columns = make_columns(truth, truth + rng.normal(size=240))
    level = np.repeat([0, 1], 120)
    found = permutation.permute(columns, ["auprc"], np.arange(240), level, [((1,), (0,))], permutations=100)
    values = [registry.compute("auprc", {k: v[level == g] for k, v in columns.items()}) for g in (1, 0)]
    assert np.sign(found.observed[0]) == np.sign(values[0] - values[1])
    assert found.permuted.std() == pytest.approx(1, abs=0.2)


def test_a_group_without_the_images_is_nan_and_its_permutations_are_not_counted(rng):
    columns, code, level = alone(rng, (60, 4))
    columns = make_columns(np.arange(64) % 8 == 0, rng.normal(size=64))
    found = permutation.permute(columns, ["sensitivity"], code, level, [((1,), (0,))], permutations=300)
    missing = np.isnan(found.permuted).mean()
    assert missing == pytest.approx(stats.hypergeom(64, 8, 4).pmf(0), abs=0.08)  # no positive among the four


def test_scores_moved_by_chance_are_refused(sample):
    with pytest.raises(UserError, match="no bootstrap interval for 'ece'"):
        permutation.permute(sample[0], ["ece"], *sample[1:], PAIRS, permutations=10)


@pytest.mark.slow
def test_level_at_unequal_prevalence(rng):
    """Equal AUROCs at prevalence .5 and .1: the raw difference rejects far too often, the studentised one does not."""
    rejected, tried = np.zeros(2), 0
    level = np.repeat([0, 1], [400, 150])
    units = Units(np.arange(550), level)
    for _ in range(2000):
        truth = rng.random(550) < np.where(level == 0, 0.5, 0.1)
        columns = make_columns(truth, 1.2 * truth + rng.normal(size=550))
        found = permutation.permute(
            columns, ["auroc"], np.arange(550), level, [((1,), (0,))], permutations=199
        )
        area = permutation._area(columns, units)
        dealt = np.concatenate([units.level[:, None], units.deal(0, 199, 0)], axis=1)
        raw = np.abs(np.subtract(*(special.expit(area(dealt == g).value) for g in (1, 0))))
        tried += 1
        rejected += (
            multiplicity.reached(abs(found.observed), abs(found.permuted))[0] <= 0.05,
            multiplicity.reached(raw[:1], raw[None, 1:])[0] <= 0.05,
        )
    print("studentised, raw:", rejected / tried)
    assert rejected[0] / tried <= 0.06 and rejected[1] / tried > 0.12


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["sensitivity", "f1", "auroc"])
def test_level_within_patients_and_small_groups(rng, metric):
    """Six groups down to 4 %, one to four images that lean together: every group against the rest, max-T and Holm together."""
    rejected = np.zeros(2)
    pairs = [((g,), tuple(k for k in range(6) if k != g)) for g in range(6)]
    for _ in range(1000):
        called, score, truth, code, level = oracles.simulated_patients(rng, 500, [0.85] * 6)
        columns = make_columns(truth, score) | {"called": called | (~truth & (score > 1))}
        columns |= registry.components(columns)
        found = permutation.permute(columns, [metric], code, level, pairs, permutations=199)
        each = multiplicity.reached(abs(found.observed), abs(found.permuted))
        rejected += (
            np.nanmin(multiplicity.max_t(found.observed, found.permuted)) <= 0.05,
            np.nanmin(multiplicity.holm(each)) <= 0.05,
        )
    print("max-T, Holm:", rejected / 1000)
    assert (rejected / 1000 <= 0.065).all()
