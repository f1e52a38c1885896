import dataclasses

import numpy as np
import pytest
from scipy import stats

from equipoise.tasks.simba import theory
from tests import oracles
from tests.tasks.simba import ideal
from tests.tasks.simba.ideal import WITH, WITHOUT

METRICS = ("sensitivity", "fpr")
# gamma, alpha: TPR with, TPR without, difference, FPR with, FPR without, difference, accuracy.
TABLE = [
    (0.6, 0.4, 0.885, 0.787, 0.098, 0.213, 0.115, 0.098, 0.846),
    (0.7, 0.3, 0.923, 0.718, 0.205, 0.282, 0.077, 0.205, 0.861),
    (0.8, 0.2, 0.955, 0.621, 0.334, 0.379, 0.045, 0.334, 0.888),
    (0.9, 0.1, 0.982, 0.461, 0.521, 0.539, 0.018, 0.521, 0.930),
]


def one(gamma, alpha, *settings, **named):
    return theory.expect({"bias": (gamma, alpha)}, *settings, **named)


@pytest.mark.parametrize("row", TABLE)
def test_a_perfect_shortcut_user_equals_the_reference_numbers(row):
    gamma, alpha, *expected = row
    found = one(gamma, alpha)
    values = []
    for metric in METRICS:
        values += [
            found.rate(metric, "bias", WITH),
            found.rate(metric, "bias", WITHOUT),
            found.gap(metric, "bias"),
        ]
    assert [round(v, 3) for v in (*values, found.accuracy)] == expected


def within_error(frame, expected, counts):
    """Fails unless rates, gaps and accuracy of a metric frame lie within 4 standard errors of an expectation.

    counts: (attribute, level, metric) -> images.
    """

    def near(value, wanted, variance):
        assert abs(value - wanted) < 4 * np.sqrt(variance), (value, wanted)

    for a in expected.attributes:
        for metric in METRICS:
            variance = {}
            for level in (WITH, WITHOUT):
                rate = expected.rate(metric, a, level)
                variance[level] = rate * (1 - rate) / counts[a, level, metric]
                near(frame.groups[a][level][metric].value, rate, variance[level])
            gap = frame.disparities[a][f"difference:{metric}:{WITH}-{WITHOUT}"]
            near(gap.value, expected.gap(metric, a), sum(variance.values()))
    estimate = frame.overall["accuracy"]
    near(estimate.value, expected.accuracy, expected.accuracy * (1 - expected.accuracy) / estimate.n)


def counted(subjects, attributes):
    is_class = {"sensitivity": subjects["target"] == 1, "fpr": subjects["target"] == 0}
    return {
        (a, level, metric): int((rows & (subjects[a] == level)).sum())
        for a in attributes
        for level in (WITH, WITHOUT)
        for metric, rows in is_class.items()
    }


def exchanged(expected):
    """The same rates with the groups' names exchanged, and so every gap's sign."""
    turn = {WITH: WITHOUT, WITHOUT: WITH}
    rates = {m: {tuple(turn[v] for v in g): r for g, r in of.items()} for m, of in expected.rates.items()}
    shares = {m: {tuple(turn[v] for v in g): r for g, r in of.items()} for m, of in expected.shares.items()}
    return dataclasses.replace(expected, rates=rates, shares=shares)


@pytest.mark.parametrize(("gamma", "alpha"), [row[:2] for row in TABLE])
def test_an_ideal_classifier_put_through_the_metrics_reproduces_the_limit(gamma, alpha, rng):
    shares = {"bias": (gamma, alpha)}
    subjects = oracles.biased_subjects(rng, 40_000, shares)
    counts = counted(subjects, shares)
    user = ideal.scored(ideal.table(subjects, shares, ["bias"]), ["bias"])
    blind = ideal.scored(ideal.table(subjects, shares, []), ["bias"])
    expected = one(gamma, alpha)
    within_error(user, expected, counts)
    within_error(blind, one(gamma, alpha, uses=()), counts)
    # The check can fail: groups or gaps the wrong way round, the other user's rates, another design's, other images.
    turned = subjects.assign(bias=subjects["bias"].map({WITH: WITHOUT, WITHOUT: WITH}))
    mistaken = ideal.table(subjects, shares, ["bias"]).frame.assign(bias=turned["bias"])
    other = dataclasses.replace(ideal.table(subjects, shares, ["bias"]), frame=mistaken)
    for frame, wanted in [
        (user, exchanged(expected)),
        (ideal.scored(other, ["bias"]), expected),
        (user, one(gamma, alpha, uses=())),
        (blind, expected),
        (user, one(gamma + 0.05, alpha - 0.05)),
    ]:
        with pytest.raises(AssertionError):
            within_error(frame, wanted, counts)
    only_sign = dataclasses.replace(user, disparities={"bias": {
        name: dataclasses.replace(gap, value=-gap.value) for name, gap in user.disparities["bias"].items() if name.startswith("difference")
    }})  # fmt: skip
    with pytest.raises(AssertionError):
        within_error(only_sign, expected, counts)


