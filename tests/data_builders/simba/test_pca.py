"""Principal components of velocity fields: planted modes come back, regions stand alone, fits are kept."""

import functools
import pathlib
import tracemalloc

import numpy as np
import pytest
from scipy import linalg, ndimage

from equipoise.data_builders.base.catalogue import find_builder
from equipoise.data_builders.simba import pca as simba_pca
from equipoise.data_builders.simba.anatomy import Anatomy, load_mni152, template_grid
from equipoise.data_builders.simba.builder import Simba
from equipoise.data_builders.simba.design import design_subjects
from equipoise.data_builders.simba.fields import VelocityFields
from equipoise.data_builders.simba.pca import PrincipalComponents, decompose, gram_matrix
from equipoise.data_builders.simba.render import Renderer, Request
from equipoise.data_builders.simba.velocity import GaussianProcess, Pairing
from equipoise.data_builders.simba.volume import Shell
from equipoise.engine import data
from equipoise.engine.errors import UserError
from tests.data_builders.simba.test_anatomy import AFFINE, SHAPE, ball, write_pair
from tests.data_builders.simba.velocity_fields import opened, write_fields

GRID = (9, 11, 8)
PLACE = np.diag([-2.0, 2.0, 2.0, 1.0])


def planted(count=40, variances=(400.0, 100.0, 25.0), noise=0.0, seed=0, shape=GRID):
    """Fields [n, p] with exactly these variances along orthonormal modes, the modes [k, p] and standardised scores [n, k]."""
    generator = np.random.default_rng(seed)
    width = 3 * int(np.prod(shape))
    modes = linalg.orth(generator.normal(size=(width, len(variances)))).T
    scores = generator.normal(size=(count, len(variances)))
    scores = linalg.orth(scores - scores.mean(0)) * np.sqrt(count - 1)
    rows = generator.normal(size=width) + scores * np.sqrt(variances) @ modes
    return rows + noise * generator.normal(size=rows.shape), modes, scores


def model(folder, rows, *, share=0.95, width_mm=6.0, affine=PLACE, shape=GRID):
    """The model of these rows, mm on the turned grid of ``affine``."""
    turned = np.reshape(rows, (len(rows), 3, *shape))
    stored = turned[:, :, ::-1] if affine[0, 0] < 0 else turned
    fields = opened(write_fields(folder / "fields", stored, affine), shape, affine)
    return PrincipalComponents(fields, fields.grid.affine, share, width_mm, folder / "cache")


def test_planted_modes_come_back():
    """Noise of sd 0.01 in each of p values turns a mode of variance V by 0.01 sqrt(p / ((n - 1) V)): 0.016 at most here."""
    rows, modes, scores = planted(noise=0.01)
    leading = decompose(gram_matrix([rows]), share=0.99)
    np.testing.assert_allclose(leading.eigenvalues, [400, 100, 25], rtol=5e-3)
    components = leading.weights.T @ (rows - rows.mean(0))
    np.testing.assert_allclose(components @ components.T, np.eye(3), atol=1e-10)
    turned = 0.01 * np.sqrt(rows.shape[1] / (39 * np.array([25, 100, 400])))
    np.testing.assert_allclose(linalg.subspace_angles(components.T, modes.T), turned, rtol=0.05)
    for k in range(3):
        recovered = (rows - rows.mean(0)) @ components[k] / np.sqrt(leading.eigenvalues[k])
        assert abs(recovered @ scores[:, k]) / (len(rows) - 1) > 1 - 1e-4
        assert recovered[np.abs(recovered).argmax()] > 0


def test_the_gram_form_is_the_singular_value_decomposition():
    rows, _, _ = planted(count=12, variances=(9.0, 4.0), noise=0.3)
    centred = rows - rows.mean(0)
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    blocks = np.split(rows, [5, 700, 701, 2000], axis=1)
    fit = decompose(gram_matrix(blocks))
    assert len(fit.eigenvalues) == 11 and fit.share == pytest.approx(1)  # n - 1, the whole variance
    np.testing.assert_allclose(fit.eigenvalues, singular[:11] ** 2 / 11, rtol=1e-10)
    components = fit.weights.T @ centred
    np.testing.assert_allclose(np.abs(np.diag(components @ right[:11].T)), 1, rtol=1e-10)


