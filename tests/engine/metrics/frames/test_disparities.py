import numpy as np
import pytest

from equipoise.engine.metrics.formulas import fairness
from equipoise.engine.metrics.frames import disparities, frame, ranking
from equipoise.engine.metrics.table.table import Schema, Table, validate
from tests.engine.metrics.formulas.test_fairness import METRICS as RATES
from tests.engine.metrics.formulas.test_fairness import table as rows_table
from tests.engine.metrics.frames.test_frame import CELLS, METRICS, table


@pytest.fixture(scope="module")
def found():
    return frame.evaluate(table(CELLS), metrics=METRICS, resamples=200)


def test_range_null_reads_zero_for_equal_groups():
    equal = {(s, t, c): 40 for s in "FM" for t in (0, 1) for c in (0, 1)}
    gap = frame.evaluate(table(equal), metrics=METRICS, resamples=1000).disparities["sex"][
        "max_min:sensitivity"
    ]
    assert gap.value == 0 and gap.low == 0 and gap.p == pytest.approx(1, abs=0.05)
    se = (2 * 0.25 / 80) ** 0.5  # of the difference, which is normal; the range is its absolute value
    assert gap.null_high == pytest.approx(1.96 * se, abs=0.02)
    assert gap.null_mean == pytest.approx((2 / np.pi) ** 0.5 * se, abs=0.005)


def test_summaries_by_hand(found):
    gaps = found.disparities["sex"]
    assert gaps["ratio:sensitivity:M/F"].value == pytest.approx(0.9 / 0.75)
    assert gaps["ratio:sensitivity:M/F"].low > 1 and gaps["ratio:sensitivity:M/F"].high < 1.6
    assert gaps["max_over_min:fpr"].value == pytest.approx(3)
    assert gaps["sd:sensitivity"].value == pytest.approx(0.075)
    assert gaps["to_overall:accuracy:F"].value == pytest.approx(75 / 90 - 159 / 193)
    assert gaps["max_over_min:fpr"].low == pytest.approx(gaps["ratio:fpr:M/F"].low)  # one pair alone
    assert gaps["sd:sensitivity"].high == pytest.approx(gaps["max_min:sensitivity"].high / 2)


def test_the_group_is_part_of_everyone(found):
    """The interval of a group's distance to everyone knows that the group is among them."""
    group, overall = found.groups["sex"]["F"]["accuracy"], found.overall["accuracy"]
    gap = found.disparities["sex"]["to_overall:accuracy:F"]
    apart = np.hypot(group.se, overall.se) * 2 * 1.96
    assert gap.high - gap.low < 0.8 * apart


def test_the_worst_of_an_ideal_value_is_the_farthest_from_it():
    schema = Schema("regression", "age", (), None, {"site": ["A", "B", "C"]})
    rows = table(CELLS).frame.iloc[:90].drop(columns="sex").assign(site=np.repeat(["A", "B", "C"], 30))
    error = np.repeat([0.5, -4.0, 1.5], 30) + np.tile([-0.1, 0.0, 0.1], 30)
    rows = rows.assign(target=np.arange(90.0), score=np.arange(90) + error)
    whole = Table(validate(rows, schema, "t"), schema)
    worst = frame.evaluate(whole, metrics=("bias",), resamples=200).disparities["site"]["worst_group:bias"]
    assert worst.value == pytest.approx(-4) and worst.levels == ("B",) and worst.low < -4 < worst.high
    assert ranking.select_value(whole.frame, "worst_group:bias:site", schema)[0] == pytest.approx(-4)