@pytest.mark.parametrize("prevalence", [0.5, 0.2])
@pytest.mark.parametrize("uses", [("bias", "intensity_bias"), ("bias",), ("intensity_bias",), ()])
@pytest.mark.parametrize("flipped", [(), ("intensity_bias",)])
def test_two_biases_equal_a_simulation(uses, prevalence, flipped, rng):
    subjects = oracles.biased_subjects(rng, 400_000, ideal.SHARES, prevalence)
    rendered = subjects.assign(**{a: subjects[a].map({WITH: WITHOUT, WITHOUT: WITH}) for a in flipped})
    called = oracles.disease_posterior(rendered, ideal.SHARES, prevalence, uses) >= 0.5
    found = theory.expect(ideal.SHARES, prevalence, uses, flipped)
    assert found.accuracy == pytest.approx((called == subjects["target"]).mean(), abs=0.003)
    for metric, sick in (("sensitivity", 1), ("fpr", 0)):
        of_class = subjects["target"] == sick
        for a in ideal.SHARES:
            levels = [called[of_class & (rendered[a] == level)].mean() for level in (WITH, WITHOUT)]
            assert [found.rate(metric, a, WITH), found.rate(metric, a, WITHOUT)] == pytest.approx(
                levels, abs=0.01
            )
            assert found.gap(metric, a) == pytest.approx(levels[0] - levels[1], abs=0.01)
        for group in ideal.every_group(2):
            rows = of_class & (rendered[list(ideal.SHARES)] == list(group)).all(axis=1)
            assert found.rates[metric][group] == pytest.approx(called[rows].mean(), abs=0.015)
            assert found.shares[metric][group] == pytest.approx(rows.sum() / of_class.sum(), abs=0.005)


def test_two_biases_by_hand():
    """At 0.7/0.3 each, log odds of both are 2 ln(7/3), of one 0: Φ(1 + ln(7/3)), Φ(1), Φ(1 − ln(7/3))."""
    found = theory.expect({"a": (0.7, 0.3), "b": (0.7, 0.3)})
    step = np.log(7 / 3)
    assert found.rates["sensitivity"] == pytest.approx(
        {g: stats.norm.cdf(1 + step * (g.count(WITH) - 1)) for g in ideal.every_group(2)}
    )
    with_a = 0.7 * stats.norm.cdf(1 + step) + 0.3 * stats.norm.cdf(1)
    without = 0.7 * stats.norm.cdf(1) + 0.3 * stats.norm.cdf(1 - step)
    assert found.gap("sensitivity", "a") == found.gap("sensitivity", "b") == pytest.approx(with_a - without)
    alone = theory.expect({"a": (0.7, 0.3), "b": (0.7, 0.3)}, uses=["a"])
    assert alone.gap("fpr", "a") == pytest.approx(one(0.7, 0.3).gap("fpr", "bias"))
    assert alone.gap("fpr", "b") == pytest.approx(0, abs=1e-12)


def test_without_the_shortcut_everyone_is_treated_alike():
    found = one(0.7, 0.3, uses=())
    assert set(found.rates["sensitivity"].values()) == {stats.norm.cdf(1)}
    assert set(found.rates["fpr"].values()) == {stats.norm.cdf(-1)}
    assert found.accuracy == pytest.approx(0.8413, abs=1e-4)
    assert found.gap("sensitivity", "bias") == found.gap("fpr", "bias") == 0


def test_an_uninformative_bias_is_no_shortcut():
    a, b = one(0.4, 0.4, 0.3), one(0.4, 0.4, 0.3, uses=())
    assert a.rates["sensitivity"] == pytest.approx(b.rates["sensitivity"]) and a.accuracy == pytest.approx(
        b.accuracy
    )


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_impossible_shares_are_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        one(share, 0.3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        one(0.5, 0.3, share)
    with pytest.raises(ValueError, match="no shares of contrast"):
        one(0.5, 0.3, uses=["contrast"])


def test_the_section_of_two_biases_sets_every_user_beside_the_measured():
    tables = ideal.rendered(3000, ("intensity_bias",))
    found = theory.section(ideal.context(tables))
    margins, joint = found.tables
    users = ("perfect user of both", "user of morphology alone", "user of intensity alone", "no shortcut")
    assert margins.header[2:] == joint.header[2:] == users
    row = ideal.cells(margins)["ΔFPR: with − without intensity bias"]
    of_intensity = theory.expect({"bias": (0.8, 0.25)}).gap("fpr", "bias")
    assert row[2] == "0.000" and row[3] == f"{of_intensity:+.3f}" and abs(float(row[0]) - of_intensity) < 0.1
    predictions = tables[()].frame
    group = predictions[(predictions["bias"] == WITH) & (predictions["intensity_bias"] == WITHOUT)]
    rate = (group["score"] >= 0.5)[group["target"] == 1].mean()
    assert ideal.cells(joint)["TPR, morphology only"][0] == f"{rate:.3f}"
    assert "80 % of the diseased and 25 % of the healthy (the cohort's design)" in found.text[0]


def test_the_flipped_cohort_is_expected_by_its_own_images():
    """Accuracy of the user of both falls below that of nobody's shortcut where both biases mislead."""
    tables = ideal.rendered(3000, ("bias", "intensity_bias"))
    flips = ("bias", "intensity_bias")
    for design in (ideal.DESIGN, {}):
        found = ideal.cells(theory.section(ideal.context(tables, flips, design)).tables[0])
        row = found["accuracy, everyone"]
        assert float(row[1]) < float(row[4]) and abs(float(row[0]) - float(row[1])) < 0.03
        row = found["ΔTPR: with − without intensity bias"]
        assert float(row[1]) > 0.1 and abs(float(row[0]) - float(row[1])) < 0.1


def test_a_bias_that_is_not_grouped_is_left_out_and_none_has_only_its_blind_user():
    tables = ideal.rendered(400, ())
    found = theory.section(ideal.context(tables, groups=["intensity_bias"]))
    assert all("intensity" in name or name == "accuracy, everyone" for name in ideal.cells(found.tables[0]))
    assert "no gap to compare" in theory.section(ideal.context(tables, groups=[])).text[0]
    none = theory.section(ideal.context(tables, design=ideal.DESIGN | {"scenario": "none"}))
    assert none.tables[0].header[2:] == ("no shortcut",) and "nothing of it is rendered" in none.text[0]
