import collections
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from data_builders import simba
from engine import data
from engine.config import UserError
from engine.transforms import deformation
from engine.transforms.masks import decode_mask

SMALL = {"resolution": 8, "subjects": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """none, near, far and the flips of near, 60 subjects at 8 mm."""
    folder = tmp_path_factory.mktemp("simba")
    for base in ("none_4mm", "near_4mm", "far_4mm", "near_4mm_counterfactual"):
        simba.Simba(data_dir=folder, config=simba.Simba.configure(base, **SMALL)).download_and_prepare()
    return folder


def examples(folder, config, split="test"):
    opened = data.open_split(f"simba/{config}_subjects60", split, folder)
    rows = [opened.source[i] for i in range(len(opened))]
    return {e["subject_id"]: e for e in rows}, opened


def difference(a, b):
    return np.abs(a["image"].astype(int) - b["image"]).max()


def test_scenarios_share_every_draw_and_differ_where_bias_is_rendered(folder):
    none, _ = examples(folder, "none_8mm")
    for scenario in ("near_8mm", "far_8mm"):
        biased, _ = examples(folder, scenario)
        assert list(none) == list(biased)  # the same records in the same order
        for subject, example in none.items():
            other = biased[subject]
            assert example["labels"] == other["labels"]
            assert example["attributes"]["bias"] == other["attributes"]["bias"]
            assert example["attributes"]["disease_score"] == other["attributes"]["disease_score"]
            assert (difference(example, other) > 0) == (example["attributes"]["bias"] == 1)


def test_the_counterfactual_flips_the_bias_of_every_test_subject(folder):
    near, _ = examples(folder, "near_8mm")
    none, _ = examples(folder, "none_8mm")
    flipped, opened = examples(folder, "near_8mm_counterfactual")
    assert set(opened.builder.info.splits) == {"test"}
    assert set(flipped) == set(near)
    for subject, example in flipped.items():
        assert {example["attributes"]["bias"], near[subject]["attributes"]["bias"]} == {0, 1}
        assert difference(example, near[subject]) > 0
        unbiased = example if example["attributes"]["bias"] == 0 else near[subject]
        assert difference(unbiased, none[subject]) == 0


def test_the_bias_effect_stays_around_its_region(folder):
    none, _ = examples(folder, "none_8mm", "train")
    far, opened = examples(folder, "far_8mm", "train")
    region = decode_mask(opened.metadata["regions"]["bias"])
    disease = decode_mask(opened.metadata["regions"]["disease"])
    change = np.mean([np.abs(far[s]["image"].astype(float) - none[s]["image"])[..., 0] for s in none], 0)
    near_region = ndimage.binary_dilation(region, iterations=2)
    assert change[near_region].sum() > 0.75 * change.sum()
    assert change[region].mean() > 20 * change[disease].mean()


@pytest.mark.parametrize(("subjects", "seed"), [(2000, 0), (2000, 7), (400, 0)])
def test_the_design_is_exact(subjects, seed):
    drawn = simba.design_subjects(simba.Simba.configure("near_4mm", subjects=subjects, seed=seed))
    counts = collections.Counter((s.split, s.has_disease, s.has_bias) for s in drawn)
    for split, share in simba.Simba.FRACTIONS.items():
        for disease in (True, False):
            for bias in (True, False):
                expected = subjects * share * 0.5 * (0.7 if disease == bias else 0.3)
                assert abs(counts[split, disease, bias] - expected) <= 2


def test_scores_are_balanced_between_groups_and_splits():
    drawn = simba.design_subjects(simba.Simba.configure("near_4mm"))
    for disease, mean in ((True, 1.0), (False, -1.0)):
        scores = [s.disease_score for s in drawn if s.has_disease == disease]
        assert np.mean(scores) == pytest.approx(mean, abs=0.1)
        assert np.std(scores) == pytest.approx(1.0, abs=0.1)
        cells = collections.defaultdict(list)
        for s in drawn:
            if s.has_disease == disease:
                cells[s.split, s.has_bias].append(s.disease_score)
        for values in cells.values():
            assert np.mean(values) == pytest.approx(np.mean(scores), abs=0.12)
    assert np.mean([s.bias_score for s in drawn]) == pytest.approx(2.0, abs=0.1)


def test_the_anatomy_lines_up():
    anatomy = simba.load_anatomy(4)
    assert all(n % 8 == 0 for n in anatomy.template.shape)
    for index, centre in ((75, (36, 1, -1)), (78, (25, 1, -2)), (21, (-46, -22, 43))):
        voxels = np.argwhere(anatomy.atlas == index)
        found = anatomy.affine[:3, :3] @ voxels.mean(0) + anatomy.affine[:3, 3]
        np.testing.assert_allclose(found, centre, atol=2.5)
        assert anatomy.template[tuple(voxels.T)].mean() > 0.3  # inside the brain


def test_an_effect_lands_on_the_subjects_own_region():
    """The map carried into subject space moves what the subject's deformation made of the region."""
    shape = (32, 32, 32)
    marker = np.zeros(shape, np.float32)
    marker[14:18, 14:18, 14:18] = 1
    push = np.zeros((3, *shape), np.float32)
    push[1] = 6.0 * ndimage.gaussian_filter(np.ones(shape), 1)
    psi = deformation.exponential(jnp.asarray(-push))
    effect = deformation.exponential(jnp.asarray(3 * simba.region_mode(marker > 0, 1.0, 2.0)))
    ours = deformation.compose(effect, psi)
    where = np.abs(np.asarray(ours - psi)).sum(0)
    subjects_marker = np.asarray(deformation.warp(jnp.asarray(marker), psi))
    centre = np.array(ndimage.center_of_mass(where))
    np.testing.assert_allclose(centre, ndimage.center_of_mass(subjects_marker), atol=0.7)
    assert np.linalg.norm(centre - ndimage.center_of_mass(marker)) > 4
    # The slip of the published generator, conjugating the other way round, misses it by twice the subject's own shift.
    inverse = deformation.exponential(jnp.asarray(push))
    slipped = deformation.compose(psi, deformation.compose(effect, inverse))
    right = deformation.compose(inverse, deformation.compose(effect, psi))
    miss = np.array(ndimage.center_of_mass(np.abs(np.asarray(slipped)).sum(0))) - ndimage.center_of_mass(
        subjects_marker
    )
    hit = np.array(ndimage.center_of_mass(np.abs(np.asarray(right)).sum(0))) - ndimage.center_of_mass(
        subjects_marker
    )
    assert np.linalg.norm(hit) < 1
    assert np.linalg.norm(miss) > 8
    np.testing.assert_allclose(
        deformation.compose(psi, right)[:, 4:-4, 12:-4, 4:-4], ours[:, 4:-4, 12:-4, 4:-4], atol=0.15
    )


def test_modes_draw_fields_of_the_asked_size():
    config = simba.Simba.configure("near_4mm", subject_mm=2.0, num_modes=30)
    modes = simba.subject_modes(config, (20, 24, 16))
    amplitudes = np.random.default_rng(0).normal(size=(400, 30))
    fields = np.tensordot(amplitudes, modes, 1) * config.resolution
    assert np.sqrt((fields**2).mean()) == pytest.approx(2.0, rel=0.05)
    flat = modes.reshape(30, -1)
    gram = flat @ flat.T
    np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0, atol=1e-4 * gram.max())


