"""The fundus phantom: who is drawn, what a mask holds, and that each group is as hard as its design says."""

import collections
import dataclasses
import json
import pathlib

import numpy as np
import pytest
from scipy import ndimage
from scipy.special import ndtr

from equipoise.data_builders.fundus_phantom.builder import FundusPhantom
from equipoise.data_builders.fundus_phantom.config import CONFIGS, GROUPS, make_config
from equipoise.data_builders.fundus_phantom.design import design_subjects
from equipoise.data_builders.fundus_phantom.render import draw_eye
from equipoise.data_builders.harvard.family import ATTRIBUTES
from equipoise.engine import data
from equipoise.engine.errors import UserError

PLAIN = {"noise": 0.0, "texture": 0.0, "vessels": 0.0}


def some(config, count, group=None):
    """The first subjects with a cup, of one group if asked."""
    subjects = [s for s in design_subjects(config) if s.cup and group in (None, s.group)]
    assert len(subjects) >= count
    return subjects[:count]


def depth(region):
    """Pixels from the region's edge, negative outside."""
    inside, outside = (ndimage.distance_transform_edt(r) - 0.5 for r in (region, ~region))
    return np.where(region, inside, -outside)


def test_an_eye_is_a_function_of_seed_and_subject():
    config = make_config(size=64)
    for subject in some(config, 3):
        image, mask = draw_eye(config, subject)
        again, mask_again = draw_eye(make_config(size=64, subjects=50), subject)
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(mask, mask_again)
        assert (image != draw_eye(make_config(size=64, seed=1), subject)[0]).mean() > 0.8
        other, _ = draw_eye(config, dataclasses.replace(subject, number=subject.number + 1))
        assert (image != other).mean() > 0.8


def test_difficulty_changes_no_draw_and_size_no_eye():
    config = make_config(size=64, noise=0.0)
    harder = make_config(size=64, noise=0.0, contrast_white=0.3, blur_white=0.2)
    assert [dataclasses.asdict(s) for s in design_subjects(config)] == [
        dataclasses.asdict(s) for s in design_subjects(harder)
    ]
    (subject,) = some(config, 1, "White")
    (image, mask), (dimmer, same) = draw_eye(config, subject), draw_eye(harder, subject)
    np.testing.assert_array_equal(mask, same)
    far = depth(mask > 0) < -0.5 * 0.16 * 64 - 5
    np.testing.assert_array_equal(image[far], dimmer[far])
    assert (image[mask == 2] > dimmer[mask == 2]).all()
    large, large_mask = draw_eye(dataclasses.replace(config, size=128), subject)
    pooled = large.reshape(64, 2, 64, 2).mean((1, 3))
    assert np.corrcoef(pooled.ravel(), image.ravel())[0, 1] > 0.95
    assert abs((large_mask > 0).mean() - (mask > 0).mean()) < 0.004


def test_the_cup_lies_within_the_disc_and_both_are_as_large_as_designed():
    config = make_config(size=256, **PLAIN)
    heights, ratios = [], []
    for subject in some(config, 20):
        _, mask = draw_eye(config, subject)
        disc, cup = mask > 0, mask == 2
        assert not (ndimage.binary_dilation(cup) & ~disc).any()  # the rim goes all around
        assert ndimage.label(disc)[1] == ndimage.label(cup)[1] == 1
        disc_height, cup_height = (np.ptp(np.nonzero(region)[0]) + 1 for region in (disc, cup))
        assert cup_height / disc_height == pytest.approx(subject.cup, abs=0.03)
        ratios.append(cup.sum() / disc.sum() / subject.cup**2)
        heights.append(disc_height / 256)
        width = np.ptp(np.nonzero(disc)[1]) + 1
        assert disc.sum() == pytest.approx(np.pi / 4 * disc_height * width, rel=0.03)
    assert min(ratios) > 0.9 and max(ratios) < 1.1 and np.mean(ratios) == pytest.approx(1, abs=0.03)
    assert np.mean(heights) == pytest.approx(2 * config.disc_radius, rel=0.05)


