import math

import numpy as np
import pytest
from scipy import stats

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.decisions import acceptance
from equipoise.engine.metrics.decisions.acceptance import equivalence, every, minimum_rate, non_inferiority
from equipoise.engine.metrics.estimates import comparisons, intervals, percentiles
from equipoise.engine.metrics.frames import frame
from tests.engine.metrics.frames.test_frame import CELLS, METRICS, SCHEMA, table


def share(k, n, first=0):
    return intervals.proportion(np.arange(n) < k, np.arange(first, first + n))


def test_equivalence_by_hand():
    # Large n, where every interval is value ± z SE: 850/1000 against 840/1000.
    a, b = share(850, 1000), share(840, 1000, 1000)
    claim = equivalence(a, b, 0.05)
    se = np.sqrt(0.85 * 0.15 / 1000 + 0.84 * 0.16 / 1000)
    assert (claim.low, claim.high) == pytest.approx((0.01 - 1.645 * se, 0.01 + 1.645 * se), abs=3e-4)
    assert claim.p == pytest.approx(stats.norm.sf((0.05 - 0.01) / se), rel=0.1)  # the nearer margin decides
    assert claim.shown and "differ by 0.05 or more" in claim.null and claim.alpha == 0.05
    assert not equivalence(a, b, 0.03).shown


def test_a_verdict_and_its_p_agree(rng):
    seen = set()
    for _ in range(60):
        a, b = share(int(rng.integers(60, 99)), 100), share(int(rng.integers(50, 119)), 120, 100)
        for one in (
            equivalence(a, b, 0.15),
            non_inferiority(a, b, 0.1),
            non_inferiority(a, b, 0.1, higher_is_better=False),
            minimum_rate(a, 0.75),
            minimum_rate(a, 0.9, higher_is_better=False),
        ):
            assert one.shown == (one.p < one.alpha), one
            seen.add((one.test, one.shown))
    assert len(seen) == 6


def test_non_inferiority_is_one_limit():
    a, b = share(80, 100), share(84, 100, 100)
    _, low, high = comparisons.difference(a, b)
    assert non_inferiority(a, b, -low + 1e-6).shown and not non_inferiority(a, b, -low - 1e-6).shown
    assert non_inferiority(a, b, -low).p == pytest.approx(0.025, abs=1e-6)
    assert non_inferiority(a, b, high + 1e-6, higher_is_better=False).shown
    assert not non_inferiority(a, b, high - 1e-6, higher_is_better=False).shown


def test_minimum_rate_is_the_limit_of_the_rate():
    a = share(90, 100)
    low, high = intervals.wilson_limits(0.9, 100)
    assert minimum_rate(a, low - 1e-6).shown and not minimum_rate(a, low + 1e-6).shown
    assert minimum_rate(a, high + 1e-6, higher_is_better=False).shown
    claim = minimum_rate(a, 0.8)
    assert (claim.low, claim.high) == pytest.approx((low, high)) and claim.comparator == "0.8"
    z = (0.9 - 0.8) / np.sqrt(0.8 * 0.2 / 100)  # Wilson's interval inverts the score test
    assert claim.p == pytest.approx(stats.norm.sf(z), rel=1e-4)
    assert minimum_rate(a, 0.8, alpha=0.001).shown is False


def test_a_bootstrapped_score(rng):
    a, b = (percentiles.bootstrap(v, v + 0.01 * rng.normal(size=4000), 90, 90, 40) for v in (0.20, 0.21))
    claim = non_inferiority(a, b, 0.03, higher_is_better=False)
    assert claim.shown and claim.p == pytest.approx(stats.norm.sf(0.04 / np.hypot(0.01, 0.01)), abs=0.004)
    assert equivalence(a, intervals.constant(0.2), 0.04).shown


def test_undefined_is_not_shown():
    nothing, some = intervals.undefined("no image is truly positive"), share(90, 100)
    for one in (
        equivalence(nothing, some, 0.9),
        non_inferiority(some, nothing, 0.9),
        minimum_rate(nothing, 0.0),
    ):
        assert not one.shown and math.isnan(one.p) and one.reason == "no image is truly positive"
    together = every({"a": minimum_rate(some, 0.5, level="a"), "b": minimum_rate(nothing, 0.5, level="b")})
    assert not together.shown and together.reason == "not shown in b" and math.isnan(together.p)
    assert not every({}).shown


