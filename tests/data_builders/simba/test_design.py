"""Who is diseased, who carries which bias, and in which split: shares, balance, and what must share every draw."""

import collections

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from equipoise.data_builders.simba.builder import Simba
from equipoise.data_builders.simba.design import FRACTIONS, design_subjects


def design(base="near_4mm", **options):
    return design_subjects(Simba.configure(base, **options))


@pytest.mark.parametrize(("subjects", "seed"), [(2000, 0), (2000, 7), (400, 0)])
def test_every_split_has_the_shares_of_the_design(subjects, seed):
    drawn = design(subjects=subjects, seed=seed)
    counts = collections.Counter((s.split, s.has_disease, s.groups["bias"]) for s in drawn)
    for split, share in FRACTIONS.items():
        for disease in (True, False):
            for bias in (True, False):
                expected = subjects * share * 0.5 * (0.7 if disease == bias else 0.3)
                assert abs(counts[split, disease, bias] - expected) <= 2


@pytest.mark.parametrize("variability", ["independent", "shared_scalar"])
def test_two_biases_are_independent_and_each_has_its_share(variability):
    """Four groups of 29, 21, 21 and 29 %, of them 84.5, 50, 50 and 15.5 % diseased, in every split; nobody is discarded."""
    drawn = design("multi_4mm", subjects=4303, variability=variability)
    assert len(drawn) == 4303
    published = {
        (True, True): (0.29, 0.845),
        (True, False): (0.21, 0.5),
        (False, True): (0.21, 0.5),
        (False, False): (0.29, 0.155),
    }
    for split in FRACTIONS:
        members = [s for s in drawn if s.split == split]
        for (first, second), (share, prevalence) in published.items():
            group = [s for s in members if s.groups == {"bias": first, "intensity_bias": second}]
            assert len(group) / len(members) == pytest.approx(share, abs=0.01)
            assert np.mean([s.has_disease for s in group]) == pytest.approx(prevalence, abs=0.015)


def test_shares_of_the_second_bias_are_its_own():
    drawn = design("multi_4mm", intensity_in_disease=0.9, intensity_in_healthy=0.2)
    for disease, share in ((True, 0.9), (False, 0.2)):
        for first in (True, False):
            cell = [
                s.groups["intensity_bias"]
                for s in drawn
                if (s.has_disease, s.groups["bias"]) == (disease, first)
            ]
            assert np.mean(cell) == pytest.approx(share, abs=0.015)


def test_scores_are_balanced_between_groups_and_splits():
    drawn = design()
    for disease, mean in ((True, 1.0), (False, -1.0)):
        scores = [s.disease_score for s in drawn if s.has_disease == disease]
        assert np.mean(scores) == pytest.approx(mean, abs=0.1)
        assert np.std(scores) == pytest.approx(1.0, abs=0.1)
        for attribute in ("bias", "intensity_bias"):
            cells = collections.defaultdict(list)
            for s in drawn:
                if s.has_disease == disease:
                    cells[s.split, s.groups[attribute]].append(s.disease_score)
            assert len(cells) == 6
            for values in cells.values():
                assert np.mean(values) == pytest.approx(np.mean(scores), abs=0.12)
    assert np.mean([s.bias_score for s in drawn]) == pytest.approx(2.0, abs=0.1)


def test_a_shared_scalar_is_balanced_as_well_and_stays_within_its_limits():
    drawn = design(variability="shared_scalar")
    scores = np.array([s.subject_score for s in drawn])
    assert np.abs(scores).max() < 3.5
    assert stats.kstest(scores, stats.truncnorm(-3.5, 3.5).cdf).pvalue > 0.01
    unbalanced = design()
    spread = {}
    for name, subjects in (("balanced", drawn), ("not", unbalanced)):
        cells = collections.defaultdict(list)
        for s in subjects:
            cells[s.split, s.has_disease, s.groups["bias"]].append(s.subject_score)
        spread[name] = np.std([np.mean(values) for values in cells.values()])
    assert spread["balanced"] < 0.06
    assert spread["balanced"] < spread["not"]


def test_the_oracle_that_sees_the_score_reaches_the_closed_form():
    """d is normal with mean ±1 and SD 1: AUROC Φ(√2) = 0.921, accuracy at 0 Φ(1) = 0.841."""
    drawn = design(subjects=40_000)
    score, disease = np.array([(s.disease_score, s.has_disease) for s in drawn]).T
    assert metrics.roc_auc_score(disease, score) == pytest.approx(stats.norm.cdf(np.sqrt(2)), abs=0.004)
    assert np.mean((score >= 0) == disease) == pytest.approx(stats.norm.cdf(1), abs=0.006)


def test_the_oracle_that_also_sees_both_biases_opens_the_gap_of_its_log_odds():
    """With two independent 70/30 biases the threshold of each group is half its log odds; see the oracle of one bias."""
    drawn = design("multi_4mm", subjects=40_000)
    both = [s for s in drawn if s.groups["bias"] and s.groups["intensity_bias"]]
    cut = -0.5 * np.log(0.49 / 0.09)
    sensitivity = np.mean([s.disease_score >= cut for s in both if s.has_disease])
    assert sensitivity == pytest.approx(stats.norm.cdf(1 - cut), abs=0.01)


def test_draws_depend_on_seed_and_shares_alone():
    reference = design()
    for base, options in (
        ("none_1mm", {}),
        ("far_2mm", {"disease_mm": 9, "contrast": 2.0, "local_model": "mode"}),
        ("intensity_4mm", {"bias_region": "left hippocampus"}),
        ("multi_4mm_counterfactual", {"flip": "all"}),
    ):
        assert design(base, **options) == reference
    assert design(seed=1) != reference
