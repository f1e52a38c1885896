import math
import warnings

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as peer

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import multiclass, registry

CLASSES = ("cat", "dog", "emu")
# Called 0 0 1 1 1 2: cat 2 of 3 found, dog 1 of 2, emu 1 of 1.
GRADES = {
    "truth": np.array([0, 0, 0, 1, 1, 2]),
    "scores": np.array(
        [[0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]
    ),
}
GRADES["called"] = GRADES["scores"].argmax(1)


def value(name, columns, weight=None):
    return registry.compute(name, columns, weight, CLASSES)


@st.composite
def exclusive(draw):
    n = draw(st.integers(1, 25))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    present = draw(st.sampled_from([(0,), (0, 1), (1, 2), (0, 1, 2)]))
    raw = rng.integers(1, draw(st.sampled_from([2, 4, 100])), (n, 3)).astype(float)
    scores = raw / raw.sum(1, keepdims=True)
    return {"truth": rng.choice(present, n), "scores": scores, "called": scores.argmax(1)}


@st.composite
def several(draw):
    n = draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.integers(0, draw(st.sampled_from([2, 4, 100])), (n, 3)) / 100
    shares = [draw(st.sampled_from([0, 0.3, 1])) for _ in range(3)]
    return {
        "truth": rng.random((n, 3)) < shares,
        "scores": scores,
        "called": scores >= draw(st.sampled_from([0.01, 0.5])),
    }


def test_every_metric_of_classes_by_hand():
    assert GRADES["called"].tolist() == [0, 0, 1, 1, 0, 2]
    by_hand = {
        "accuracy": 4 / 6,
        "sensitivity:macro": (2 / 3 + 1 / 2 + 1) / 3,
        "specificity:macro": (2 / 3 + 3 / 4 + 1) / 3,
        "ppv:macro": (2 / 3 + 1 / 2 + 1) / 3,
        "sensitivity:micro": 4 / 6,
        "fpr:dog": 1 / 4,
        "log_loss": -math.log(0.6 * 0.8 * 0.2 * 0.4 * 0.3 * 0.7) / 6,
        "auroc:emu": 1.0,
        # Squared distances 0 0 1 0 1 0; by chance 3·(2·1 + 1·4) + 2·(3·1 + 1·1) + 1·(3·4 + 2·1) = 40 of 36 pairs over 6 images.
        "quadratic_weighted_kappa": 1 - 2 / (40 / 6),
    }
    for name, expected in by_hand.items():
        assert value(name, GRADES) == pytest.approx(expected, abs=1e-12), name


def test_every_metric_of_labels_by_hand():
    columns = {
        "truth": np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]], bool),
        "scores": np.array([[0.9, 0.2, 0.4], [0.1, 0.6, 0.8], [0.7, 0.8, 0.1], [0.2, 0.1, 0.3]]),
    }
    columns["called"] = columns["scores"] >= 0.5
    # cat TP 2; dog TP 1, FP 1; emu TP 1, FN 1; all else TN.
    by_hand = {
        "subset_accuracy": 2 / 4,
        "hamming_loss": 2 / 12,
        "accuracy:micro": 10 / 12,
        "f1:macro": (1 + 2 / 3 + 2 / 3) / 3,
        "f1:micro": 8 / 10,
        "sensitivity:micro": 4 / 5,
        "specificity:micro": 6 / 7,
        "sensitivity:emu": 1 / 2,
        "auroc:emu": 4 / 4,
        "auroc:macro": (1 + 1 + 1) / 3,
    }
    for name, expected in by_hand.items():
        assert value(name, columns) == pytest.approx(expected, abs=1e-12), name


@settings(deadline=None, max_examples=60)
@given(exclusive())
def test_exclusive_classes_equal_scikit_learn(columns):
    truth, scores, called = columns["truth"], columns["scores"], columns["called"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of classes without an image
        expected = {
            "accuracy": peer.accuracy_score(truth, called),
            "sensitivity:macro": peer.balanced_accuracy_score(truth, called),
            "f1:micro": peer.f1_score(truth, called, labels=[0, 1, 2], average="micro"),
            "log_loss": peer.log_loss(truth, scores, labels=[0, 1, 2]),
            "multicategory_brier": ((scores - np.eye(3)[truth]) ** 2).sum(1).mean(),
            "quadratic_weighted_kappa": peer.cohen_kappa_score(
                truth, called, weights="quadratic", labels=[0, 1, 2]
            )
            if len({*truth, *called}) > 1
            else math.nan,
            "auprc:macro": np.mean(
                [peer.average_precision_score(truth == k, scores[:, k]) for k in {*truth}]
            ),
            "auprc:micro": peer.average_precision_score(np.eye(3)[truth], scores, average="micro"),
            "auroc:micro": peer.roc_auc_score(np.eye(3)[truth].ravel(), scores.ravel()),
        }
        if len({*truth}) == 3:
            expected["auroc:macro"] = peer.roc_auc_score(truth, scores, multi_class="ovr")
            expected["f1:macro"] = peer.f1_score(truth, called, average="macro")
    for name, wanted in expected.items():
        assert value(name, columns) == pytest.approx(wanted, abs=1e-9, nan_ok=True), name


@settings(deadline=None, max_examples=60)
@given(several())
def test_labels_equal_scikit_learn(columns):
    truth, scores, called = columns["truth"], columns["scores"], columns["called"]
    both = [k for k in range(3) if truth[:, k].any() and not truth[:, k].all()]
    found = np.flatnonzero(truth.any(0)).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "subset_accuracy": peer.accuracy_score(truth, called),
            "hamming_loss": peer.hamming_loss(truth, called),
            "f1:micro": peer.f1_score(truth, called, average="micro")
            if truth.any() or called.any()
            else math.nan,
            "sensitivity:micro": peer.recall_score(truth, called, average="micro")
            if truth.any()
            else math.nan,
            "sensitivity:macro": np.mean([peer.recall_score(truth[:, k], called[:, k]) for k in found])
            if found
            else math.nan,
            "auroc:macro": np.mean([peer.roc_auc_score(truth[:, k], scores[:, k]) for k in both])
            if both
            else math.nan,
            "brier:micro": ((scores - truth) ** 2).mean(),
            "auroc:dog": peer.roc_auc_score(truth[:, 1], scores[:, 1]) if 1 in both else math.nan,
        }
        if truth.any() and not truth.all():
            expected["auroc:micro"] = peer.roc_auc_score(truth, scores, average="micro")
    for name, wanted in expected.items():
        assert value(name, columns) == pytest.approx(wanted, abs=1e-9, nan_ok=True), name


