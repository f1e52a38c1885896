import numpy as np
import pytest
from statsmodels.stats.power import NormalIndPower

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.decisions import planning
from equipoise.engine.metrics.decisions.planning import Design
from equipoise.engine.metrics.estimates import comparisons, intervals


def test_textbook_sample_size():
    # Chow, Shao and Wang, 4.2: cure rates of 65 % and 85 %, alpha 5 %, power 80 %: 70 patients each.
    assert planning.patients(0.2, Design(0.85)) == planning.Plan(70, 70)


@pytest.mark.parametrize(("rate", "gap", "power"), [(0.85, 0.05, 0.8), (0.6, -0.1, 0.9), (0.9, 0.3, 0.8)])
def test_equals_statsmodels(rate, gap, power):
    other = rate - gap
    effect = abs(gap) / np.sqrt((rate * (1 - rate) + other * (1 - other)) / 2)
    n = NormalIndPower().solve_power(effect, alpha=0.05, power=power, ratio=1)
    assert Design(rate, power=power).needed(gap) == pytest.approx(n, rel=1e-3)


def test_images_of_one_patient():
    alone = Design(0.85).needed(0.1)
    assert Design(0.85, images=4).needed(0.1) == pytest.approx(alone / 4)  # independent images
    assert Design(0.85, images=4, icc=1).needed(0.1) == pytest.approx(alone)  # copies
    assert Design(0.85, prevalence=0.2, images=3, icc=0.5).needed(0.1) == pytest.approx(alone * 2 / 3 / 0.2)
    many = planning.patients(0.1, Design(0.85, ratio=4))
    assert many.reference == pytest.approx(4 * many.group, abs=4) and many.group < alone


@pytest.mark.parametrize("design", [Design(0.85), Design(0.97, 0.3, 3, 0.4, 2.0), Design(0.5, power=0.95)])
def test_smallest_gap_is_the_inverse(design):
    for gap in (0.02, 0.1, 0.3):
        assert planning.smallest_gap(design.needed(gap), design) == pytest.approx(gap)
    assert np.isnan(planning.smallest_gap(0.01, design))


def test_agrees_with_the_detectable_gap_of_a_study():
    n, rate = 400, 0.8
    estimate = intervals.proportion(np.arange(n) < n * rate, np.arange(n))
    other = intervals.proportion(np.arange(n) < n * rate, np.arange(n, 2 * n))
    assert planning.smallest_gap(n, Design(rate)) == pytest.approx(
        comparisons.detectable(estimate, other), rel=0.12
    )


@pytest.mark.parametrize(
    "settings",
    [{"rate": 1.2}, {"rate": 0.8, "icc": 2}, {"rate": 0.8, "images": 0}, {"rate": 0.8, "prevalence": 0}],
)
def test_impossible_designs_are_refused(settings):
    with pytest.raises(UserError, match=list(settings)[-1]):
        Design(**settings)


def test_impossible_gaps_are_refused():
    for gap in (0.9, 0.0, -0.3):
        with pytest.raises(UserError, match="gap="):
            planning.patients(gap, Design(0.8))


@pytest.mark.slow
def test_simulated_power_is_four_in_five(rng):
    """Diseased patients with three images whose calls have ICC 0.4: each image takes the patient's call with chance √0.4."""
    gap, design = 0.1, Design(0.85, prevalence=0.5, images=3, icc=0.4)
    plan, num_found = planning.patients(gap, design), 0

    def sensitivity(patients, rate, first):
        who = np.repeat(first + np.flatnonzero(rng.random(patients) < design.prevalence), 3)
        own = (rng.random(first + patients) < rate)[who]
        calls = np.where(rng.random(len(who)) < np.sqrt(design.icc), own, rng.random(len(who)) < rate)
        return intervals.proportion(calls, who)

    for _ in range(3000):
        pair = sensitivity(plan.reference, 0.85, 0), sensitivity(plan.group, 0.75, plan.reference)
        _, low, high = comparisons.difference(*pair)
        num_found += low > 0 or high < 0
    assert num_found / 3000 == pytest.approx(0.8, abs=0.03)