def test_no_subject_of_the_shipped_design_folds():
    config = simba.Simba.configure("near_4mm")
    drawn = simba.design_subjects(config)
    extreme = sorted(drawn, key=lambda s: -abs(s.disease_score) - s.bias_score * s.has_bias)[:32]
    render = simba.make_renderer(config, simba.load_anatomy(4))
    scores = jnp.array([(s.disease_score, s.bias_score * s.has_bias) for s in extreme], jnp.float32).T
    _, least = render(jnp.array([s.number for s in extreme]), *scores)
    assert float(least.min()) > 0


def test_a_region_without_voxels_is_an_error():
    with pytest.raises(UserError, match="no voxel at 8 mm"):
        simba.region_mode(np.zeros((4, 4, 4), bool), 8, 5)


@pytest.mark.parametrize(
    ("base", "options", "message"),
    [
        ("near", {"subjects": 40}, "does not read as"),
        ("near_4mm", {"subject": 40}, "has no setting 'subject'"),
        ("near_4mm", {"subjects": 4}, "must be at least 8"),
        ("near_4mm", {"prevalence": 1.5}, "between 0 and 1"),
        ("none_4mm_counterfactual", {"subjects": 40}, "needs a bias to flip"),
        ("nearby_4mm", {"seed": 1}, "is none of none, near, far"),
    ],
)
def test_bad_settings_are_named(base, options, message):
    with pytest.raises(UserError, match=message):
        simba.Simba.configure(base, **options)


def test_names_tell_what_is_not_default():
    assert simba.Simba.configure("far_3mm", subjects=40, seed=2).name == "far_3mm_subjects40_seed2"
    assert simba.Simba.configure("near_4mm", resolution=8).name == "near_8mm"
    assert len({c.name for c in simba.Simba.BUILDER_CONFIGS}) == len(simba.Simba.BUILDER_CONFIGS)


def test_metadata_tells_an_analysis_what_was_planted(folder):
    _, opened = examples(folder, "near_8mm")
    assert opened.metadata["design"]["bias_in_disease"] == 0.7
    assert opened.metadata["region_names"] == {"disease": "right insula", "bias": "right putamen"}
    assert decode_mask(opened.metadata["regions"]["disease"]).shape == opened.image_shape[:-1]
    assert pathlib.Path(opened.builder.data_path, "cohort_report.json").exists()
