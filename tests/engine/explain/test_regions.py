"""Scores of regions against numbers worked out by hand and a twin that goes voxel by voxel."""

import numpy as np
import pytest

from equipoise.engine.explain import regions
from equipoise.engine.transforms.masks import decode_labels, encode_labels
from tests import oracles

NAN = np.nan


def test_scores_by_hand():
    # Scaled: 0 | 1, 0.8 | 0.5, 0.25 | 0.5, 0.1, 0.1, 0.1; at 0.25 the regions keep 2 of 2, 2 of 2 and 1 of 4, of means
    # 0.9, 0.375 and 0.5. Relative: 1, 0, (0.5 - 0.375) / 0.525 = 0.238095; weighted: 1, 0, 0.059524.
    saliency = 10 * np.array([0, 1, 0.8, 0.5, 0.25, 0.5, 0.1, 0.1, 0.1]) - 3
    labels = np.array([0, 7, 7, 2, 2, 5, 5, 5, 5], np.uint8)
    found = regions.score(saliency, labels, cut=0.25)
    assert found.index.tolist() == [2, 5, 7]
    assert found["voxels"].tolist() == [2, 4, 2]
    np.testing.assert_allclose(found["share"], [1, 0.25, 1])
    np.testing.assert_allclose(found["mean"], [0.375, 0.5, 0.9])
    np.testing.assert_allclose(found["relative"], [0, 0.2380952381, 1], atol=1e-12)
    np.testing.assert_allclose(found["weighted"], [0, 0.0595238095, 1], atol=1e-12)
    assert found["rank"].tolist() == [3, 2, 1] and not found["reason"].any()


@pytest.mark.parametrize("cut", [0.05, 0.25, 0.5])
def test_scores_equal_the_twin(rng, cut):
    for _ in range(5):
        labels = rng.choice([0, 3, 40, 41, 83, 1000], size=(7, 6, 9))
        saliency = rng.random(labels.shape) + 0.1 * (labels % 7)
        found = regions.score(saliency.astype(np.float32), labels, cut=cut)
        expected = oracles.region_scores(saliency.astype(np.float32).astype(float), labels, cut)
        assert set(expected) == set(found.index)
        for label, numbers in expected.items():
            columns = ["share", "mean", "relative", "weighted"]
            np.testing.assert_allclose(found.loc[label, columns].to_list(), numbers, rtol=1e-9)


def test_what_is_undefined_says_why():
    labels = np.array([[0, 1, 1], [2, 2, 3]])
    found = regions.score(np.array([[0, 1, 0.5], [0.1, 0.2, 0.4]]), labels, {9: "lost"}, 0.3)
    np.testing.assert_array_equal(found["share"], [1, 0, 1, NAN])
    np.testing.assert_array_equal(
        found["weighted"], [1, 0, 0, NAN]
    )  # of 2, whatever its mean: its share is 0
    np.testing.assert_array_equal(found["rank"], [1, 2, 2, NAN])
    assert np.isnan(found["mean"][2]) and "survives the cut" in found["reason"][2]
    assert found["voxels"][9] == 0 and "no voxel" in found["reason"][9] and not found["reason"][1]
    constant = regions.score(np.ones((2, 3)), labels)
    assert constant[["share", "mean", "weighted", "rank"]].isna().all(axis=None)
    assert set(constant["reason"]) == {"the map is constant"}
    alone = regions.score(np.array([[0, 1, 0.5], [0.1, 0.2, 0.1]]), labels, cut=0.3)
    assert np.isnan(alone["weighted"][1]) and "the same mean" in alone["reason"][1] and alone["share"][1] == 1
    assert regions.score(np.arange(3.0), np.zeros(3, int)).empty


def test_what_makes_no_sense_is_refused():
    labels = np.ones((2, 2), int)
    for cut in (0.0, 1.0, -0.2, NAN):
        with pytest.raises(ValueError, match="cut"):
            regions.score(np.eye(2), labels, cut=cut)
    with pytest.raises(ValueError, match="not finite"):
        regions.score(np.array([[1.0, NAN], [0, 0]]), labels)


@pytest.mark.parametrize(("top", "dtype"), [(83, "|u1"), (1000, "<u2"), (2**31 - 1, "<u4")])
def test_a_label_map_survives_its_encoding(rng, top, dtype):
    labels = rng.choice([0, 1, top], size=(5, 4, 3)).astype(np.int32)
    labels[0, 0, 0] = top
    encoded = encode_labels(labels)
    assert encoded["dtype"] == dtype
    np.testing.assert_array_equal(decode_labels(encoded), labels)


def test_a_negative_label_is_refused():
    with pytest.raises(ValueError, match="-1"):
        encode_labels(np.array([0, -1]))


def test_a_cohort_says_its_regions_or_has_none():
    assert regions.read({"regions": {}}) is None
    labels = np.array([[0, 75], [78, 3]])
    told = {"labels": encode_labels(labels), "names": {"75": "insula"}, "marked": {"disease": 75}}
    found = regions.read({"label_map": told})
    np.testing.assert_array_equal(found.labels, labels)
    assert found.marked == {"disease": 75} and found.title(75) == "insula" and found.title(3) == "label 3"
    bare = regions.read({"label_map": {"labels": encode_labels(labels)}})
    assert bare.names == {} and bare.marked == {}