@settings(deadline=None, max_examples=25)
@given(st.one_of(exclusive(), several()), st.integers(0, 2**32 - 1))
def test_whole_weights_repeat_rows(columns, seed):
    weight = np.random.default_rng(seed).integers(0, 3, len(columns["truth"]))
    weight[0] = 1
    many = {name: np.repeat(column, weight, axis=0) for name, column in columns.items()}
    for name in (*registry.names(registry.task_of(columns), CLASSES), "auroc:micro"):
        assert value(name, columns, weight) == pytest.approx(value(name, many), abs=1e-9, nan_ok=True), name


def test_one_class_is_the_binary_metric_of_it_against_the_rest():
    binary = multiclass.one_against_rest(GRADES, 1)
    assert binary["truth"].tolist() == [False, False, False, True, True, False]
    assert binary["called"].tolist() == [False, False, True, True, False, False]
    for base in registry.names("binary"):
        expected = registry.compute(base, binary)
        assert value(f"{base}:dog", GRADES) == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert registry.compute(f"{base}:1", GRADES) == pytest.approx(expected, abs=1e-12, nan_ok=True)
        each = [registry.compute(base, multiclass.one_against_rest(GRADES, k)) for k in range(3)]
        assert value(f"{base}:macro", GRADES) == pytest.approx(np.nanmean(each), abs=1e-12)


def test_macro_leaves_out_absent_classes_or_takes_the_named():
    nobody = {name: column[:5] for name, column in GRADES.items()}
    assert math.isnan(value("auroc:emu", nobody))
    mean = (value("auroc:cat", nobody) + value("auroc:dog", nobody)) / 2
    assert value("auroc:macro", nobody) == pytest.approx(mean)
    # Two groups are comparable over the classes that both have.
    same = registry.get("sensitivity:macro", CLASSES, averaged=("cat", "dog"))
    parts = registry.components(GRADES)
    sums = {name: parts[name].sum() for name in same.components}
    assert same.of_sums(sums) == pytest.approx((2 / 3 + 1 / 2) / 2)
    ranks = registry.get("auroc:macro", CLASSES, averaged=("cat", "dog"))
    expected = (value("auroc:cat", GRADES) + value("auroc:dog", GRADES)) / 2
    assert ranks.weighted(ranks.prepare(GRADES), np.ones(6)) == pytest.approx(expected)


def test_averages_are_described_without_classes_and_computed_with_them():
    described = registry.get("f1:macro")
    assert described.base == "f1" and described.higher_is_better and "mean over classes" in described.formula
    with pytest.raises(UserError, match="name them"):
        described.of_sums({})
    with pytest.raises(UserError, match="write their numbers"):
        registry.get("f1:dog")


@pytest.mark.parametrize(
    "name", ["auroc:macro", "auprc:micro", "auroc:dog", "sensitivity_at_specificity_0.90:macro"]
)
def test_ranks_are_cut_padded_and_mapped_over_weights(name, rng):
    scores = rng.integers(1, 6, (40, 3)) / 6
    columns = {"truth": rng.random((40, 3)) < 0.4, "scores": scores, "called": scores >= 0.5}
    metric = registry.get(name, CLASSES)
    prepared = dict(metric.prepare(columns))
    order = prepared.pop("row", np.arange(40))
    inside = np.sort(rng.permutation(40)[:25])
    place = np.flatnonzero(np.isin(order, inside))
    place = np.append(place, [place[-1]] * 7)
    weights = rng.integers(0, 3, (40, 5)).astype(float)
    padded = np.concatenate([weights[order][place[:-7]], np.zeros((7, 5))])
    cut = {k: v[place] if v.shape[:1] == (40,) else v for k, v in prepared.items()}
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(metric.weighted, (None, 1)))(cut, padded)
    rows = {k: v[inside] for k, v in columns.items()}
    expected = [value(name, rows, weight) for weight in weights[inside].T]
    np.testing.assert_allclose(found, expected, atol=1e-13)