@pytest.mark.parametrize(("share", "count"), [(0.5, 1), (0.8, 2), (0.96, 3), (1.0, 3)])
def test_as_many_components_as_hold_the_share(share, count):
    rows, _, _ = planted(count=8, variances=(6.0, 3.0, 1.0))  # 60, 90 and 100 %
    fit = decompose(gram_matrix([rows]), share)
    assert len(fit.eigenvalues) == count
    assert fit.share == pytest.approx([0.6, 0.9, 1.0][count - 1])


def test_fields_that_do_not_differ_are_refused():
    with pytest.raises(UserError, match="all fields are equal"):
        decompose(gram_matrix([np.ones((4, 30))]))


def test_subjects_are_the_components_of_the_files(tmp_path, monkeypatch):
    """Through files, scratch and many blocks; velocities of 2 mm voxels are half their mm."""
    monkeypatch.setattr(simba_pca, "_BLOCK", 999)
    rows, modes, _ = planted(count=10, noise=0.05)
    fit = model(tmp_path, rows, share=0.99).subject(GRID, 2)
    assert fit.modes.shape == (3, 3, *GRID) and fit.modes.dtype == np.float32
    np.testing.assert_allclose(2 * fit.mean.ravel(), rows.mean(0), atol=1e-5)
    _, singular, right = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    for k, mode in enumerate(2 * fit.modes.reshape(3, -1).astype(float)):
        expected = singular[k] / 3 * right[k]
        np.testing.assert_allclose(mode * np.sign(mode @ expected), expected, atol=2e-5)
        assert abs(mode @ modes[k]) == pytest.approx(np.sqrt([400, 100, 25][k]), rel=0.02)


def test_a_subject_on_a_coarser_grid_is_the_same_subject(tmp_path):
    """The components are of the fields' own grid; only then are they brought to another."""
    places = np.moveaxis(np.indices((13, 13, 13)), 0, -1) / 12.0
    shapes = [np.stack([np.sin(places @ w)] * 3) for w in ([1, 0, 1], [0, 2, -1])]
    scores = linalg.orth(np.random.default_rng(0).normal(size=(6, 2)) - 1)
    fields = np.tensordot(scores, shapes, 1)
    on_own_grid = model(tmp_path, fields, share=1.0, affine=np.eye(4), shape=(13,) * 3)
    fine, coarse = on_own_grid.subject((13,) * 3, 1), on_own_grid.subject((5,) * 3, 3)
    assert coarse.modes.shape[0] >= 2
    inner = (slice(None), slice(None), *(slice(1, -1),) * 3)
    away = (3 * coarse.modes[inner] - fine.modes[:, :, ::3, ::3, ::3][inner])[:2]
    assert np.abs(away).max() < 0.03 * np.abs(fine.modes).max()  # the hat's own blur


def region_of(shape=GRID):
    return ball((4, 5, 4), 2, shape)


def test_a_regions_effect_knows_nothing_of_the_rest(tmp_path):
    region = region_of()
    rows = planted(count=9, variances=(40.0, 20.0))[0]
    other = rows.reshape(9, 3, *GRID).copy()
    other[:, :, ~region] = np.random.default_rng(1).uniform(-7, 7, size=other[:, :, ~region].shape)
    effects = [
        model(tmp_path / name, values, width_mm=0.02).effect(region, 2)
        for name, values in (("a", rows), ("b", other))
    ]
    np.testing.assert_array_equal(effects[0].modes, effects[1].modes)
    np.testing.assert_array_equal(effects[0].mean, effects[1].mean)
    # A Gaussian of no width leaves the region as it is: the first component of its own values, images pulled back.
    inside = rows.reshape(9, 3, *GRID)[:, :, region].reshape(9, -1)
    _, singular, right = np.linalg.svd(inside - inside.mean(0), full_matrices=False)
    mode = 2 * effects[0].modes[0][:, region].ravel()
    expected = singular[0] / np.sqrt(8) * right[0]
    np.testing.assert_allclose(mode * np.sign(mode @ expected), expected, atol=1e-4)
    np.testing.assert_allclose(2 * effects[0].mean[:, region].ravel(), -inside.mean(0), atol=1e-5)
    assert not effects[0].modes[0][:, ~region].any()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_region_grows_at_positive_scores(tmp_path, sign):
    """Fields that point outward register larger subjects; whichever way most of them point, images pull from inside."""
    region = region_of()
    outward = (np.indices(GRID).T - [4, 5, 4]).T * np.where(region, 0.25, 0)
    amounts = sign * np.array([2.0, 0.0, -1.0, 0.5, 0.25])
    fields = amounts[:, None, None, None, None] * outward
    effect = model(tmp_path, fields, width_mm=0.02).effect(region, 2)
    np.testing.assert_allclose(2 * effect.modes[0], -amounts.std(ddof=1) * outward, atol=1e-5)
    np.testing.assert_allclose(2 * effect.mean, -amounts.mean() * outward, atol=1e-5)