def test_conditional_scores_are_weighted_means_over_strata(rng):
    truth, score = rng.random(600) < 0.4, rng.random(600)
    schema = Schema("classification", "d", ("n", "y"), "y", {"group": ["a", "b"], "site": ["x", "y"]})
    site = np.where(np.arange(600) < 200, "x", "y")
    whole = rows_table(truth, score, rng.choice(["a", "b"], 600), schema, site=site)
    found = frame.evaluate(
        whole, groups=("group",), control=("site",), metrics=RATES, resamples=50
    ).disparities["group|site"]
    for name in (
        "demographic_parity_difference",
        "equal_opportunity_difference",
        "equity_scaled_sd:accuracy",
    ):
        parts = [found[f"{name}:{stratum}"].value for stratum in "xy"]
        gap = found[f"conditional_{name}"]
        assert (
            gap.value == pytest.approx((200 * parts[0] + 400 * parts[1]) / 600)
            and gap.low <= gap.value <= gap.high
        )
        alone = frame.evaluate(
            Table(whole.frame[whole.frame["site"] == "y"], schema),
            groups=("group",),
            metrics=RATES,
            resamples=50,
        ).disparities["group"]
        assert parts[1] == pytest.approx(alone[name].value)


def test_xauc_pair_by_pair(rng):
    truth, score, group = rng.random(60) < 0.5, rng.random(60).round(1), rng.choice(["a", "b"], 60)
    rows = {level: np.flatnonzero(group == level) for level in "ab"}
    first, second = fairness.xauc(truth, score, np.arange(60), rows["b"], rows["a"])

    def across(up, down):
        pairs = [(score[i], score[j]) for i in rows[up] if truth[i] for j in rows[down] if not truth[j]]
        return np.mean([(p > q) + 0.5 * (p == q) for p, q in pairs])

    assert (first.value, second.value) == pytest.approx((across("b", "a"), across("a", "b")))
    found = disparities.xauc("auroc", rows, "a", {"truth": truth, "score": score}, np.arange(60))[
        "xauc_disparity:auroc:b-a"
    ]
    assert found.value == pytest.approx(across("b", "a") - across("a", "b"))
    assert found.low < found.value < found.high and 0 < found.p <= 1


def test_xauc_of_a_group_without_positives_is_undefined():
    truth = np.array([1, 0, 0, 0], bool)
    found = disparities.xauc(
        "auroc",
        {"a": np.array([0, 1]), "b": np.array([2, 3])},
        "a",
        {"truth": truth, "score": np.arange(4) / 4},
        np.arange(4),
    )["xauc_disparity:auroc:b-a"]
    assert np.isnan(found.value) and "class" in found.reason


def test_equal_groups_read_what_chance_gives():
    """Eighty patients in each of three groups: the range of three means, of SD s each, is 1.693 s on average (Tippett 1925)."""
    truth, group = np.ones(240, bool), np.repeat(["a", "b", "c"], 80)
    called = np.tile(np.arange(80) < 60, 3)
    found = frame.evaluate(
        rows_table(truth, np.where(called, 0.9, 0.1), group), metrics=RATES, resamples=4000
    ).disparities["group"]
    s = (0.75 * 0.25 / 79) ** 0.5
    for name in ("max_min:sensitivity", "equal_opportunity_difference"):
        assert found[name].value == 0
        assert found[name].null_mean == pytest.approx(1.693 * s, rel=0.03)
        assert found[name].null_high == pytest.approx(
            3.31 * s, rel=0.03
        )  # the studentised range of three, 5 %
    worst = found["worst_group:sensitivity"]
    assert worst.null_mean == pytest.approx(0.75 - 0.846 * s, rel=0.01)  # least of three
    assert worst.null_low < worst.null_mean < worst.null_high < 0.75 + s
    ratio = found["equal_opportunity_ratio"]
    assert ratio.null_low < ratio.null_mean < ratio.null_high < 1
    scaled = found["equity_scaled_sum:accuracy"]
    assert scaled.value == 0.75 and scaled.null_low < scaled.null_mean < 0.72
    assert np.isnan(found["difference:sensitivity:b-a"].null_mean)
    assert np.isnan(found["treatment_equality_difference"].null_mean)
