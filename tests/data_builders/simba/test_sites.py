"""The cohort of 83 sites: its published counts, what is drawn freely, and what scanner and sex do to an image."""

import collections
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from equipoise.data_builders.simba import scanner as simba_scanner
from equipoise.data_builders.simba import sites as simba_sites
from equipoise.data_builders.simba.anatomy import load_mni152
from equipoise.data_builders.simba.builder import Simba
from equipoise.data_builders.simba.design import design_subjects
from equipoise.data_builders.simba.render import Renderer, Request
from equipoise.data_builders.simba.velocity import GaussianProcess
from equipoise.engine.rng import generator

SEEDS = (0, 1, 2024)


def design(**options):
    return design_subjects(Simba.configure("sites_8mm", **options))


def by_site(subjects, *splits):
    """Site -> its subjects in some splits."""
    members = collections.defaultdict(list)
    for s in subjects:
        if s.split in splits:
            members[s.levels["site"]].append(s)
    return members


def is_mixed(members):
    return len({s.has_disease for s in members}) == 2


@pytest.mark.parametrize("seed", SEEDS)
def test_the_published_counts_are_met_exactly(seed):
    drawn = design(seed=seed)
    assert len({s.number for s in drawn}) == 1817
    assert sum(s.has_disease for s in drawn) == 867
    assert collections.Counter(s.levels["sex"] for s in drawn) == {"M": 1062, "F": 755}
    assert collections.Counter(s.split for s in drawn) == {"train": 1269, "validation": 141, "test": 407}
    training = by_site(drawn, "train", "validation")
    sizes = {site: len(members) for site, members in training.items()}
    assert len(sizes) == 83 and sum(sizes.values()) == 1410
    assert min(sizes.values()) == 1 and max(sizes.values()) == 190
    assert sum(n < 5 for n in sizes.values()) == 30 and sum(n == 1 for n in sizes.values()) == 12
    assert sum(not is_mixed(members) for members in training.values()) == 54
    for fewest, sites, scans in ((40, 7, 615), (30, 10, 717), (20, 21, 968)):
        large = [n for site, n in sizes.items() if n >= fewest and is_mixed(training[site])]
        assert (len(large), sum(large)) == (sites, scans)
    assert sum(n >= 20 and not is_mixed(training[site]) for site, n in sizes.items()) == 3
    assert len({s.levels["scanner"] for s in drawn}) == 23
    assert {s.levels["vendor"] for s in drawn} == {"vendor_a", "vendor_b", "vendor_c"}


@pytest.mark.parametrize("seed", SEEDS)
def test_choices_that_the_original_leaves_open_are_as_stated(seed):
    drawn = design(seed=seed)
    training, test = by_site(drawn, "train", "validation"), by_site(drawn, "test")
    sizes = [len(training[site]) for site in simba_sites.SITES]
    assert sizes == sorted(sizes, reverse=True)
    for site, members in training.items():
        quota = len(members) * 407 / 1410
        assert np.floor(quota) <= len(test[site]) <= np.ceil(quota)
        if not is_mixed(members):
            assert not is_mixed(members + test[site])
            assert len(members) < 20 or not members[0].has_disease
        assert len({s.levels["scanner"] for s in members + test[site]}) == 1
    for sick in (True, False):
        men = [s.levels["sex"] == "M" for s in drawn if s.has_disease == sick]
        assert sum(men) == pytest.approx(len(men) * 1062 / 1817, abs=1)
    scans = collections.Counter(s.levels["scanner"] for s in drawn if s.split != "test")
    counts = [scans[name] for name in simba_sites.SCANNERS]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 141), (0.25, 352), (0.5, 705)])
def test_validation_is_taken_from_large_sites_and_leaves_every_site_its_classes(share, count):
    drawn = design(validation_share=share)
    training, validation, whole = (
        by_site(drawn, *splits) for splits in (["train"], ["validation"], ["train", "validation"])
    )
    assert sum(map(len, validation.values())) == count
    assert len(training) == 83
    taken = {site: len(members) / len(whole[site]) for site, members in validation.items()}
    assert all(len(whole[site]) >= 20 for site in taken)
    assert sum(len(members) < 5 for members in training.values()) >= 30
    assert sum(len(members) == 1 for members in training.values()) == 12
    assert sum(not is_mixed(members) for members in training.values()) == 54
    if count:
        assert len(taken) == 24
        assert np.std(list(taken.values())) < 0.04
        sick = [s.has_disease for members in validation.values() for s in members]
        pool = [s.has_disease for site in taken for s in whole[site]]
        assert np.mean(sick) == pytest.approx(np.mean(pool), abs=0.02)


def test_the_design_is_a_function_of_the_seed_and_of_what_it_is_asked():
    reference = design()
    assert design(scanner_strength=0, sex_size=0, disease_mm=1, noise=0.1) == reference
    assert design_subjects(Simba.configure("sites_4mm_counterfactual")) == reference
    assert design(seed=1) != reference
    moved = design(validation_share=0.2)
    for a, b in zip(reference, moved, strict=True):
        assert dataclasses.replace(b, split=a.split) == a and (a.split == "test") == (b.split == "test")
        assert (a.split, b.split) != ("validation", "train")