def test_an_effect_is_smoothed_into_its_surroundings_at_full_height(tmp_path):
    """A region that moves as a whole: the smoothed mask, its largest value the region's own movement."""
    region = region_of()
    fields = np.zeros((4, 3, *GRID))
    fields[:, 1] = np.array([3.0, 1.0, -1.0, 1.0])[:, None, None, None]
    effect = model(tmp_path, fields, width_mm=4.0).effect(region, 2)
    smooth = ndimage.gaussian_filter(region.astype(float), 2.0)
    np.testing.assert_allclose(2 * effect.mean[1], -1.0 * smooth / smooth.max(), atol=1e-5)
    mode = 2 * effect.modes[0, 1]
    assert np.abs(mode).max() == pytest.approx(np.std([3, 1, -1, 1], ddof=1), rel=1e-5)
    assert not effect.modes[0, [0, 2]].any()


def test_subjects_move_the_way_that_their_fields_register_them(tmp_path):
    """Fields of 4 mm to the right, as ITK writes them: the subject is found 4 mm to the right of the template."""
    shape, affine = (16, 18, 14), np.diag([2.0, 2.0, 2.0, 1.0])
    fields = np.zeros((3, 3, *shape))
    fields[:, 0] = 4.0 + 1e-4 * np.arange(3)[:, None, None, None]
    brain = ndimage.gaussian_filter(ball((6, 9, 7), 3, shape).astype(np.float32), 1.0)
    anatomy = Anatomy(brain / brain.max(), np.where(ball((6, 9, 7), 1, shape), 75, 0), affine)
    config = Simba.configure("none_4mm", resolution=2, noise=0, disease_mm=0)
    velocity = Pairing(model(tmp_path, fields, affine=affine, shape=shape), GaussianProcess())
    requests = [Request(design_subjects(config)[0], frozenset())]
    (rendering,) = Renderer(config, anatomy, velocity).render(requests)
    expected = 255 * np.roll(anatomy.template, 2, axis=0)
    assert np.abs(rendering.image - expected)[3:].max() <= 1


def test_fits_are_kept_until_a_field_changes(tmp_path, monkeypatch):
    rows, _, _ = planted(count=5)
    reads = []
    read = VelocityFields.read
    monkeypatch.setattr(VelocityFields, "read", lambda self, index: reads.append(index) or read(self, index))
    fit = functools.partial(model, tmp_path)
    first, effect = fit(rows).subject(GRID, 2), fit(rows).effect(region_of(), 2)
    assert reads == [*range(5), *range(5)]
    kept, kept_effect = fit(rows).subject(GRID, 2), fit(rows).effect(region_of(), 2)
    assert len(reads) == 10
    np.testing.assert_array_equal(first.modes, kept.modes)
    np.testing.assert_array_equal(effect.mean, kept_effect.mean)
    assert not list(tmp_path.glob("cache/.*")) and len(list(tmp_path.glob("cache/*"))) == 2
    for entry in tmp_path.glob("cache/*"):
        entry.write_bytes(entry.read_bytes()[:-200])
    again = fit(rows).subject(GRID, 2)
    assert len(reads) == 15
    np.testing.assert_array_equal(first.modes, again.modes)
    fit(rows + 1).subject(GRID, 2)
    fit(rows + 1, share=0.5).subject(GRID, 2)
    assert len(reads) == 25


