import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, precision_score, recall_score

from equipoise.engine import metrics
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.frames import export
from equipoise.engine.metrics.table.reader import Roles, read

METRICS = ("accuracy", "sensitivity", "ppv", "selection_rate", "auroc", "brier")


@pytest.fixture(scope="module")
def people():
    """Columns of 300 images of 120 people in two attributes; one person's site is unknown."""
    rng = np.random.default_rng(5)
    subject = rng.integers(0, 120, 300)
    truth = rng.random(300) < 0.4
    score = np.clip(0.3 * truth + 0.7 * rng.random(300), 0, 1)
    site = np.array(["B", "A", "C"], object)[subject % 3]
    site[subject == 0] = None
    return pd.DataFrame(
        {"truth": truth.astype(int), "score": score, "sex": np.array(["F", "M"])[subject % 2], "site": site, "patient": subject}
    )  # fmt: skip


def numbers(frame):
    return export.scores(frame.overall, frame.groups, frame.disparities)


def test_numbers_are_those_of_the_same_table_read_from_a_file(people, tmp_path):
    people.to_csv(tmp_path / "t.csv", index=False)
    roles = Roles("binary", ("truth",), {"model": ("score",)}, attributes=("sex", "site"), subject="patient")
    settings = {"metrics": METRICS, "resamples": 100, "seed": 3, "rest": True}
    wanted = metrics.evaluate(read(tmp_path / "t.csv", roles), groups=("sex", "site", "sex*site"), **settings)
    found = metrics.frame(
        people.truth, people.score, groups=people[["sex", "site"]], subject=people.patient, by=("sex", "site", "sex*site"), **settings
    )  # fmt: skip
    assert metrics.to_json({"m": found})["models"] == metrics.to_json({"m": wanted})["models"]
    assert (
        found.overall["auroc"].n_subjects == people.patient.nunique() and found.settings["subject"] == "given"
    )
    assert "unknown" in found.groups["site"] and found.references["site"] == "A"


def test_values_are_those_of_fairlearns_metric_frame(people):
    peer = pytest.importorskip("fairlearn.metrics")
    known = {"accuracy": accuracy_score, "sensitivity": recall_score, "ppv": precision_score, "selection_rate": peer.selection_rate}  # fmt: skip
    called = (people.score >= 0.4).astype(int)
    theirs = peer.MetricFrame(
        metrics=known, y_true=people.truth, y_pred=called, sensitive_features=people[["sex"]]
    )
    ours = metrics.frame(
        people.truth, people.score, groups=people[["sex"]], metrics=tuple(known), threshold=0.4, resamples=20
    )
    for name in known:
        assert ours.overall[name].value == pytest.approx(theirs.overall[name], abs=1e-12)
        for level in ("F", "M"):
            assert ours.groups["sex"][level][name].value == pytest.approx(
                theirs.by_group[name][level], abs=1e-12
            )
        gaps = [d.value for k, d in ours.disparities["sex"].items() if k.startswith(f"max_min:{name}")]
        assert gaps == [pytest.approx(theirs.difference()[name], abs=1e-12)]


def test_arrays_of_every_kind_give_the_same_frame(people):
    truth, score, sex = people.truth, people.score, people.sex.to_numpy(str)
    kinds = [
        (truth, score, {"sex": sex}),
        (truth.tolist(), score.tolist(), {"sex": sex.tolist()}),
        (truth.to_numpy(bool), score.to_numpy(), pd.DataFrame({"sex": sex})),
        (jnp.asarray(truth), jnp.asarray(score, jnp.float32), pd.Series(sex, name="sex")),
        (truth.sample(frac=1, random_state=0).sort_index().set_axis(range(300, 0, -1)), score, {"sex": pd.Categorical(sex)}),
        (np.where(truth, "ill", "well"), score, {"sex": sex}),
    ]  # fmt: skip
    frames = [
        metrics.frame(*arrays[:2], groups=arrays[2], metrics=("sensitivity", "auroc"), resamples=20,
                      positive="ill" if number == 5 else None)
        for number, arrays in enumerate(kinds)
    ]  # fmt: skip
    for frame in frames[1:]:
        found, first = numbers(frame)["groups"], numbers(frames[0])["groups"]
        for level in ("F", "M"):
            for name in ("sensitivity", "auroc"):
                assert found["sex"][level][name] == pytest.approx(first["sex"][level][name], abs=1e-6)
    assert frames[0].settings["subject"].startswith("not given")
    assert metrics.frame(truth, score, groups=sex, metrics=("accuracy",)).groups.keys() == {"group"}


def test_a_categorical_keeps_its_order_and_a_reference_is_taken(people):
    age = pd.cut(pd.Series(np.arange(300) % 80), (0, 20, 60, 200), labels=["young", "adult", "old"])
    found = metrics.frame(
        people.truth, people.score, groups={"age": age, "sex": people.sex}, metrics=("accuracy",)
    )
    assert [*found.groups["age"]] == ["young", "adult", "old", "unknown"]
    assert found.references == {"age": "young", "sex": "F"}
    found = metrics.frame(
        people.truth, people.score, groups={"age": age, "sex": people.sex}, metrics=("accuracy",), control=("sex",),
        reference={"age": "old"},
    )  # fmt: skip
    assert "young|F" in found.groups["age|sex"] and "difference:accuracy:young|F-old|F" in found.disparities["age|sex"]  # fmt: skip


