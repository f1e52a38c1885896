import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.frames import frame
from equipoise.engine.metrics.postprocessing import recalibration
from equipoise.engine.metrics.table.table import Schema, Table, validate

SCHEMA = Schema(
    "classification", "disease", ("absent", "present"), "present", {"sex": ["F", "M", "unknown"], "age": None}
)


def table(truth, score, sex="F", split="validation", threshold_split="fixed"):
    n = len(truth)
    chosen = pd.DataFrame({
        "scan_id": [f"{split}-{i:05d}" for i in range(n)], "subject_id": [f"{split}-p{i // 2}" for i in range(n)], "cohort": "x",
        "split": split, "target": np.asarray(truth, int), "score": score, "threshold": 0.5, "threshold_split": threshold_split,
        "checkpoint_step": 1, "checkpoint_fingerprint": "f", "config_fingerprint": "g", "sex": sex, "age": 50.0,
    })  # fmt: skip
    return Table(validate(chosen, SCHEMA, "t"), SCHEMA)


def simulated(rng, n=600, stretch=2.0, shift=0.5):
    """Scores whose logit is off by a factor and a shift."""
    logit = rng.normal(0, 1.2, n)
    return rng.random(n) < special.expit(logit), special.expit(stretch * logit + shift)


def test_temperature_is_the_optimum_of_the_likelihood(rng):
    truth, score = simulated(rng, shift=0)
    logit = special.logit(score)
    loss = lambda log_t: np.logaddexp(0, -np.where(truth, 1, -1) * logit * np.exp(-log_t)).sum()  # noqa: E731
    peer = np.exp(optimize.minimize_scalar(loss, bracket=(-1, 1), tol=1e-10).x)
    assert recalibration.temperature(truth, score) == pytest.approx(peer, rel=1e-5)
    assert recalibration.temperature(truth, score) == pytest.approx(2, rel=0.25)


def test_temperature_stops_at_its_ends():
    truth = np.array([1, 1, 0, 0], bool)
    assert recalibration.temperature(truth, np.array([0.9, 0.8, 0.2, 0.1])) == pytest.approx(1e-3)
    assert recalibration.temperature(truth, np.array([0.1, 0.2, 0.8, 0.9])) == pytest.approx(1e3)


def test_platt_is_weighted_logistic_regression_on_his_targets(rng):
    truth, score = simulated(rng)
    positives, negatives = truth.sum(), (~truth).sum()
    aim = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    logit = special.logit(score)[:, None]
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    peer.fit(np.tile(logit, (2, 1)), np.repeat([1, 0], len(truth)), np.concatenate([aim, 1 - aim]))
    assert recalibration.platt(truth, score) == pytest.approx(
        [peer.intercept_[0], peer.coef_[0, 0]], abs=1e-4
    )


def test_platt_is_finite_without_overlap():
    a, b = recalibration.platt(np.array([0, 0, 1, 1], bool), np.array([0.1, 0.2, 0.8, 0.9]))
    assert np.isfinite([a, b]).all() and b > 0


def test_isotonic_is_that_of_scikit_learn(rng):
    truth, score = simulated(rng)
    score = score.round(2)  # ties
    peer = IsotonicRegression(out_of_bounds="clip").fit(score, truth)
    new = rng.random(200)
    x, y = recalibration.isotonic(truth, score)
    assert np.interp(new, x, y) == pytest.approx(peer.predict(new), abs=1e-12)


@pytest.mark.parametrize("method", recalibration.METHODS)
def test_a_recalibrated_model_stands_beside_the_first(method, rng):
    fitted = recalibration.fit(table(*simulated(rng, 4000, shift=0)), method, rule="fixed:0.5")
    after = fitted.apply(table(*simulated(rng, 4000, shift=0), split="test"))
    assert after.models == ("model", f"model+{method}")
    frames = frame.evaluate_models(
        after, metrics=("brier", "calibration_slope", "auroc"), groups=(), resamples=50
    )
    before, now = (f.overall for f in frames.values())
    assert before["calibration_slope"].value < 0.65 and now["calibration_slope"].value == pytest.approx(
        1, abs=0.15
    )
    assert now["brier"].value < before["brier"].value
    if method != "isotonic":
        assert now["auroc"].value == before["auroc"].value
    assert set(after.frame["threshold_split"]) == {"validation"}


def test_groups_have_maps_of_their_own_and_small_ones_that_of_everyone(rng):
    parts = simulated(rng, 1000, shift=1), simulated(rng, 1000, shift=-1), simulated(rng, 30)
    truth, score = (np.concatenate(x) for x in zip(*parts, strict=True))
    sex = np.repeat(["F", "M", "unknown"], [1000, 1000, 30])
    fitted = recalibration.fit(table(truth, score, sex), "platt", rule="youden", by="sex")
    assert (
        set(fitted.maps) == {"everyone", "F", "M"} and fitted.split == "validation" and not fitted.fallbacks
    )
    after = fitted.apply(table(truth, score, sex, "test"))
    column = after.frame["score+platt by sex"].to_numpy()
    for level in ("F", "M"):
        rows = sex == level
        a, b = recalibration.platt(truth[rows], score[rows])
        assert column[rows] == pytest.approx(special.expit(a + b * special.logit(score[rows])))
    a, b = recalibration.platt(truth, score)
    assert column[2000:] == pytest.approx(special.expit(a + b * special.logit(score[2000:])))
    small = np.where(np.arange(2030) < 10, "M", "F")
    fitted = recalibration.fit(table(truth, score, small), "platt", rule="youden", by="sex")
    assert set(fitted.maps) == {"everyone", "F"} and "20 of each are needed" in fitted.fallbacks["M"]
    assert any(
        note.startswith("M takes the choice of everyone")
        for note in fitted.apply(table(truth, score, small, "test")).notes
    )
    only_women = recalibration.fit(table(truth, score, "F"), "platt", rule="youden", by="sex")
    assert (
        "M takes the choice of everyone (no image on 'validation')."
        in only_women.apply(table(truth, score, sex, "test")).notes
    )


def test_what_is_refused(rng):
    truth, score = simulated(rng, 100)
    fitted = recalibration.fit(table(truth, score), "platt", rule="fixed:0.5")
    with pytest.raises(
        UserError, match="a post-processing chosen on 'validation' by platt would be judged on the same"
    ):
        fitted.apply(table(truth, score))
    after = fitted.apply(table(truth, score, split="test"))
    with pytest.raises(UserError, match=r"has a model 'model\+platt' already"):
        fitted.apply(after)
    with pytest.raises(UserError, match="Did you mean 'platt'"):
        recalibration.fit(table(truth, score), "plat", rule="fixed:0.5")
    with pytest.raises(UserError, match="one class"):
        recalibration.fit(table(np.ones(5), np.full(5, 0.5)), "platt", rule="fixed:0.5")
    unscored = table(truth, score)
    unscored.frame.loc[[3, 5], "score"] = np.nan
    with pytest.raises(UserError, match="2 images of split 'validation' have no score"):
        recalibration.fit(unscored, "platt", rule="fixed:0.5")
    both = table(truth, score)
    both.frame.loc[:10, "split"] = "test"
    with pytest.raises(UserError, match="test, validation"):
        recalibration.fit(both, "platt", rule="fixed:0.5")