def test_every_group_is_the_largest_p():
    claims = {
        k: minimum_rate(share(n, 100), 0.7, level=k, metric="sensitivity")
        for k, n in (("a", 85), ("b", 95), ("c", 81))
    }
    together = every(claims)
    assert (
        together.shown and together.p == claims["c"].p and together.value == 0.81 and together.reason is None
    )
    assert together.claim == "sensitivity in every group is above 0.7"
    assert every(claims | {"d": minimum_rate(share(70, 100), 0.7, level="d")}).reason == "not shown in d"


@pytest.fixture(scope="module")
def scores():
    return frame.evaluate(table(CELLS), metrics=METRICS, resamples=200)


def test_groups_of_a_frame(scores):
    groups = scores.groups["sex"]
    fixed = acceptance.groups_reach(scores, "sex", "sensitivity", 0.58)
    assert list(fixed) == ["F", "M"]  # nobody of unknown group
    assert (
        [v.shown for v in fixed.values()]
        == [True, True]
        == [groups[g]["sensitivity"].limits(0.95)[0] > 0.58 for g in "FM"]
    )
    fpr = acceptance.groups_reach(scores, "sex", "fpr", 0.25)  # less is better
    assert fpr["F"].shown and not fpr["M"].shown and fpr["F"].claim == "fpr in F is below 0.25"
    men = acceptance.groups_non_inferior(scores, "sex", "fpr", 0.1)
    assert list(men) == ["M"] and men["M"].comparator == "reference F" and not men["M"].shown
    rest = acceptance.groups_non_inferior(scores, "sex", "sensitivity", 0.05, "rest")
    assert (
        rest["M"].value == pytest.approx(0.15) == -rest["F"].value and rest["M"].comparator == "everyone else"
    )
    assert rest["M"].shown and not rest["F"].shown and not every(rest).shown
    near = acceptance.groups_equivalent(scores, "sex", "auroc", 0.3, 0.8)
    assert near["F"].value == pytest.approx(groups["F"]["auroc"].value - 0.8) and near["F"].margin == 0.3


def test_a_level_without_images_is_not_shown():
    schema = type(SCHEMA)(
        **{**SCHEMA.__dict__, "attributes": {"sex": ["F", "M", "X", "unknown"], "age": None}}
    )
    scores = frame.evaluate(table(CELLS, schema), metrics=("sensitivity",), resamples=50)
    for verdicts in (
        acceptance.groups_reach(scores, "sex", "sensitivity", 0.1),
        acceptance.groups_non_inferior(scores, "sex", "sensitivity", 0.9),
        acceptance.groups_non_inferior(scores, "sex", "sensitivity", 0.9, "rest"),
        acceptance.groups_equivalent(scores, "sex", "sensitivity", 0.9),
    ):
        assert not verdicts["X"].shown and verdicts["M"].shown and every(verdicts).reason == "not shown in X"


def test_wrong_questions_are_refused(scores):
    for call, message in (
        (lambda: acceptance.groups_reach(scores, "race", "fpr", 0.1), "no attribute 'race'"),
        (lambda: acceptance.groups_reach(scores, "sex", "mcc", 0.1), "no metric 'mcc'"),
        (lambda: acceptance.groups_reach(scores, "sex", "calibration_slope", 0.9), "best at 1"),
        (lambda: acceptance.groups_equivalent(scores, "sex", "fpr", 0.1, "men"), "comparator 'men'"),
        (lambda: equivalence(share(1, 2), share(1, 2), -0.1), "margin=-0.1"),
        (lambda: minimum_rate(share(1, 2), 0.1, alpha=0.6), "alpha=0.6"),
    ):
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.slow
def test_levels_at_the_margin(rng):
    """Groups exactly at the margin, two images per patient: no claim is made more often than it may be, of all groups together too."""
    made, number = np.zeros(4), 3000
    for _ in range(number):
        cells = []
        for group, rate in enumerate((0.8, 0.9, 0.85)):
            own = rng.random(200) < rate
            calls = np.where(rng.random(400) < 0.5, np.repeat(own, 2), rng.random(400) < rate)
            cells.append(intervals.proportion(calls, np.repeat(np.arange(200), 2) + 200 * group))
        made += (
            minimum_rate(cells[0], 0.8).shown,
            non_inferiority(cells[0], cells[1], 0.1).shown,
            equivalence(cells[0], cells[1], 0.1).shown,
            every({str(i): minimum_rate(c, 0.8, level=str(i)) for i, c in enumerate(cells)}).shown,
        )
    print("rate, non-inferiority, equivalence, every:", made / number)
    assert (made[[0, 1, 3]] / number <= 0.025 + 0.01).all() and made[2] / number <= 0.05 + 0.012
