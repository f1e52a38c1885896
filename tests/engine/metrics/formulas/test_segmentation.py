import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.formulas import registry, segmentation
from equipoise.engine.metrics.frames import frame as metric_frame
from equipoise.engine.metrics.table.table import Schema, Table, validate
from tests import oracles

SPACINGS = {2: (1.0, 0.5), 3: (0.7, 1.0, 3.0)}
DISTANCES = ("hd95", "hd95_penalised", "assd", "nsd")
MASKS = st.one_of(
    *(
        st.tuples(
            *[arrays.arrays(bool, arrays.array_shapes(min_dims=d, max_dims=d, min_side=6, max_side=6))] * 2
        )
        for d in (2, 3)
    )
)


def cube(shape, low, high):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def test_shifted_cubes():
    # 4 × 4 × 4 voxels, one slice apart in an axis with 3 mm: 48 of 64 shared.
    reference, prediction = cube((12, 12, 12), (2, 2, 2), (6, 6, 6)), cube((12, 12, 12), (2, 2, 3), (6, 6, 7))
    found = segmentation.evaluate(prediction, reference, (1, 1, 3), tolerance=1)
    assert found["dice"] == pytest.approx(48 / 64)
    assert found["iou"] == pytest.approx(48 / 80)
    assert found["volume_error"] == 0
    assert found["hd95"] == found["hd95_penalised"] == 3
    # Each surface has 56 voxels. Leaving the other cube: 16 of the far face 3 mm off; near face: 4 inside it, 1 mm or 2 mm deep.
    there, back = segmentation.surface_distances(prediction, reference, (1, 1, 3))
    assert len(there) == len(back) == 56
    assert sorted(there) == sorted(back)
    assert (there == 3).sum() == 16
    assert found["assd"] == pytest.approx(there.mean())
    assert found["nsd"] == pytest.approx((there <= 1).mean())


def test_single_voxels_in_anisotropic_space():
    reference, prediction = np.zeros((5, 5, 5), bool), np.zeros((5, 5, 5), bool)
    reference[0, 0, 0] = prediction[1, 2, 2] = True
    apart = math.sqrt(1 * 0.5**2 + 4 * 1**2 + 4 * 2**2)
    found = segmentation.evaluate(prediction, reference, (0.5, 1, 2), tolerance=apart)
    assert found["hd95"] == found["assd"] == pytest.approx(apart)
    assert (found["dice"], found["nsd"]) == (0, 1)
    assert segmentation.evaluate(prediction, reference, (0.5, 1, 2), apart * 0.99)["nsd"] == 0


def test_concentric_spheres():
    place = np.indices((41, 41, 41)) - 20
    radius = np.sqrt((place**2).sum(0)) * 0.5
    found = segmentation.evaluate(radius <= 8, radius <= 5, (0.5, 0.5, 0.5), tolerance=1)
    assert found["hd95"] == pytest.approx(3, abs=0.5)
    assert found["assd"] == pytest.approx(3, abs=0.25)
    assert found["nsd"] == 0
    assert found["dice"] == pytest.approx(2 * 5**3 / (5**3 + 8**3), rel=0.02)
    assert found["volume_error"] == pytest.approx(4 / 3 * math.pi * (8**3 - 5**3) / 1000, rel=0.02)


def test_the_same_mask_is_perfect():
    mask = np.random.default_rng(0).random((6, 7, 8)) < 0.4
    found = segmentation.evaluate(mask, mask, (1, 2, 3), 0)
    assert (found["dice"], found["iou"], found["nsd"]) == (1, 1, 1)
    assert (found["hd95"], found["assd"], found["volume_error"], found["missed"]) == (0, 0, 0, 0)