def test_fewer_subjects_are_a_sample_of_all():
    everyone = {s.number: s for s in design()}
    for count in (8, 60, 500):
        drawn = design(subjects=count)
        assert len(drawn) == count and all(everyone[s.number] == s for s in drawn)
        for split, n in (("train", 1269), ("validation", 141), ("test", 407)):
            assert sum(s.split == split for s in drawn) == pytest.approx(n * count / 1817, abs=1)
    men = [s.levels["sex"] == "M" for s in design(subjects=900)]
    assert np.mean(men) == pytest.approx(1062 / 1817, abs=0.04)


def test_sites_of_both_classes_differ_by_the_spread_of_their_log_odds():
    spreads = {}
    for spread in (0.0, 0.5, 2.0):
        large = [m for m in by_site(design(class_spread=spread), "train", "validation").values() if len(m) >= 20 and is_mixed(m)]  # fmt: skip
        spreads[spread] = np.std([np.mean([s.has_disease for s in m]) for m in large])
    assert spreads[0.0] < 0.03
    assert 0.06 < spreads[0.5] < 0.18
    assert spreads[2.0] > 0.18


def renderer(**options):
    config = Simba.configure("sites_8mm", **options)
    return Renderer(config, load_mni152(8), GaussianProcess())


def requests(count=4, **options):
    return [Request(s, frozenset(), s.levels["scanner"]) for s in design(**options)[:count]]


def images(render, asked):
    return np.array([r.image for r in render.render(asked)]).astype(int)


def test_without_scanner_and_sex_effects_images_are_those_of_none():
    options = {"scanner_strength": 0, "sex_size": 0}
    plain = Renderer(Simba.configure("none_8mm"), load_mni152(8), GaussianProcess())
    asked = requests()
    np.testing.assert_array_equal(images(renderer(**options), asked), images(plain, asked))


def test_men_have_larger_brains_by_the_stated_share_of_volume():
    render = renderer(scanner_strength=0, noise=0)
    asked = requests(8)
    as_sex = {
        sex: images(
            render,
            [
                dataclasses.replace(
                    r, subject=dataclasses.replace(r.subject, levels=r.subject.levels | {"sex": sex})
                )
                for r in asked
            ],
        ).sum((1, 2, 3))
        for sex in ("F", "M")
    }
    np.testing.assert_allclose(as_sex["M"] / as_sex["F"], 1.1, atol=0.006)


def test_a_scanners_effect_equals_its_formula():
    """Against SciPy's Gaussian and the shading written out, away from the edge, where a Gaussian must be cut."""
    image = ndimage.gaussian_filter(np.random.default_rng(0).random((24, 26, 22)), 1.0).astype(np.float32)
    every = simba_scanner.signatures(generator(0, "scanners"), 1.0)
    for number in (0, 11, 22):
        signature = {name: values[number] for name, values in every.items()}
        image_after = np.asarray(simba_scanner.scan(jnp.asarray(image), signature, 2.0))
        blurred = ndimage.gaussian_filter(
            image.astype(np.float64), signature["blur_mm"] / 2.0, mode="constant", truncate=8
        )
        places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij"))
        shade = np.einsum("a,aijk->ijk", signature["shade"], places) - abs(signature["shade"]).sum()
        expected = blurred ** signature["gamma"] * np.exp(shade + signature["log_gain"])
        inside = (slice(7, -7),) * 3
        np.testing.assert_allclose(image_after[inside], expected[inside], atol=2e-5)
        assert image_after.min() >= 0 and image_after.max() <= 1


def test_scanners_grow_with_strength_and_resemble_their_vendor():
    one, two, none = (simba_scanner.signatures(generator(3, "scanners"), s) for s in (1.0, 2.0, 0.0))
    for name, transform in (("blur_mm", np.asarray), ("gamma", np.log), ("shade", np.asarray), ("log_gain", np.asarray)):  # fmt: skip
        np.testing.assert_allclose(transform(two[name]), 2 * transform(one[name]), rtol=1e-4)
        assert not transform(none[name]).any()
    assert (one["log_gain"] <= 0).all() and (one["blur_mm"] >= 0).all()
    assert len(np.unique(one["gamma"])) == 23
    vendor = [simba_sites.scanned(name)["vendor"] for name in simba_sites.SCANNERS]
    values = np.column_stack([one["blur_mm"] / 3, np.log(one["gamma"]) / 0.6, one["shade"] / 0.3])
    apart = np.linalg.norm(values[:, None] - values, axis=-1)
    same = np.equal.outer(vendor, vendor) & ~np.eye(23, dtype=bool)
    assert apart[same].mean() < apart[np.not_equal.outer(vendor, vendor)].mean()
