import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from equipoise.engine.errors import UserError
from equipoise.engine.explain import linear_probe as probes


def planted(rng, n=240, width=300, strength=2.0):
    """Activations in which label a is written along one direction and label b nowhere; two images of each patient."""
    code = np.repeat(np.arange(n // 2), 2)
    a, b = (rng.integers(0, 2, n // 2)[code] for _ in range(2))
    direction = rng.normal(size=width) / np.sqrt(width)
    features = rng.normal(size=(n, width)) * np.linspace(1, 0.1, width) + strength * 3 * np.outer(
        2 * a - 1, direction
    )
    return features.astype(np.float32), {"a": a, "b": b}, code


def test_components_from_products_are_those_of_scikit_learn(rng):
    features, _, _ = planted(rng)
    fitted, others = np.arange(0, 180), np.arange(180, 240)
    ours = probes.components(probes.gram(features), fitted, others, 0.99)
    peer = PCA(0.99, svd_solver="full").fit(features[fitted].astype(np.float64))
    assert ours.fitted.shape[1] == peer.n_components_
    np.testing.assert_allclose(ours.shares, peer.explained_variance_ratio_, rtol=1e-6)
    for mine, theirs in (
        (ours.fitted, peer.transform(features[fitted])),
        (ours.others, peer.transform(features[others])),
    ):
        np.testing.assert_allclose(abs(mine), abs(theirs), atol=1e-4)


def test_products_do_not_depend_on_the_block_of_columns(rng, monkeypatch):
    features, _, _ = planted(rng)
    whole = probes.gram(features)
    monkeypatch.setattr(probes, "_COLUMNS", 7)
    np.testing.assert_allclose(probes.gram(features), whole, atol=1e-8)
    centred = features - features.mean(0, dtype=np.float64)
    np.testing.assert_allclose(whole, centred @ centred.T, atol=1e-3)


def test_a_planted_label_is_told_and_an_absent_one_is_not(rng):
    features, labels, code = planted(rng)
    where = probes.folds(labels, code, 5)
    found, alone = probes.probe_block("block1", features, labels, code, where, repeats=5)
    told = {p.label: p for p in found}
    assert told["a"].accuracy.value > 0.95 and told["a"].auroc.value > 0.98
    low, high = told["b"].accuracy.limits(0.95)
    assert low < 0.5 < high
    assert told["b"].in_sample > 0.75  # flattery: b is in nothing
    assert abs(told["b"].selectivity) < 0.12
    assert 0.35 < told["a"].control.mean() < 0.65
    assert told["a"].accuracy.n == 240 and told["a"].accuracy.n_subjects == 120
    assert alone.dominant == alone.accuracy["a"].argmax()
    side = alone.scores[:, alone.dominant] > alone.boundary
    assert max((side == labels["a"]).mean(), (side != labels["a"]).mean()) > 0.9


def test_the_in_sample_probe_is_the_published_one(rng):
    features, labels, code = planted(rng, width=40)
    found, _ = probes.probe_block("x", features, labels, code, probes.folds(labels, code, 4), repeats=0)
    scores = PCA(0.99, svd_solver="full").fit_transform(features.astype(np.float64))
    for p in found:
        peer = LogisticRegression(random_state=0, max_iter=1000).fit(scores, labels[p.label])
        assert p.in_sample == pytest.approx(peer.score(scores, labels[p.label]), abs=1 / 240)
        assert not len(p.control) and np.isnan(p.selectivity)


def test_held_out_predictions_are_those_of_scikit_learn(rng):
    features, labels, code = planted(rng, strength=0.4)
    where = probes.folds(labels, code, 5)
    found, _ = probes.probe_block("x", features, labels, code, where, repeats=0)
    right = np.zeros(len(code), bool)
    for fitted, held in where:
        pca = PCA(0.99, svd_solver="full").fit(features[fitted].astype(np.float64))
        model = LogisticRegression(max_iter=1000).fit(pca.transform(features[fitted]), labels["a"][fitted])
        right[held] = model.predict(pca.transform(features[held])) == labels["a"][held]
    assert found[0].accuracy.value == pytest.approx(right.mean(), abs=2 / 240)


def test_folds_never_part_a_patient_and_refuse_more_folds_than_patients(rng):
    _, labels, code = planted(rng)
    for fitted, held in probes.folds(labels, code, 5):
        assert not set(code[fitted]) & set(code[held])
        assert 0.3 < labels["a"][held].mean() < 0.7
    with pytest.raises(UserError, match="3 patients cannot be parted into 5"):
        probes.folds({"a": np.array([0, 1, 0])}, np.arange(3), 5)


def test_shuffled_labels_stay_whole_within_patients(rng):
    code = np.array([0, 0, 1, 1, 2, 3, 3, 4])
    labels = np.array([0, 0, 1, 1, 2, 3, 3, 4])
    drawn = np.stack([probes.shuffled(labels, code, rng) for _ in range(60)])
    for row in drawn:
        assert sorted(row) == sorted(labels)
        assert row[0] == row[1] and row[2] == row[3] and row[5] == row[6]
    assert len(np.unique(drawn, axis=0)) == 12  # 3! orders of the pairs x 2! of the single images


def test_unknown_labels_are_left_out_of_their_own_probe_alone(rng):
    features, labels, code = planted(rng)
    labels["b"] = np.where(code < 20, -1, labels["a"])
    found, _ = probes.probe_block("x", features, labels, code, probes.folds(labels, code, 5), repeats=2)
    assert [p.accuracy.n for p in found] == [240, 200]
    assert found[1].classes == 2 and found[1].accuracy.value > 0.9


def test_images_that_are_all_alike_tell_nothing(rng):
    _, labels, code = planted(rng)
    found, alone = probes.probe_block(
        "x", np.ones((240, 5), np.float32), labels, code, probes.folds(labels, code, 5)
    )
    assert found[0].num_components == 0
    assert found[0].accuracy.value == pytest.approx(found[0].chance, abs=0.1)
    assert np.isnan(alone.boundary) and alone.scores.shape == (240, 0)