def test_a_disc_without_a_cup_is_rim_alone():
    config = make_config(size=64, no_cup_share=0.5, **PLAIN)
    bare = [s for s in design_subjects(config) if not s.cup][:5]
    for subject in bare:
        image, mask = draw_eye(config, subject)
        assert set(np.unique(mask)) == {0, 1}
        step = (
            image[depth(mask > 0) > 3].mean() - image[(depth(mask > 0) < -3) & (depth(mask > 0) > -6)].mean()
        )
        contrast = config.difficulty(subject.group)["contrast"]
        assert step / 255 == pytest.approx(contrast * config.disc_step, abs=0.02)


@pytest.mark.parametrize("group", GROUPS)
def test_contrast_and_blur_in_the_pixels_are_the_designs(group):
    """The same eyes with the edges hidden say what the edges add."""
    config = make_config(size=256, **PLAIN | {"texture": 0.03})
    hidden = make_config(size=256, **PLAIN | {"texture": 0.03}, **{f"contrast_{group.lower()}": 0})
    looks = config.difficulty(group)
    for subject in some(config, 3, group):
        image, mask = draw_eye(config, subject)
        step = (image.astype(float) - draw_eye(hidden, subject)[0]) / 255 / looks["contrast"]
        to_disc, to_cup = depth(mask > 0), depth(mask == 2)
        softness = looks["blur"] * (np.ptp(np.nonzero(mask)[0]) + 1) / 2
        expected = config.disc_step * ndtr(to_disc / softness) + config.cup_step * ndtr(to_cup / softness)
        assert np.abs(step - expected).mean() < 0.002
        assert np.abs(step - expected).max() < 0.15 * (config.disc_step + config.cup_step)
        assert step[(to_cup > 2.5 * softness)].mean() == pytest.approx(
            config.disc_step + config.cup_step, abs=0.01
        )


def test_texture_noise_and_vessels_are_as_strong_as_their_settings():
    def drawn(count, **settings):
        config = make_config(size=64, **PLAIN | settings)
        return np.stack([draw_eye(config, s)[0].astype(float) for s in some(config, count)])

    plain = drawn(40)
    assert (drawn(5, noise=0.05) - plain[:5]).std() / 255 == pytest.approx(0.05, rel=0.03)
    assert (drawn(40, texture=0.05) - plain)[:, :8, :8].std() / 255 == pytest.approx(0.05, rel=0.15)
    passed = drawn(10, vessels=0.5) / plain[:10]
    assert (
        passed.max() == 1
        and passed.min() == pytest.approx(0.5, abs=0.02)
        and (passed.min((1, 2)) < 0.6).all()
    )
    assert 0.6 < (passed == 1).mean() < 0.95  # most of the eye has no vessel


def best_dice(image, region):
    """Dice of the best threshold on a slightly smoothed image, near the region: an oracle that knows only brightness."""
    rows, columns = np.nonzero(ndimage.binary_dilation(region, iterations=6))
    window = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    smooth, truth = ndimage.gaussian_filter(image.astype(float), 1)[window], region[window]
    cuts = np.quantile(smooth, np.linspace(0.04, 0.96, 24))
    return max(2 * (truth & (smooth > cut)).sum() / (truth.sum() + (smooth > cut).sum()) for cut in cuts)


def test_the_harder_group_is_harder_to_outline_and_in_even_no_group_is():
    scores = {}
    for base in ("standard", "even"):
        config = make_config(base, size=64)
        for group in GROUPS:
            drawn = [draw_eye(config, s) for s in some(config, 25, group)]
            scores[base, group] = np.mean([best_dice(image, mask > 0) for image, mask in drawn])
    hard, middle, easy = (scores["standard", group] for group in ("Black", "Asian", "White"))
    assert hard + 0.02 < middle < easy - 0.005
    assert np.ptp([scores["even", group] for group in GROUPS]) < 0.02
    assert scores["even", "White"] == easy  # the very same images


