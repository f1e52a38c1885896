import numpy as np
import pandas as pd
import pytest
from scipy import stats

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.confounding.balance import Matching, Standardization, Weighting
from equipoise.engine.metrics.confounding.gaps import evaluate
from equipoise.engine.metrics.confounding.pair import GroupPair
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.frames import frame
from equipoise.engine.metrics.resampling import bootstrap as resample
from equipoise.engine.metrics.table.table import Schema, Table, validate

ATTRIBUTES = {"sex": ["F", "M", "unknown"], "view": ["AP", "PA", "unknown"], "age": None}
SCHEMA = Schema("classification", "disease", ("absent", "present"), "present", ATTRIBUTES)
NUMBER = Schema("regression", "age", (), None, ATTRIBUTES)


def table(schema=SCHEMA, **columns):
    n = len(columns["target"])
    fixed = {
        "scan_id": [f"s{i:05d}" for i in range(n)], "subject_id": [f"p{i}" for i in range(n)], "cohort": "x", "split": "test",
        "threshold": 0.5, "threshold_split": "fixed", "checkpoint_step": 1, "checkpoint_fingerprint": "f",
        "config_fingerprint": "g", "age": 50.0, "view": "AP",
    }  # fmt: skip
    return Table(validate(pd.DataFrame(fixed | columns), schema, "t"), schema)


def counted(cells):
    """From {(sex, view, target, called): count}."""
    rows = [key for key, count in cells.items() for _ in range(count)]
    sex, view, target, called = (np.array(x) for x in zip(*rows, strict=True))
    return table(sex=sex, view=view, target=target, score=np.where(called, 0.9, 0.1))


# Sensitivity is 5/10 of AP and 18/20 of PA in both groups, plus the planted gap of women in AP; men are mostly AP.
def by_view(women_ap=5):
    return counted({
        ("F", "AP", 1, 1): women_ap, ("F", "AP", 1, 0): 10 - women_ap, ("F", "PA", 1, 1): 36, ("F", "PA", 1, 0): 4,
        ("M", "AP", 1, 1): 15, ("M", "AP", 1, 0): 15, ("M", "PA", 1, 1): 18, ("M", "PA", 1, 0): 2,
        ("F", "AP", 0, 1): 2, ("F", "AP", 0, 0): 18, ("F", "PA", 0, 1): 8, ("F", "PA", 0, 0): 12,
        ("M", "AP", 0, 1): 1, ("M", "AP", 0, 0): 9, ("M", "PA", 0, 1): 12, ("M", "PA", 0, 0): 18,
    })  # fmt: skip


RATES = ("sensitivity", "fpr", "accuracy")
HOW = {"group": "sex", "confounders": ("view",), "metrics": RATES, "resamples": 100}


@pytest.mark.parametrize("method", [Standardization(), Weighting(), Matching()])
@pytest.mark.parametrize("target", ["reference", "group"])
def test_a_gap_wholly_of_the_view_becomes_0(method, target):
    adjusted = evaluate(by_view(), **HOW, target=target, method=method, least_overlap=0.5)["M"]
    assert adjusted.raw["sensitivity"].value == pytest.approx(33 / 50 - 41 / 50)
    assert adjusted.raw["fpr"].value == pytest.approx(13 / 40 - 10 / 40)
    # Pairs are drawn, so that a matched gap is 0 on average alone.
    slack = 1e-6 if not isinstance(method, Matching) else 0.25
    assert adjusted.gaps["sensitivity"].value == pytest.approx(0, abs=slack)
    assert adjusted.gaps["fpr"].value == pytest.approx(0, abs=slack)
    assert adjusted.gaps["sensitivity"].low < 0 < adjusted.gaps["sensitivity"].high
    support = adjusted.support["present"]
    assert support.n == {"M": 50, "F": 50}
    assert support.differences["view=AP"][1] == pytest.approx(0, abs=1e-6)
    if not isinstance(method, Matching):
        moved = adjusted.explained["sensitivity"]
        assert moved.value == pytest.approx(-8 / 50) and moved.low < -8 / 50 < moved.high


def test_a_planted_gap_survives_and_depends_on_the_named_target():
    # In AP women have 8/10 and men 1/2; in PA both .9. Of all women 1/5 are AP, of men 3/5, of both 2/5.
    expected = {"reference": -0.3 * 10 / 50, "group": -0.3 * 30 / 50, "pooled": -0.3 * 40 / 100}
    for method in (Standardization(), Weighting()):
        for target, gap in expected.items():
            adjusted = evaluate(by_view(8), **HOW, target=target, method=method)["M"]
            assert adjusted.gaps["sensitivity"].value == pytest.approx(gap, abs=1e-6)
            assert adjusted.gaps["fpr"].value == pytest.approx(0, abs=1e-6)
    assert adjusted.target == "M and F together"