@settings(deadline=None, max_examples=25)
@given(MASKS, st.sampled_from([0.5, 1.0, 2.0]))
def test_brute_force_agrees(masks, tolerance):
    prediction, reference = masks
    spacing = SPACINGS[prediction.ndim]
    found = segmentation.evaluate(prediction, reference, spacing, tolerance)
    p, r = prediction.sum(), reference.sum()
    if not (p and r):
        return
    shared = (prediction & reference).sum()
    assert found["dice"] == pytest.approx(2 * shared / (p + r))
    assert found["iou"] == pytest.approx(shared / (prediction | reference).sum())
    there = oracles.directed_distances(prediction, reference, spacing)
    back = oracles.directed_distances(reference, prediction, spacing)
    assert found["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert found["assd"] == pytest.approx(np.mean(there + back))
    assert found["nsd"] == pytest.approx(np.mean(np.array(there + back) <= tolerance))


@settings(deadline=None, max_examples=25)
@given(MASKS)
def test_symmetry_and_bounds(masks):
    prediction, reference = masks
    spacing = SPACINGS[prediction.ndim]
    found = segmentation.evaluate(prediction, reference, spacing, 1.0)
    turned = segmentation.evaluate(reference, prediction, spacing, 1.0)
    for name, value in found.items():
        about = segmentation.VALUES[name]
        assert math.isnan(value) or about.low <= value <= about.high
        if name == "volume_error":
            assert turned[name] == -value
        elif name not in ("missed", "false_positive"):
            assert turned[name] == pytest.approx(value, nan_ok=True)
    assert found.keys() == segmentation.VALUES.keys()
    if found["dice"] > 0:
        assert found["iou"] == pytest.approx(found["dice"] / (2 - found["dice"]))


EMPTY, FULL = np.zeros((30, 40), bool), cube((30, 40), (3, 4), (9, 9))


def test_a_missed_structure_scores_0_and_has_no_distance():
    found = segmentation.evaluate(EMPTY, FULL, (1, 1), 1)
    assert (found["dice"], found["iou"], found["nsd"], found["missed"]) == (0, 0, 0, 1)
    assert math.isnan(found["hd95"]) and math.isnan(found["assd"]) and math.isnan(found["false_positive"])
    assert found["hd95_penalised"] == 50
    assert found["volume_error"] == -30


def test_a_structure_that_is_not_there_scores_0_too():
    found = segmentation.evaluate(FULL, EMPTY, (1, 1), 1)
    assert (found["dice"], found["iou"], found["nsd"], found["false_positive"]) == (0, 0, 0, 1)
    assert math.isnan(found["hd95"]) and math.isnan(found["missed"])
    assert found["hd95_penalised"] == 50
    assert found["absolute_volume_error"] == 30


def test_nothing_found_where_nothing_is_has_no_score_unless_asked_for():
    found = segmentation.evaluate(EMPTY, EMPTY, (1, 1), 1)
    undefined = {name for name, value in found.items() if math.isnan(value)}
    assert undefined == {"dice", "iou", "nsd", "hd95", "hd95_penalised", "assd", "missed"}
    assert found["false_positive"] == 0
    asked = segmentation.evaluate(EMPTY, EMPTY, (1, 1), 1, perfect_if_absent=True)
    assert (asked["dice"], asked["iou"], asked["nsd"]) == (1, 1, 1)
    assert (asked["hd95"], asked["hd95_penalised"], asked["assd"]) == (0, 0, 0)
    assert math.isnan(segmentation.evaluate(EMPTY, FULL, (1, 1), 1, perfect_if_absent=True)["hd95"])


def test_an_axis_of_one_slice_is_no_surface():
    other = np.roll(FULL, 1, axis=0)
    flat = segmentation.evaluate(other, FULL, (1, 2), 1)
    for axis in range(3):
        spacing = list(np.insert([1.0, 2.0], axis, 7.0))
        found = segmentation.evaluate(np.expand_dims(other, axis), np.expand_dims(FULL, axis), spacing, 1)
        assert found == pytest.approx(flat, nan_ok=True)


def test_cases_of_several_structures_and_of_codes_together():
    reference = np.zeros((8, 8), int)
    reference[2:6, 2:6], reference[3:5, 3:5] = 1, 2
    prediction = np.where(reference == 2, 1, reference)
    found = segmentation.evaluate_case(prediction, reference, (1, 1), {"rim": 1, "cup": 2, "disc": (1, 2)}, 1)
    assert found["rim"]["dice"] == pytest.approx(2 * 12 / 28)
    assert found["cup"]["dice"] == 0 and found["cup"]["missed"] == 1
    assert found["disc"]["dice"] == 1


@pytest.mark.parametrize(
    ("reference", "spacing", "tolerance", "message"),
    [(np.zeros((30, 41)), (1, 1), 1, "shapes"), (EMPTY, (1, 1, 1), 1, "2 axes"), (EMPTY, (1, 0), 1, "positive"),
     (EMPTY, (1, math.nan), 1, "positive"), (EMPTY, (1, 1), -1, "tolerance")],
)  # fmt: skip
def test_refused(reference, spacing, tolerance, message):
    with pytest.raises(UserError, match=message):
        segmentation.evaluate(EMPTY, reference, spacing, tolerance)


def test_images_of_one_axis_are_refused():
    with pytest.raises(UserError, match="2 or 3 axes"):
        segmentation.evaluate(np.ones((1, 5)), np.ones((1, 5)), (1, 1), 1)


def random_blobs(seed, dims):
    """Two masks with smooth outlines that overlap in part."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    field = [ndimage.gaussian_filter(rng.normal(size=(18,) * dims), 2) for _ in range(2)]
    return field[0] > 0.01, field[0] + 0.5 * field[1] > 0.02


@pytest.mark.parametrize(("seed", "dims"), [(0, 2), (1, 2), (2, 3), (3, 3)])
def test_medpy_agrees(seed, dims):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = pytest.importorskip("medpy.metric.binary")
    prediction, reference = random_blobs(seed, dims)
    spacing = SPACINGS[dims]
    found = segmentation.evaluate(prediction, reference, spacing, 1)
    assert found["dice"] == pytest.approx(peer.dc(prediction, reference))
    assert found["iou"] == pytest.approx(peer.jc(prediction, reference))
    there, back = segmentation.surface_distances(prediction, reference, spacing)
    assert max(there.max(), back.max()) == pytest.approx(peer.hd(prediction, reference, spacing))
    pooled = np.percentile(np.concatenate([there, back]), 95)
    assert pooled == pytest.approx(peer.hd95(prediction, reference, spacing))
    assert found["assd"] == pytest.approx(peer.assd(prediction, reference, spacing))
    assert there.mean() == pytest.approx(peer.asd(prediction, reference, spacing))


@pytest.mark.parametrize(("seed", "dims"), [(4, 2), (5, 3)])
def test_monai_agrees(seed, dims):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
        peer = pytest.importorskip("monai.metrics")
        prediction, reference = random_blobs(seed, dims)
        spacing = SPACINGS[dims]
        batch = [torch.tensor(mask[None, None]) for mask in (prediction, reference)]
        settings = {"include_background": True, "spacing": spacing}
        far = peer.compute_hausdorff_distance(*batch, percentile=95, **settings).item()
        mean = peer.compute_average_surface_distance(*batch, symmetric=True, **settings).item()
        near = peer.compute_surface_dice(*batch, class_thresholds=[1.0], **settings).item()
    found = segmentation.evaluate(prediction, reference, spacing, 1)
    assert found["hd95"] == pytest.approx(far, rel=1e-5)
    assert found["assd"] == pytest.approx(mean, rel=1e-5)
    assert found["nsd"] == pytest.approx(near, rel=1e-5)


def test_a_column_of_values_is_described_by_its_name():
    dice, far = segmentation.describe("dice_optic_cup"), segmentation.describe("hd95_cup")
    assert dice.higher_is_better and (dice.low, dice.high) == (0, 1)
    assert dice.title == "mean Dice of optic cup"
    assert not far.higher_is_better and far.high == np.inf and "mm" not in far.title
    assert "diagonal" in segmentation.describe("hd95_penalised_cup").title
    assert segmentation.describe("volume_error_cup").target == 0
    assert segmentation.describe("dice").title == "mean Dice"
    assert segmentation.describe("lesions_found").title.endswith("lesions_found")
    assert not segmentation.describe("dice_cup", "undefined_rate").higher_is_better
    assert segmentation.describe("dice_cup").of_sums is registry.get("mean").of_sums
    assert segmentation.describe("dicey").title.endswith("dicey")


@pytest.mark.parametrize(
    "value, kind", [([0, 1, 1, np.nan], "proportion"), ([0, 0.5, 1], "sums"), ([np.nan], "sums")]
)
def test_the_mean_of_zeros_and_ones_is_a_proportion(value, kind):
    value = np.array(value, float)
    assert segmentation.describe("died", "mean", value).kind == kind
    assert segmentation.describe("missed_cup", "mean", value).kind == kind
    assert segmentation.describe("died", "undefined_rate", value).kind == "proportion"


def test_zeros_and_ones_of_cases_have_the_interval_of_a_share_clustered_by_patient():
    n, generator = 90, np.random.default_rng(0)
    died, group = (generator.random(n) < 0.2).astype(float), np.resize(["a", "b"], n)
    died[0] = np.nan
    same = dict.fromkeys(("checkpoint_fingerprint", "config_fingerprint", "threshold_split", "cohort"), "-")
    frame = pd.DataFrame(
        {"scan_id": np.arange(n).astype(str), "subject_id": np.arange(n) // 3, "split": "s"} | same
    )
    frame = frame.assign(threshold=0.5, checkpoint_step=0, died=died, depth=generator.random(n), group=group)
    schema = Schema(
        "values",
        "l",
        (),
        None,
        {"group": ["a", "b"]},
        ("died", "depth"),
        {c: (c,) for c in ("died", "depth")},
    )
    found = metric_frame.evaluate_models(Table(validate(frame, schema, "t"), schema), resamples=100)
    code = intervals.subject_codes(frame["subject_id"])[0]
    for rows, cell in (
        (np.isfinite(died), found["died"].overall["mean"]),
        (np.isfinite(died) & (group == "b"), found["died"].groups["group"]["b"]["mean"]),
    ):
        expected = intervals.proportion(died[rows] > 0, code[rows])
        assert cell.limits(0.95) == expected.limits(0.95) and (cell.n, cell.events) == (
            expected.n,
            expected.events,
        )
        assert cell.method == "Wilson, clustered by patient"
    assert "bootstrap" in found["depth"].overall["mean"].method
