import numpy as np
import pandas as pd
import pytest
from fairlearn.postprocessing import ThresholdOptimizer
from scipy import special
from sklearn.base import BaseEstimator

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.frames import frame
from equipoise.engine.metrics.postprocessing import parity
from equipoise.engine.metrics.postprocessing.parity import Mixture
from tests.engine.metrics.postprocessing.test_recalibration import table


class Given(BaseEstimator):
    """An estimator whose scores are its input."""

    def fit(self, x, y):
        self.fitted_ = True
        return self

    def predict(self, x):
        return np.asarray(x)[:, 0]


def simulated(rng, n=1200, decimals=3):
    sex = np.where(rng.random(n) < 0.35, "M", "F").astype(object)
    truth = rng.random(n) < np.where(sex == "M", 0.3, 0.5)
    logit = rng.normal(np.where(truth, 1, -1) * np.where(sex == "M", 0.5, 1.0) + 0.4 * (sex == "M"), 1)
    return truth, special.expit(logit).round(decimals), sex


def expected(mixture, truth, score):
    """(sensitivity, false-positive rate) of a mixture, as expected over subjects."""
    return tuple(
        sum(
            share * (score[rows] >= cut).mean()
            for cut, share in zip(mixture.values, mixture.shares, strict=True)
        )
        for rows in (truth, ~truth)
    )


@pytest.mark.parametrize("objective", parity.OBJECTIVES)
@pytest.mark.parametrize(
    ("constraint", "peer"),
    [("equal_opportunity", "true_positive_rate_parity"), ("equalized_odds", "equalized_odds")],
)
def test_the_rates_are_equal_and_as_good_as_fairlearns(constraint, peer, objective, rng):
    truth, score, sex = simulated(rng)
    chosen = parity.equalize(table(truth, score, sex), constraint, by="sex", objective=objective)
    optimizer = ThresholdOptimizer(
        estimator=Given(), constraints=peer, objective=f"{objective}_score", predict_method="predict", grid_size=5000,
    ).fit(score[:, None], truth.astype(int), sensitive_features=sex)  # fmt: skip
    chance = optimizer._pmf_predict(score[:, None], sensitive_features=sex)[:, 1]
    ours = np.zeros(len(truth))
    for level in ("F", "M"):
        rows = sex == level
        reached = expected(chosen.mixtures[level], truth[rows], score[rows])
        assert reached == pytest.approx(chosen.reached[level], abs=1e-12)
        for cut, share in zip(chosen.mixtures[level].values, chosen.mixtures[level].shares, strict=True):
            ours[rows] += share * (score[rows] >= cut)
    gaps = [ours[truth & (sex == "F")].mean() - ours[truth & (sex == "M")].mean()]
    if constraint == "equalized_odds":
        gaps.append(ours[~truth & (sex == "F")].mean() - ours[~truth & (sex == "M")].mean())
    assert gaps == pytest.approx([0] * len(gaps), abs=1e-12)

    def worth(calls):
        tpr, tnr = calls[truth].mean(), 1 - calls[~truth].mean()
        return (
            (tpr + tnr) / 2 if objective == "balanced_accuracy" else np.where(truth, calls, 1 - calls).mean()
        )

    # Ours has no grid: at least as good, and no better than its grid can be off.
    assert worth(chance) - 1e-9 <= worth(ours) <= worth(chance) + 2e-3


def test_a_mixture_is_of_subjects_and_reproducible():
    subjects = [f"p{i}" for i in range(20_000)]
    number = parity.uniform(subjects)
    assert 0 <= number.min() < number.max() < 1
    assert np.histogram(number, 10, (0, 1))[0] == pytest.approx(np.full(10, 2000), abs=200)
    assert (parity.uniform(subjects[::-1])[::-1] == number).all()
    assert parity.uniform(["p1", "p7", "p1"])[[0, 2]].tolist() == [number[1]] * 2
    picked = Mixture((0.2, 0.7, 0.9), (0.5, 0.0, 0.5)).of(number)
    assert set(picked) == {0.2, 0.9} and (picked == 0.2).mean() == pytest.approx(0.5, abs=0.02)


def test_rates_hold_on_another_split(rng):
    before = table(*simulated(rng, 8000), split="test")
    fitted = parity.equalize(table(*simulated(rng, 8000)), "equalized_odds", by="sex")
    after = fitted.apply(before)
    frames = frame.evaluate_models(after, metrics=("sensitivity", "fpr"), groups=("sex",), resamples=100)
    old, new = (f.disparities["sex"] for f in frames.values())
    name = "equalized_odds_difference_max"
    assert old[name].value > 0.15 and new[name].value < 0.06
    assert (after.frame["score"] == after.frame["score+equalized_odds by sex"]).all()
    per_subject = after.frame.groupby(["subject_id", "sex"])[
        "threshold:score+equalized_odds by sex"
    ].nunique()
    assert (per_subject == 1).all()


def test_levelling_up_lowers_and_never_raises(rng):
    truth, score, sex = simulated(rng, 3000)
    validation, reported = table(truth, score, sex), table(*simulated(rng, 3000), split="test")
    fitted = parity.level_up(validation, 0.85, by="sex")
    after = fitted.apply(reported)
    threshold = after.frame["threshold:score+sens0.85 by sex"].to_numpy()
    assert (threshold <= 0.5).all()
    for level in ("F", "M"):
        own = sex == level
        tpr, fpr = fitted.reached[level]
        assert tpr >= 0.85
        cut = min(0.5, fitted.mixtures[level].values[0])
        assert tpr == (score[own & truth] >= cut).mean() and fpr == (score[own & ~truth] >= cut).mean()
        if cut < 0.5:  # the next score up misses the floor
            assert (score[own & truth] > cut).mean() < 0.85
        assert (threshold[reported.frame["sex"] == level] == cut).all()
    assert min(fitted.mixtures[level].values[0] for level in ("F", "M")) < 0.5


def test_small_groups_and_unknown_people_take_the_choice_of_everyone(rng):
    truth, score, sex = simulated(rng, 800)
    sex[:30] = "unknown"
    fitted = parity.equalize(table(truth, score, sex), "equal_opportunity", by="sex")
    after = fitted.apply(table(truth, score, sex, "test"))
    column = after.frame["threshold:score+equal_opportunity by sex"]
    assert set(column[:30]) == set(fitted.mixtures["everyone"].values)
    few = sex.copy()
    few[few == "M"] = "F"
    few[:25] = "M"
    with pytest.raises(UserError, match="fewer than two groups with 20 positives"):
        parity.equalize(table(truth, score, few), "equal_opportunity", by="sex")
    levelled = parity.level_up(table(truth, score, few), 0.9, by="sex")
    assert set(levelled.fallbacks) == {"M"} and "M" not in levelled.mixtures


def test_what_is_refused(rng):
    truth, score, sex = simulated(rng, 400)
    validation = table(truth, score, sex)
    fitted = parity.level_up(validation, 0.9, by="sex")
    with pytest.raises(UserError, match="chosen on 'validation'"):
        fitted.apply(validation)
    with pytest.raises(UserError, match="Did you mean 'equalized_odds'"):
        parity.equalize(validation, "equalised_odds", by="sex")
    for floor in (0, 1.2):
        with pytest.raises(UserError, match="floor="):
            parity.level_up(validation, floor, by="sex")
    assert isinstance(pd.Series(fitted.reached["F"]).sum(), float)