def test_kish_and_the_largest_weight_by_hand():
    support = evaluate(by_view(), **HOW, target="reference", method=Standardization())["M"].support["present"]
    # Of men 30 weigh 10/30 and 20 weigh 40/20.
    assert support.effective == pytest.approx({"M": 50**2 / (30 / 9 + 20 * 4), "F": 50})
    assert support.largest == pytest.approx({"M": 2 / 50, "F": 1 / 50})
    assert support.overlap == 1


def test_prevalence_is_alike_only_where_asked():
    cells = {
        ("F", "AP", 1, 1): 20, ("F", "AP", 1, 0): 20, ("F", "AP", 0, 1): 6, ("F", "AP", 0, 0): 54,
        ("M", "AP", 1, 1): 10, ("M", "AP", 1, 0): 10, ("M", "AP", 0, 1): 8, ("M", "AP", 0, 0): 72,
    }  # fmt: skip
    how = {"group": "sex", "metrics": ("accuracy", "ppv", "brier"), "target": "reference", "resamples": 50}
    apart = evaluate(counted(cells), confounders=("view",), **how)["M"]
    alike = evaluate(counted(cells), confounders=("view",), same_prevalence=True, **how)["M"]
    alone = evaluate(counted(cells), confounders=(), same_prevalence=True, **how)["M"]
    assert apart.gaps["accuracy"].value == pytest.approx(82 / 100 - 74 / 100)
    for adjusted in (alike, alone):
        for name in ("accuracy", "ppv", "brier"):
            assert adjusted.gaps[name].value == pytest.approx(0, abs=1e-9)
    assert alone.confounders == ("prevalence",)


def test_without_overlap_there_is_a_reason_and_no_number():
    cells = {
        ("F", "AP", 1, 1): 20, ("F", "AP", 1, 0): 5, ("M", "PA", 1, 1): 20, ("M", "PA", 1, 0): 5,
        ("F", "AP", 0, 0): 20, ("M", "AP", 0, 0): 15, ("M", "AP", 0, 1): 5,
    }  # fmt: skip
    for method in (Standardization(), Weighting(), Matching()):
        adjusted = evaluate(counted(cells), **HOW, target="reference", method=method)["M"]
        for name in ("sensitivity", "accuracy"):
            gap = adjusted.gaps[name]
            assert np.isnan([gap.value, gap.low, gap.high, gap.p]).all()
            assert gap.reason.startswith("too little overlap among present: 0% of the target")
            assert np.isnan(adjusted.explained[name].value)
        assert adjusted.gaps["fpr"].value == pytest.approx(5 / 20)  # negatives overlap
        assert adjusted.support["present"].overlap == 0 and not adjusted.support["present"].differences
    ages = table(sex=np.repeat(["F", "M"], 50), target=np.tile([0, 1], 50), score=np.tile([0.2, 0.8, 0.6, 0.4], 25),
                 age=np.concatenate([np.linspace(20, 40, 50), np.linspace(60, 80, 50)]))  # fmt: skip
    for method in (Weighting(), Matching("age", 5.0), Matching("propensity")):
        adjusted = evaluate(ages, **HOW | {"confounders": ("age",)}, target="reference", method=method)["M"]
        assert (
            np.isnan(adjusted.gaps["sensitivity"].value)
            and "too little overlap" in adjusted.gaps["sensitivity"].reason
        )


def test_partial_overlap_is_reported_and_may_be_accepted():
    cells = {
        ("F", "AP", 1, 1): 30,
        ("F", "AP", 1, 0): 30,
        ("F", "PA", 1, 1): 40,
        ("M", "AP", 1, 1): 40,
        ("M", "AP", 1, 0): 10,
    }
    how = HOW | {"metrics": ("sensitivity",), "target": "reference", "method": Standardization()}
    assert "60% of the target" in evaluate(counted(cells), **how)["M"].gaps["sensitivity"].reason
    adjusted = evaluate(counted(cells), **how, least_overlap=0.5)["M"]
    assert (
        adjusted.gaps["sensitivity"].value == pytest.approx(0.8 - 0.5)
        and adjusted.support["present"].overlap == 0.6
    )


