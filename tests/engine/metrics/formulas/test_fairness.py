import fairlearn.metrics as peer
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import comparisons, intervals
from equipoise.engine.metrics.formulas import fairness, registry
from equipoise.engine.metrics.frames import frame
from equipoise.engine.metrics.resampling import bootstrap as resample
from equipoise.engine.metrics.table.table import Schema, Table, validate

# Level -> (TP, FN, FP, TN), and what follows from it by hand.
CELLS = {"a": (30, 10, 12, 48), "b": (16, 4, 4, 76), "c": (9, 21, 7, 63)}
TPR = {"a": 30 / 40, "b": 16 / 20, "c": 9 / 30}
FPR = {"a": 12 / 60, "b": 4 / 80, "c": 7 / 70}
CALLED = {"a": 42 / 100, "b": 20 / 100, "c": 16 / 100}
PPV = {"a": 30 / 42, "b": 16 / 20, "c": 9 / 16}
ACCURACY = {"a": 78 / 100, "b": 92 / 100, "c": 72 / 100}
WRONG = {"a": 10 / 12, "b": 4 / 4, "c": 21 / 7}
METRICS = ("selection_rate", "sensitivity", "fpr", "ppv", "accuracy")
SCHEMA = Schema("classification", "disease", ("absent", "present"), "present", {"group": ["a", "b", "c"]})


def rows_of(cells):
    """(truth, called, group) of every image."""
    kinds = ((1, 1), (1, 0), (0, 1), (0, 0))
    rows = [
        (*kind, level)
        for level, counts in cells.items()
        for kind, n in zip(kinds, counts, strict=True)
        for _ in range(n)
    ]
    truth, called, group = zip(*rows, strict=True)
    return np.array(truth, bool), np.array(called, bool), np.array(group)


def table(truth, score, group, schema=SCHEMA, **more):
    n = len(truth)
    found = pd.DataFrame({
        "scan_id": [f"s{i}" for i in range(n)], "subject_id": [f"p{i}" for i in range(n)], "cohort": "x", "split": "test",
        "target": np.asarray(truth, int), "score": score, "threshold": 0.5, "threshold_split": "validation", "checkpoint_step": 1,
        "checkpoint_fingerprint": "f", "config_fingerprint": "g", "group": group, **more,
    })  # fmt: skip
    return Table(validate(found, schema, "t"), schema)


@pytest.fixture(scope="module")
def hand():
    truth, called, group = rows_of(CELLS)
    return frame.evaluate(
        table(truth, np.where(called, 0.9, 0.1), group), metrics=METRICS, resamples=200
    ).disparities["group"]


def values_of(truth, called, group, score=None):
    """(level -> metric -> value, metric -> value of everyone, level -> images), each from the rows alone."""
    columns = {
        "truth": truth,
        "called": called,
        "score": np.where(called, 0.9, 0.1) if score is None else score,
    }
    needed = ("selection_rate", "sensitivity", "fpr", "ppv", "accuracy", "auroc")
    one = lambda rows: {m: registry.compute(m, {k: v[rows] for k, v in columns.items()}) for m in needed}  # noqa: E731
    levels = sorted(set(group))
    return (
        {g: one(group == g) for g in levels},
        one(slice(None)),
        {g: int((group == g).sum()) for g in levels},
    )


def spread(values):
    return max(values.values()) - min(values.values())


def quotient(values):
    return min(values.values()) / max(values.values())


EXPECTED = {
    "demographic_parity_difference": spread(CALLED),
    "demographic_parity_ratio": quotient(CALLED),
    "equal_opportunity_difference": spread(TPR),
    "equal_opportunity_ratio": quotient(TPR),
    "predictive_equality_difference": spread(FPR),
    "predictive_equality_ratio": quotient(FPR),
    "equalized_odds_difference_max": max(spread(TPR), spread(FPR)),
    "equalized_odds_difference_mean": (spread(TPR) + spread(FPR)) / 2,
    "equalized_odds_ratio": min(quotient(TPR), quotient(FPR)),
    "predictive_parity_difference": spread(PPV),
    "accuracy_equality_difference": spread(ACCURACY),
    "treatment_equality_difference": spread(WRONG),
    "equity_scaled_sum:accuracy": (242 / 300) / (1 + sum(abs(242 / 300 - v) for v in ACCURACY.values())),
    "equity_scaled_sd:accuracy": (242 / 300) / (1 + np.std(list(ACCURACY.values()))),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_two_by_two_by_three_by_hand(hand, name):
    assert hand[name].value == pytest.approx(EXPECTED[name], abs=1e-12)
    if not name.startswith("treatment"):
        assert hand[name].low <= hand[name].value <= hand[name].high


def test_equal_opportunity_is_of_the_positives_and_predictive_equality_of_the_negatives(hand):
    assert fairness.SCORES["equal_opportunity_difference"].needs == ("sensitivity",)
    assert hand["equal_opportunity_difference"].value == pytest.approx(0.8 - 0.3)
    assert fairness.SCORES["predictive_equality_difference"].needs == ("fpr",)
    assert hand["predictive_equality_difference"].value == pytest.approx(0.2 - 0.05)


def test_every_score_says_all_of_itself():
    assert len({score.title for score in fairness.SCORES.values()}) == len(fairness.SCORES)
    for name, score in fairness.SCORES.items():
        assert (
            score.name == name
            and score.title
            and score.formula
            and score.construction
            and score.ideal in (0, 1)
        )
        assert any(character.isdigit() for character in score.reference)
        assert all(task in registry.get(metric).tasks for metric in score.needs for task in score.tasks)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("abcd")), min_size=8, max_size=60))