def test_groups_and_splits_are_allotted_as_designed():
    config = make_config(unknown_share=0.1, no_cup_share=0.05)
    subjects = design_subjects(config)
    assert collections.Counter(s.group for s in subjects) == {"Asian": 184, "Black": 296, "White": 1520}
    unknown = collections.Counter(s.group for s in subjects if s.recorded["race"] is None)
    assert unknown == pytest.approx({"Asian": 18.4, "Black": 29.6, "White": 152}, abs=1)
    bare = collections.Counter(s.group for s in subjects if not s.cup)
    assert bare == pytest.approx({"Asian": 9.2, "Black": 14.8, "White": 76}, abs=1)
    assert all(s.recorded["race"] in (None, s.group) for s in subjects)
    for split, share in FundusPhantom.FRACTIONS.items():
        inside = [s for s in subjects if s.split == split]
        assert len(inside) == pytest.approx(share * 2000, abs=1)
        assert sum(s.group == "Black" for s in inside) == pytest.approx(0.148 * len(inside), abs=2)
    women = np.mean([s.recorded["gender"] == "Female" for s in subjects if s.recorded["gender"]])
    assert women == pytest.approx(0.585, abs=0.01)
    for group in GROUPS:
        cups = [s.cup for s in subjects if s.group == group and s.cup]
        assert np.mean(cups) == pytest.approx(config.difficulty(group)["cup"], abs=0.02)
        assert np.std(cups) == pytest.approx(0.1, abs=0.02)


def test_a_built_cohort_tells_its_design(tmp_path):
    config = FundusPhantom.configure("demo", subjects=60, no_cup_share=0.1, unknown_share=0.1)
    builder = FundusPhantom(data_dir=tmp_path, config=config)
    builder.download_and_prepare()
    report = json.loads((pathlib.Path(builder.data_path) / "cohort_report.json").read_text())
    assert config.name == "demo_subjects60_unknown_share0.1_no_cup_share0.1"
    assert sum(c["scans_without"]["cup"] for c in report["counts"].values()) == 6
    assert sum(c["scans_without"]["disc"] for c in report["counts"].values()) == 0
    assert {name: c["scans"] for name, c in report["counts"].items()} == {
        "train": 36,
        "validation": 6,
        "test": 18,
    }
    opened = data.open_split(f"fundus_phantom/{config.name}", "train", tmp_path)
    assert opened.metadata["design"]["groups"]["Black"] == {
        "share": 0.148,
        "contrast": 0.5,
        "blur": 0.12,
        "cup": 0.6,
    }
    assert opened.metadata["structures"] == {"rim": ["rim"], "cup": ["cup"], "disc": ["rim", "cup"]}
    words = opened.vocabulary("attributes")
    assert {*words} == {*ATTRIBUTES, "cup_to_disc"} and words["race"] == [*GROUPS, "unknown"]
    subjects = {f"subject-{s.number:05d}": s for s in design_subjects(config)}
    for example in (opened.source[i] for i in range(len(opened))):
        subject = subjects[example["subject_id"].decode()]
        image, mask = draw_eye(config, subject)
        np.testing.assert_array_equal(example["image"][..., 0], image)
        np.testing.assert_array_equal(example["mask"], mask)
        attributes = example["attributes"]
        assert words["race"][attributes["race"]] == (subject.recorded["race"] or "unknown")
        assert attributes["cup_to_disc"] == pytest.approx(subject.cup)


@pytest.mark.parametrize(
    ("base", "options", "message"),
    [
        ("demos", {}, "no configuration 'demos'.*Did you mean 'demo'"),
        ("demo", {"contrast": 1}, "no setting 'contrast'.*contrast_asian"),
        ("demo", {"contrast_black": 2.0}, "contrast_black=2.0 must be 0 to 1.5"),
        ("demo", {"cup_white": 0.9}, "cup_white=0.9 must be 0.2 to 0.85"),
        ("demo", {"size": 16}, "size=16 must be 32 to 2048"),
        ("demo", {"size": 64.5}, "must be a whole number"),
        ("demo", {"share_asian": 0.6, "share_black": 0.5}, "share_asian must sum to 1"),
        ("demo", {"noise": float("nan")}, "noise=nan must be 0 to 0.5"),
        ("demo", {"subjects": 3}, "must be at least 10"),
    ],
)
def test_settings_that_cannot_be(base, options, message):
    with pytest.raises(UserError, match=message):
        FundusPhantom.configure(base, **options)


def test_every_configuration_is_listed_and_named():
    assert [c.name for c in FundusPhantom.BUILDER_CONFIGS] == list(CONFIGS)
    assert make_config("demo", size=64).name == "demo"
    assert make_config("even", contrast_black=0.5).name == "even_contrast_black0.5"