def test_errors_and_means_of_numbers_are_adjusted():
    view, sex = np.repeat(["AP", "PA", "AP", "PA"], [20, 40, 40, 20]), np.repeat(["F", "M"], 60)
    error = np.where(view == "AP", 4.0, 1.0) + np.tile([0.5, -0.5], 60)
    adjusted = evaluate(
        table(NUMBER, sex=sex, view=view, target=np.full(120, 60.0), score=60 + error),
        **HOW | {"metrics": ("mae", "bias", "rmse")}, target="pooled",
    )["M"]  # fmt: skip
    assert adjusted.raw["mae"].value == pytest.approx(1) and adjusted.gaps["mae"].value == pytest.approx(
        0, abs=1e-6
    )
    assert adjusted.gaps["bias"].value == pytest.approx(0, abs=1e-6)
    assert adjusted.estimates["mae"][0].value == pytest.approx(2.5, abs=1e-6)
    values = Schema("values", "dice", (), None, ATTRIBUTES, scores=("dice",))
    dice = table(values, sex=sex, view=view, target=np.zeros(120), dice=1 - error / 10)
    adjusted = evaluate(dice, **HOW | {"metrics": ("mean",)}, target="pooled")["M"]
    assert adjusted.gaps["mean"].value == pytest.approx(0, abs=1e-6) and adjusted.support["all"].n == {
        "M": 60,
        "F": 60,
    }


def patients(rng, number, gap=0.0, images=2):
    """Images of people whose age and view move both score and group; of equal age and view men differ by ``gap`` among positives."""
    age = rng.choice(np.arange(40.0, 80, 5), number)
    ap = rng.random(number) < 0.5
    male = rng.random(number) < 1 / (1 + np.exp(-(0.05 * (age - 57.5) + 0.8 * (ap - 0.5))))
    sick, lean = rng.random(number) < 0.45, rng.normal(0, 0.6, number)
    who = np.repeat(np.arange(number), rng.integers(1, images + 1, number))
    side = np.where(sick, 1, -1)
    middle = side * (0.8 - 0.04 * (age - 57.5) - 0.3 * ap) - gap * (male & sick) + lean
    return table(
        subject_id=[f"p{i}" for i in who], sex=np.where(male, "M", "F")[who], view=np.where(ap, "AP", "PA")[who], age=age[who],
        target=sick[who].astype(int), score=stats.norm.cdf(middle[who] + rng.normal(0, 0.8, len(who))),
    )  # fmt: skip


def true_gap(gap):
    """Of sensitivity, towards the women: the patient's lean and the image's noise have unit variance together."""
    age, ap = np.repeat(np.arange(40.0, 80, 5), 2), np.tile([0, 1], 8)
    women = 1 / (1 + np.exp(0.05 * (age - 57.5) + 0.8 * (ap - 0.5)))
    middle = 0.8 - 0.04 * (age - 57.5) - 0.3 * ap
    return np.average(stats.norm.cdf(middle - gap) - stats.norm.cdf(middle), weights=women)


METHODS = {"standardised": Standardization({"age": np.arange(42.5, 77, 5)}), "weighted": Weighting(powers=1)}


def coverage(method, gap, sets, number, resamples):
    truth, held = true_gap(gap), []
    for seed in range(sets):
        one = evaluate(
            patients(np.random.default_rng([8, seed]), number, gap), group="sex", confounders=("age", "view"), target="reference",
            method=METHODS[method], metrics=("sensitivity",), resamples=resamples, seed=seed,
        )["M"]  # fmt: skip
        gaps = one.gaps["sensitivity"]
        held.append((gaps.low <= truth, truth <= gaps.high, gaps.value - truth, one.raw["sensitivity"].value))
    return np.array(held).T


@pytest.mark.parametrize("method", METHODS)
def test_an_age_gap_becomes_0_on_average(method):
    above, below, error, raw = coverage(method, 0.0, 12, 500, 80)
    assert raw.mean() < -0.06 and abs(error.mean()) < 0.04
    assert (above * below).sum() >= 9  # at 95 % fewer are seen once in 400 times


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gap", [0.0, 0.6])
def test_adjusted_gaps_cover(method, gap):
    above, below, error, raw = coverage(method, gap, 2000, 700, 500)
    assert 0.93 <= (above * below).mean() <= 0.97
    assert 1 - above.mean() <= 0.04 and 1 - below.mean() <= 0.04
    assert abs(error.mean()) < 0.005 and abs(raw.mean() - true_gap(gap)) > 0.05


EACH_FORM = ("f1", "brier", "auroc")
SMOOTH = [name for name in registry.names("binary") if registry.get(name).smooth]


@pytest.mark.parametrize(
    "names", [EACH_FORM, pytest.param(SMOOTH, marks=pytest.mark.slow)], ids=["forms", "all"]
)
def test_replicates_are_of_the_metrics_own_formula(names, rng):
    whole = patients(rng, 150)
    pair = GroupPair(whole, "sex", ("M", "F"), None, {name: registry.get(name) for name in names})
    weights = rng.random((len(whole.frame), 2)) + 0.1
    replicates = pair.replicates(weights)
    for lane in range(2):
        for name, values in pair.values(weights[:, lane]).items():
            assert replicates[name][:, lane] == pytest.approx(values, abs=1e-9), name