@settings(deadline=None, max_examples=60)
def test_fairlearn_agrees(rows):
    truth, called, group = (np.array(x) for x in zip(*rows, strict=True))
    groups, overall, n = values_of(truth, called, group)
    ours = lambda name: fairness.SCORES[name].compute(groups, overall, n)  # noqa: E731
    theirs = lambda f, **more: f(truth, called, sensitive_features=group, **more)  # noqa: E731
    assert ours("demographic_parity_difference") == pytest.approx(theirs(peer.demographic_parity_difference))
    if called.any():
        assert ours("demographic_parity_ratio") == pytest.approx(theirs(peer.demographic_parity_ratio))
    # fairlearn calls a rate without a denominator 0; ours does not exist, and the frame says so.
    if any(np.isnan(found[m]) for found in groups.values() for m in ("sensitivity", "fpr")):
        return
    assert ours("equal_opportunity_difference") == pytest.approx(theirs(peer.equal_opportunity_difference))
    assert ours("equalized_odds_difference_max") == pytest.approx(theirs(peer.equalized_odds_difference))
    assert ours("equalized_odds_difference_mean") == pytest.approx(
        theirs(peer.equalized_odds_difference, agg="mean")
    )
    if (
        max(found["fpr"] for found in groups.values()) > 0
        and max(found["sensitivity"] for found in groups.values()) > 0
    ):
        assert ours("equal_opportunity_ratio") == pytest.approx(theirs(peer.equal_opportunity_ratio))
        assert ours("equalized_odds_ratio") == pytest.approx(theirs(peer.equalized_odds_ratio))


def test_an_undefined_group_is_named_and_no_value_is_made_up():
    cells = CELLS | {"c": (0, 0, 7, 63)}
    truth, called, group = rows_of(cells)
    found = frame.evaluate(
        table(truth, np.where(called, 0.9, 0.1), group), metrics=METRICS, resamples=50
    ).disparities["group"]
    gap = found["equal_opportunity_difference"]
    assert np.isnan([gap.value, gap.low, gap.high]).all() and gap.reason == "sensitivity is undefined in c"
    assert np.isnan(found["equalized_odds_ratio"].value) and "in c" in found["equalized_odds_ratio"].reason
    assert found["demographic_parity_difference"].value > 0


def test_a_ratio_without_a_call_is_undefined():
    truth, called, group = rows_of({"a": (0, 10, 0, 30), "b": (0, 20, 0, 30)})
    schema = Schema("classification", "disease", ("absent", "present"), "present", {"group": ["a", "b"]})
    found = frame.evaluate(
        table(truth, np.where(called, 0.9, 0.1), group, schema), metrics=METRICS, resamples=50
    ).disparities["group"]
    for name in ("demographic_parity_ratio", "treatment_equality_difference"):
        assert np.isnan(found[name].value) and "denominator" in found[name].reason
    assert found["demographic_parity_difference"].value == 0
    # Without a call the benefit of a group is 1 - prevalence: .75 and .6, and 2/3 of all.
    expected = (40 * ((0.75 / (2 / 3)) ** 2 - 1) + 50 * ((0.6 / (2 / 3)) ** 2 - 1)) / 90 / 2
    assert found["generalized_entropy_between_groups"].value == pytest.approx(expected)


def test_people_of_unknown_group_are_left_out():
    schema = Schema(
        "classification", "disease", ("absent", "present"), "present", {"group": ["a", "b", "unknown"]}
    )
    truth, called, group = rows_of({"a": CELLS["a"], "b": CELLS["b"], "unknown": (0, 40, 50, 0)})
    found = frame.evaluate(
        table(truth, np.where(called, 0.9, 0.1), group, schema), metrics=METRICS, resamples=50
    ).disparities["group"]
    assert found["equal_opportunity_difference"].value == pytest.approx(0.8 - 0.75)
    assert found["accuracy_equality_difference"].value == pytest.approx(0.92 - 0.78)