def test_several_classes_labels_and_numbers(people):
    rng = np.random.default_rng(0)
    sex = people.sex
    truth = rng.choice(["cat", "dog", "emu"], 300)
    score = pd.DataFrame(rng.dirichlet(np.ones(3), 300), columns=["dog", "cat", "emu"])
    found = metrics.frame(
        truth, score, groups={"sex": sex}, metrics=("accuracy", "sensitivity:dog"), resamples=20
    )
    called = score.columns.to_numpy()[score.to_numpy().argmax(1)]
    assert found.overall["accuracy"].value == pytest.approx((called == truth).mean())
    assert found.overall["sensitivity:dog"].value == pytest.approx((called == truth)[truth == "dog"].mean())
    wide = np.stack([1 - people.score, people.score], axis=1)
    found_of_two = metrics.frame(people.truth == 1, wide, groups=sex, metrics=("accuracy",), resamples=20)
    assert found_of_two.overall["accuracy"].value == ((people.score > 0.5) == people.truth).mean()
    codes = pd.Series(truth).map({"dog": 0, "cat": 1, "emu": 2}).to_numpy()
    again = metrics.frame(codes, score.to_numpy(), groups={"sex": sex}, metrics=("accuracy",), resamples=20)
    assert again.overall["accuracy"].value == found.overall["accuracy"].value
    labels = rng.random((300, 2)) < 0.4
    found = metrics.frame(
        labels, 0.3 * labels + 0.6 * rng.random((300, 2)), groups=sex, classes=("a", "b"), resamples=20,
        metrics=("sensitivity:a", "hamming_loss"),
    )  # fmt: skip
    assert found.settings["task"] == "multilabel" and [*found.groups] == ["sex"]
    age = rng.normal(50, 10, 300)
    found = metrics.frame(age, age + 2, groups=sex, metrics=("mae", "bias"), resamples=20)
    assert found.settings["task"] == "regression" and found.overall["bias"].value == pytest.approx(2)
    found = metrics.frame(
        people.truth, people.score, groups=sex, metrics=("mae",), task="regression", resamples=20
    )
    assert found.overall["mae"].value == pytest.approx(abs(people.score - people.truth).mean())


TRUTH, SCORE, SEX = [1, 0, 1, 0], [0.9, 0.2, 0.6, 0.4], ["F", "F", "M", "M"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score": SCORE[:3]}, "score has 3 rows, and truth has 4"),
        ({"groups": {"sex": SEX[:2]}}, r"groups\['sex'\] has 2 rows, and truth has 4"),
        ({"subject": ["a"]}, "subject has 1 rows, and truth has 4"),
        ({"subject": ["a", None, "b", "b"]}, r"subject: no value in 1 row \(counted from 0: 1\)"),
        ({"truth": [1, None, 0, 1]}, r"truth: no value in 1 row \(counted from 0: 1\)"),
        ({"truth": ["ill", "well", "ill", "well"]}, "'ill', 'well': say which is the positive class"),
        ({"truth": ["ill", "well", "ill", "well"], "positive": "il"}, "Did you mean 'ill'"),
        ({"score": [0.9, np.nan, 0.6, np.nan]}, r"score: no value in 2 rows \(counted from 0: 1, 3\)"),
        ({"score": [0.9, "high", 0.6, 0.4]}, r"score: no number in 1 row \(counted from 0: 1\)"),
        ({"score": [0.9, 1.2, 0.6, 0.4]}, r"score: score outside \[0, 1\] in 1 row \(counted from 0: 1\)"),
        ({"score": [[[0.1]]]}, "score has 3 axes"),
        ({"score": np.eye(4), "truth": [0, 1, 2, 9]}, r"truth: no known class in 1 row \(counted from 0: 3\)"),
        ({"score": np.eye(4), "classes": ("a", "b")}, "classes names 2 classes, and score has 4 columns"),
        ({"score": np.eye(4), "truth": np.full((4, 4), 2)}, "truth of '0': neither 0 nor 1 in 4 rows"),
        ({"score": np.eye(4), "truth": np.ones((4, 2))}, r"truth of shape \(4, 2\) and score of shape \(4, 4\)"),
        ({"groups": {"target": SEX}}, "'target' is a column of the prediction table"),
        ({"groups": {"age": np.arange(40) / 3}, "truth": [0, 1] * 20, "score": [0.5] * 40}, "cut it, such as pd.cut"),
        ({"threshold_split": "val", "split": "val"}, "chosen on 'val'"),
        ({"threshold": "high"}, "threshold 'high': give one number"),
        ({"score": np.ones((4, 1))}, "score has 1 column: give"),
        ({"task": "multiclass"}, "choose 'binary' or 'regression'"),
        ({"metrics": ("aurocc",)}, "Did you mean 'auroc'"),
        ({"by": ("race",)}, "no attribute 'race'"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_named_with_their_rows(change, words):
    arguments = {"truth": TRUTH, "score": SCORE, "groups": {"sex": SEX}, "metrics": None} | change
    truth, score = arguments.pop("truth"), arguments.pop("score")
    with pytest.raises(UserError, match=words):
        metrics.frame(truth, score, **arguments)


def test_a_threshold_brings_its_split(people):
    chosen = metrics.thresholds.choose("youden", people.truth.to_numpy(), people.score.to_numpy(), "val")
    found = metrics.frame(
        people.truth, people.score, groups=people.sex, metrics=("accuracy",), threshold=chosen, split="test"
    )
    assert found.settings["threshold"] == chosen.value and found.settings["threshold_split"] == "val"
    with pytest.raises(UserError, match="chosen on 'val'"):
        metrics.frame(people.truth, people.score, groups=people.sex, threshold=chosen, split="val")