def test_one_field_is_in_memory_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(simba_pca, "_BLOCK", 2**16)
    shape, count = (64, 64, 64), 8
    rows = np.random.default_rng(0).normal(size=(count, 3, *shape)).astype(np.float32)
    components = model(tmp_path, rows, share=0.5, affine=np.eye(4), shape=shape)
    field_bytes = rows[0].nbytes
    del rows
    tracemalloc.start()
    try:
        components.subject((8, 8, 8), 8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * field_bytes  # the field, parts of it in other types, blocks


def test_a_fit_that_finds_no_room_says_so(tmp_path, monkeypatch):
    rows, _, _ = planted(count=4)
    components = model(tmp_path, rows)
    usage = type(simba_pca.shutil.disk_usage(tmp_path))(10, 10, 10)
    monkeypatch.setattr(simba_pca.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match="fitting 4 velocity fields needs 0.0 GiB of disk for a while"):
        components.subject(GRID, 2)


def smooth_fields(folder, count=5, scale=1.0):
    """Smooth fields on the grid of the test's own brain."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(count, 3, *SHAPE))
    fields = ndimage.gaussian_filter(noise, (0, 0, 4, 4, 4))
    return write_fields(folder, scale * fields / fields.std(), AFFINE, ".nii.gz")


def cohort(folder, **options):
    template, labels = map(str, write_pair(folder))
    return find_builder(
        "simba/near_2mm", data_dir=folder / "data", subjects=24, template=template, labels=labels, disease_region=21,
        bias_region=34, velocity_model="pca", velocity_fields=str(folder / "secret_place"), effect_width_mm=3, **options,
    )  # fmt: skip


def prepare(folder, **options):
    builder = cohort(folder, **options)
    builder.download_and_prepare()
    return builder


def test_a_users_fields_become_a_cohort_without_their_paths(tmp_path, monkeypatch):
    smooth_fields(tmp_path / "secret_place")
    builder = prepare(tmp_path)
    config = builder.builder_config
    stem, _, digest = config.name.rpartition("_fields")
    assert len(digest) == 10 and "local_modelcomponent" in stem and "velocity_modelpca" in stem
    assert config.design()["velocity_fields"] == f"user:{digest}"
    opened_split = data.open_split(f"simba/{config.name}", "train", tmp_path / "data")
    images = [opened_split.source[i]["image"] for i in range(4)]
    assert np.abs(images[0].astype(int) - images[1]).max() > 50
    for path in pathlib.Path(builder.data_path).rglob("*"):
        assert b"secret_place" not in path.read_bytes()
    (tmp_path / "secret_place").rename(tmp_path / "elsewhere")
    (tmp_path / "secret_place").symlink_to(tmp_path / "elsewhere")
    assert cohort(tmp_path).builder_config.name == config.name
    monkeypatch.setattr(VelocityFields, "read", lambda self, index: pytest.fail("fitted again"))
    prepare(tmp_path, seed=1)
    assert len(list((tmp_path / "data/.cache/velocity_models").iterdir())) == 3  # subjects and two regions


@pytest.mark.parametrize(("effects", "kind"), [("volume", Shell), ("expansion", GaussianProcess)])
def test_other_effects_go_with_a_users_subjects(tmp_path, effects, kind):
    smooth_fields(tmp_path / "secret_place")
    builder = cohort(tmp_path, local_model=effects)
    model = builder.velocity_model()
    assert isinstance(model.subjects, PrincipalComponents) and isinstance(model.effects, kind)
    assert model.subject(SHAPE, 2).modes.shape == (4, 3, *SHAPE)


def test_a_bad_field_ends_a_build_before_it_begins(tmp_path):
    folder = smooth_fields(tmp_path / "secret_place")
    file = folder / "field-03.nii.gz"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match="field-03.nii.gz: data are truncated or damaged"):
        prepare(tmp_path)
    assert not list((tmp_path / "data").glob("simba/*/*/cohort_report.json"))


def test_the_installed_brain_has_a_grid_of_its_own():
    """One voxel of the cohort's grid, cropped and coarse, lies where the template's own file has that place."""
    grid, anatomy = template_grid(None), load_mni152(4)
    assert grid.shape == (197, 233, 189) and np.diag(grid.affine).tolist() == [1, 1, 1, 1]
    places = np.linalg.inv(grid.affine) @ anatomy.affine
    off = places[:3, :3] - np.diag(np.diag(places[:3, :3]))
    np.testing.assert_allclose(np.diag(places), [4, 4, 4, 1])
    assert not off.any()
    assert Simba.configure("near_4mm").template_grid().identity == grid.identity