# ---- equity-scaled scores ----


def test_equity_scaled_both_forms_by_hand():
    groups = {"a": {"auroc": 0.9}, "b": {"auroc": 0.8}, "c": {"auroc": 0.7}}
    for name, expected in (
        ("equity_scaled_sum:auroc", 0.82 / (1 + 0.08 + 0.02 + 0.12)),
        ("equity_scaled_sd:auroc", 0.82 / (1 + (2 * 0.01 / 3) ** 0.5)),
    ):
        assert fairness.get(name).compute(groups, {"auroc": 0.82}, {}) == pytest.approx(expected)


def test_only_scores_within_0_and_1_of_which_more_is_better_are_equity_scaled():
    assert fairness.get("equity_scaled_sum:f1").needs == ("f1",)
    for name in ("equity_scaled_sum:brier", "equity_scaled_sd:mcc", "equity_scaled_sum:mean"):
        with pytest.raises(UserError, match=r"within \[0, 1\]"):
            fairness.get(name)
    with pytest.raises(UserError, match="Did you mean 'equal_opportunity_difference'"):
        fairness.get("equal_oportunity_difference")


def test_dice_is_equity_scaled_and_a_distance_is_not(rng):
    n = 60
    names = ("dice_cup", "hd95_cup")
    schema = Schema(
        "values", "cup", (), None, {"group": ["a", "b"]}, names, {name: (name,) for name in names}
    )
    group = np.repeat(["a", "b"], n // 2)
    rows = table(np.zeros(n), 0.0, group, SCHEMA).frame.drop(columns=["target", "score"])
    rows = rows.assign(dice_cup=0.6 + 0.3 * rng.random(n), hd95_cup=5 + (group == "b") * 4 + rng.random(n))
    found = frame.evaluate_models(Table(validate(rows, schema, "t"), schema), resamples=100)
    dice, means = found["dice_cup"].disparities["group"], rows.groupby("group")["dice_cup"].mean()
    whole = rows["dice_cup"].mean()
    assert dice["equity_scaled_sum:mean"].value == pytest.approx(whole / (1 + abs(means - whole).sum()))
    assert dice["equity_scaled_sd:mean"].value == pytest.approx(whole / (1 + means.std(ddof=0)))
    sample = dice["equity_scaled_sample_sd:mean"]
    assert sample.value == pytest.approx(whole / (1 + means.std(ddof=1)))
    assert sample.low < dice["equity_scaled_sd:mean"].low < sample.value < sample.high
    far = found["hd95_cup"].disparities["group"]
    assert not any(name.startswith("equity") for name in far)
    assert far["worst_group:mean"].levels == ("b",)  # the largest distance


def test_a_shift_between_groups_is_warned_of(rng):
    truth, group = rng.random(600) < 0.4, np.repeat(["a", "b", "c"], 200)
    score = 1 / (1 + np.exp(-(2 * truth + rng.normal(size=600))))
    shifted = np.clip(score * 0.3 + 0.33 * (group == "b") + 0.66 * (group == "c"), 0, 1)
    plain, moved = (
        frame.evaluate(table(truth, s, group), metrics=("auroc",), resamples=50) for s in (score, shifted)
    )
    for name in ("equity_scaled_sum:auroc", "equity_scaled_sd:auroc"):
        before, after = plain.disparities["group"][name], moved.disparities["group"][name]
        assert (
            before.reason is None
            and "shifted between groups" in after.reason
            and after.value < before.value - 0.1
        )
    for level in "abc":
        assert moved.groups["group"][level]["auroc"].value == pytest.approx(
            plain.groups["group"][level]["auroc"].value
        )


# ---- intervals of extremes ----


def proportions(counts):
    return [
        intervals.proportion(np.arange(n) < k, np.arange(n) + 1000 * i) for i, (k, n) in enumerate(counts)
    ]


def test_limits_of_two_groups_are_those_of_the_pair():
    a, b = proportions([(40, 50), (45, 90)])
    value, low, high = comparisons.min_over_max([a, b])
    _, below, above = comparisons.ratio(b, a)
    assert (value, low, high) == pytest.approx((0.5 / 0.8, below, above))
    spread, narrow, wide = comparisons.max_min([a, b])
    assert comparisons.sd([a, b]) == pytest.approx((spread / 2, narrow / 2, wide / 2))


def test_a_group_of_zero_has_a_ratio_of_zero():
    value, low, high = comparisons.min_over_max(proportions([(0, 50), (45, 90), (30, 90)]))
    assert value == low == 0 and 0 < high < 0.5
    assert np.isnan(comparisons.min_over_max(proportions([(0, 50), (0, 90)]))).all()


@pytest.mark.parametrize("name", ["equity_scaled_sum", "equity_scaled_sd"])
def test_equity_scaled_limits_hold_whatever_lies_within_the_parts(name, rng):
    """No value of the parts within their limits leaves the interval, and its ends are nearly reached."""
    groups, overall = proportions([(40, 50), (60, 90), (80, 120)]), proportions([(180, 260)])[0]
    _, low, high = getattr(comparisons, name)(overall, groups)
    each = 1 - 0.05 / 4 if name.endswith("sum") else 0.95
    ends = np.array([e.limits(each) for e in (overall, *groups)])
    draws = ends[:, :1] + rng.random((4, 20000)) ** rng.choice([0.1, 1, 10], (4, 20000)) * np.diff(
        ends, axis=1
    )
    form = fairness._scaled_by_sum if name.endswith("sum") else fairness._scaled_by_sd
    found = np.array([form(m, list(parts)) for m, *parts in draws.T])
    if name.endswith("sum"):
        assert low <= found.min() < low + 0.03 and high - 0.03 < found.max() <= high
    else:
        assert low < np.quantile(found, 0.01) and high > np.quantile(found, 0.99)


def test_intervals_of_extremes_cover(rng):
    """Equal groups, one of 4 % of the patients: where a bootstrap covers 0 to 30 %, these cover at least 93 %."""
    names = ("equal_opportunity_ratio", "equalized_odds_difference_max", "equalized_odds_difference_mean", "equity_scaled_sum:accuracy",
             "equity_scaled_sd:accuracy")  # fmt: skip
    truths = dict(zip(names, (1, 0, 0, 0.85, 0.85), strict=True))
    covered = dict.fromkeys(names, 0)
    for _ in range(100):
        group = rng.choice(4, 500, p=[0.5, 0.3, 0.16, 0.04])
        truth, right = rng.random(500) < 0.4, rng.random(500) < 0.85
        called, code = truth == right, np.arange(500)
        cells = {}
        for g in (None, *range(4)):
            rows = np.ones(500, bool) if g is None else group == g
            positive, negative = rows & truth, rows & ~truth
            parts = {"accuracy": (right, rows), "sensitivity": (called, positive), "fpr": (called, negative)}
            cells[g] = {m: intervals.proportion(x[inside], code[inside]) for m, (x, inside) in parts.items()}
        overall = cells.pop(None)
        for name in names:
            low, high = fairness.get(name).limits(cells, overall, 0.95)
            covered[name] += low - 1e-9 <= truths[name] <= high + 1e-9
    assert min(covered.values()) >= 93, covered


@pytest.mark.parametrize("name", [*fairness.SCORES, "equity_scaled_sum:auroc", "equity_scaled_sd:accuracy"])
def test_no_named_score_is_bootstrapped(name):
    with pytest.raises(UserError, match="no bootstrap interval") as refused:
        resample.require_smooth(name)
    assert fairness.get(name).construction.rpartition(": ")[2] in str(refused.value)


# ---- distances ----


def test_distance_to_utopia_needs_a_point():
    groups = {"a": 0.8, "b": 0.7}
    assert fairness.distance_to_utopia(groups, {"a": 0.83, "b": 0.74}) == pytest.approx(0.05)
    assert fairness.distance_to_utopia(groups, groups) == 0
    assert np.isnan(fairness.distance_to_utopia(groups | {"b": np.nan}, groups))
    with pytest.raises(UserError, match="no utopia point"):
        fairness.distance_to_utopia(groups, None)
    with pytest.raises(UserError, match="no value for b"):
        fairness.distance_to_utopia(groups, {"a": 1.0})


# ---- by chance ----


@pytest.mark.parametrize(
    "score", fairness.scores("binary", {m: registry.get(m) for m in registry.names("binary")})
)
def test_a_score_of_replicates_is_that_of_each(rng, score):
    if score.limits is None:
        return
    drawn = {m: rng.uniform(0.1, 0.9, (4, 7)) for m in score.needs}
    cells = {level: {m: x[i] for m, x in drawn.items()} for i, level in enumerate("abc")}
    found = score.compute(cells, {m: x[3] for m, x in drawn.items()}, dict.fromkeys("abc", 1))
    for b in range(7):
        one = {level: {m: float(x[b]) for m, x in own.items()} for level, own in cells.items()}
        expected = score.compute(one, {m: float(x[3, b]) for m, x in drawn.items()}, dict.fromkeys("abc", 1))
        assert found[b] == pytest.approx(expected, rel=1e-12)