def test_weights_are_estimated_again_in_every_replicate(rng):
    whole, how = (
        patients(rng, 120),
        {"group": "sex", "confounders": ("age", "view"), "target": "pooled", "metrics": ("sensitivity",)},
    )
    estimates = evaluate(whole, **how, resamples=3, seed=4)["M"].estimates["sensitivity"]
    pair = GroupPair(whole, "sex", ("M", "F"), None, {"sensitivity": registry.get("sensitivity")})
    drawn = resample.draw(pair.num_subjects, 0, 3, 4)[pair.code]
    for lane in range(3):
        again = pair.table.frame.loc[np.repeat(np.arange(len(drawn)), drawn[:, lane])]
        own = again.assign(scan_id=[f"r{i}" for i in range(len(again))]).reset_index(drop=True)
        alone = evaluate(Table(own, SCHEMA), **how, resamples=2, least_overlap=0.01)["M"].estimates[
            "sensitivity"
        ]
        for side in (0, 1):
            assert estimates[side].replicates[lane] == pytest.approx(alone[side].value, abs=1e-4)


def test_copies_of_images_within_patients_change_nothing(rng):
    whole = patients(rng, 150, images=1)
    copies = pd.concat([whole.frame, whole.frame.assign(scan_id=whole.frame["scan_id"] + "b")])
    how = {
        "group": "sex",
        "confounders": ("age", "view"),
        "target": "reference",
        "metrics": ("sensitivity", "brier"),
        "resamples": 60,
    }
    first, second = (evaluate(t, **how)["M"] for t in (whole, Table(copies.reset_index(drop=True), SCHEMA)))
    for name in ("sensitivity", "brier"):
        one, two = first.gaps[name], second.gaps[name]
        assert (one.value, one.low, one.high) == pytest.approx((two.value, two.low, two.high), abs=1e-6)
    assert first.support["present"].effective == pytest.approx(second.support["present"].effective, rel=1e-6)


def test_people_without_a_known_confounder_are_left_out_and_counted(rng):
    whole = patients(rng, 200)
    whole.frame.loc[:9, "age"], whole.frame.loc[5:14, "view"], whole.frame.loc[20:24, "sex"] = (
        np.nan,
        "unknown",
        "unknown",
    )
    how = {"group": "sex", "target": "reference", "metrics": ("sensitivity",), "resamples": 50}
    adjusted = evaluate(whole, confounders=("age", "view"), **how)["M"]
    rest = Table(whole.frame.drop(index=range(15)).reset_index(drop=True), SCHEMA)
    assert adjusted.left_out == 15
    assert adjusted.gaps == evaluate(rest, confounders=("age", "view"), **how)["M"].gaps
    assert adjusted.raw["sensitivity"].value == frame.evaluate(
        rest, metrics=("sensitivity",), groups=("sex",), resamples=50
    ).disparities["sex"]["difference:sensitivity:M-F"].value  # fmt: skip
    assert adjusted.to_pandas().loc["sensitivity", "raw_value"] == adjusted.raw["sensitivity"].value


def test_classes_are_adjusted_apart():
    three = Schema("classification", "grade", ("a", "b", "c"), None, ATTRIBUTES, scores=("x", "y", "z"))
    rng = np.random.default_rng(0)
    n, scores = 300, rng.dirichlet(np.ones(3), 300)
    whole = table(three, sex=np.where(rng.random(n) < 0.5, "F", "M"), view=np.where(rng.random(n) < 0.5, "AP", "PA"),
                  target=rng.integers(0, 3, n), x=scores[:, 0], y=scores[:, 1], z=scores[:, 2])  # fmt: skip
    adjusted = evaluate(
        whole, **HOW | {"metrics": ("accuracy", "sensitivity:b", "f1:macro")}, target="pooled"
    )["M"]
    assert list(adjusted.support) == ["a", "b", "c"] and all(
        np.isfinite(gap.value) for gap in adjusted.gaps.values()
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": "women"}, "no target 'women'"),
        ({"confounders": ()}, "nothing to make alike"),
        ({"confounders": ("sex",)}, "'sex' cannot be its own confounder"),
        ({"confounders": ("sight",)}, "no attribute 'sight'"),
        ({"metrics": ("ece",)}, "no bootstrap interval for 'ece'"),
        ({"metrics": ("mae",)}, "for regression tasks"),
        ({"group": "age"}, "is a number and has no groups"),
        ({"reference": "X"}, "is no level"),
        ({"model": "other"}, "no model 'other'"),
        ({"method": Matching("age")}, "one of the confounders"),
    ],
)
def test_what_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        evaluate(by_view(), **HOW | {"target": "reference"} | change)


def test_matching_is_the_same_for_the_same_seed(rng):
    whole, how = (
        patients(rng, 200),
        HOW | {"confounders": ("age", "view"), "target": "group", "least_overlap": 0.1},
    )
    first, again = (evaluate(whole, **how, method=Matching("age", 5.0), seed=3)["M"] for _ in range(2))
    assert first.gaps == again.gaps
