"""A user's velocity fields: units, axes and signs by the header, grids, and what is refused."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from equipoise.data_builders.simba.anatomy import VoxelGrid
from equipoise.data_builders.simba.fields import list_fields, resampler
from equipoise.engine.errors import UserError
from tests.data_builders.simba.velocity_fields import LPS, opened, write_field, write_fields

SHAPE = (5, 6, 4)
# Voxels of 2 x 1 x 3 mm, the first axis to the left, the second up, the third to the front.
TURNED = np.array([[-2.0, 0, 0, 8], [0, 0, 3, -7], [0, 1, 0, 5], [0, 0, 0, 1]])


def draw(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).uniform(-0.4, 0.4, size=(3, *shape)).astype(np.float32)


def three(folder, **options):
    """Three fields, the first with the options."""
    folder.mkdir(exist_ok=True)
    for index in range(3):
        write_field(folder / f"{index}.nii", draw(index), TURNED, **(options if index == 0 else {}))
    return folder


def check_at_places(grid, field, values, to_ras):
    """Every voxel of a file is found again by its place in mm, its vector turned by ``to_ras``."""
    for index in np.ndindex(SHAPE):
        place = TURNED @ [*index, 1]
        at = tuple(np.rint(np.linalg.inv(grid.affine) @ place).astype(int)[:3])
        np.testing.assert_allclose(grid.affine @ [*at, 1], place, atol=1e-9)
        np.testing.assert_allclose(
            field[(slice(None), *at)], to_ras @ values[(slice(None), *index)], rtol=1e-5
        )


@pytest.mark.parametrize(
    ("options", "to_ras"),
    [
        ({}, np.diag(LPS)),
        ({"code": "displacement vector"}, np.eye(3)),
        ({"code": "displacement vector", "layout": 4}, np.eye(3)),
        ({"name": "voxels"}, TURNED[:3, :3]),
        ({"name": "voxels", "layout": 4}, TURNED[:3, :3]),
        ({"name": "voxels", "code": "displacement vector", "unit": "unknown"}, TURNED[:3, :3]),
    ],
)
def test_the_header_says_what_components_are(tmp_path, options, to_ras):
    fields = opened(three(tmp_path, **options), SHAPE, TURNED)
    assert fields.grid.shape == (5, 4, 6)
    assert np.count_nonzero(fields.grid.affine[:3, :3]) == 3 and (np.diag(fields.grid.affine) > 0).all()
    field = fields.read(0)
    assert field.dtype == np.float32
    check_at_places(fields.grid, field, draw(0), to_ras)


def test_signs_and_axes_are_those_of_simpleitk(tmp_path):
    """A field on a grid that is oblique, anisotropic and shifted, written by ITK."""
    sitk = pytest.importorskip("SimpleITK")
    values = draw(7)
    image = sitk.GetImageFromArray(np.moveaxis(values, 0, -1).transpose(2, 1, 0, 3), isVector=True)
    angle = 0.2
    turn = np.array(
        [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    ) @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, -1]])
    image.SetDirection(turn.ravel().tolist())
    image.SetSpacing([2.0, 1.0, 3.0])
    image.SetOrigin([10.0, -20.0, 5.0])
    for index in range(3):
        sitk.WriteImage(image, str(tmp_path / f"{index}.nii.gz"))
    written = sitk.ReadImage(str(tmp_path / "0.nii.gz"))
    fields = opened(tmp_path, SHAPE, nib.load(tmp_path / "0.nii.gz").affine)
    field = fields.read(0)
    for index in [(0, 0, 0), (4, 5, 3), (1, 4, 2), (3, 0, 1)]:
        np.testing.assert_allclose(written.GetPixel(index), values[(slice(None), *index)], rtol=1e-6)
        place = LPS * written.TransformIndexToPhysicalPoint(index)
        at = np.linalg.inv(fields.grid.affine) @ [*place, 1]
        np.testing.assert_allclose(at, np.rint(at), atol=1e-4)
        vector = field[(slice(None), *np.rint(at[:3]).astype(int))]
        np.testing.assert_allclose(vector, LPS * written.GetPixel(index), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"code": "none"}, "0.nii: intent 0 of shape 5x6x4x1x3 does not say whether components are mm or voxels"),
        ({"code": "none", "layout": 4}, "intent 0 of shape 5x6x4x3 does not say"),
        ({"layout": 4}, "intent 1007 of shape 5x6x4x3 does not say"),
        ({"name": "NREG_TRANS"}, "intent 1007 'NREG_TRANS' of shape .* does not say"),
        ({"code": "correlation"}, "intent 2 of shape"),
        ({"unit": "meter"}, "0.nii: its unit is meter: mm is expected"),
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        opened(three(tmp_path, **options), SHAPE, TURNED)


def test_the_first_file_off_the_templates_grid_is_named(tmp_path):
    three(tmp_path)
    write_field(tmp_path / "1.nii", draw(1, (5, 6, 5)), TURNED)
    write_field(tmp_path / "2.nii", draw(2, (5, 6, 6)), TURNED)
    with pytest.raises(UserError, match="1.nii: has 5x5x6 voxels, the template 5x4x6: resample the fields"):
        opened(tmp_path, SHAPE, TURNED)
    moved = TURNED.copy()
    moved[0, 3] += 0.5
    write_field(tmp_path / "1.nii", draw(1), moved)
    with pytest.raises(UserError, match="1.nii: its grid lies up to 0.5 mm from the template's"):
        opened(tmp_path, SHAPE, TURNED)
    write_field(tmp_path / "1.nii", draw(1)[:2], TURNED)
    with pytest.raises(UserError, match="1.nii: shape 5x6x4x1x2 is not a field of vectors"):
        opened(tmp_path, SHAPE, TURNED)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_that_is_cut_short_is_named(tmp_path, compressed):
    shape = (20, 20, 20)
    write_fields(tmp_path, [draw(i, shape) for i in range(3)], np.eye(4), ".nii.gz" if compressed else ".nii")
    file = sorted(tmp_path.iterdir())[1]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    fields = opened(tmp_path, shape, np.eye(4))
    fields.read(0)
    with pytest.raises(UserError, match=f"{file.name}: data are truncated or damaged"):
        fields.read(1)
    file.write_bytes(whole[:100])
    with pytest.raises(UserError, match=f"{file.name}: not a readable NIfTI file"):
        opened(tmp_path, shape, np.eye(4))
    file.write_bytes(gzip.compress(b"hello") if compressed else b"hello")
    with pytest.raises(UserError, match=f"{file.name}: not a readable NIfTI file"):
        opened(tmp_path, shape, np.eye(4))


def test_values_that_are_no_velocities_are_named(tmp_path):
    three(tmp_path)
    values = draw()
    values[0, 0, 0, :2] = np.nan
    write_field(tmp_path / "0.nii", values, TURNED)
    with pytest.raises(UserError, match="0.nii: 2 values are not finite"):
        opened(tmp_path, SHAPE, TURNED).read(0)
    write_field(tmp_path / "0.nii", 100 + draw(), TURNED)  # positions, say
    with pytest.raises(UserError, match="0.nii: its largest velocity, 100.* mm, is more than half"):
        opened(tmp_path, SHAPE, TURNED).read(0)


def test_a_folder_holds_fields_and_nothing_else(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        list_fields(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds 0 .nii or .nii.gz files: principal components need 3"):
        list_fields(tmp_path)
    three(tmp_path)
    (tmp_path / ".DS_Store").write_text("")
    assert [f.name for f in list_fields(tmp_path)] == ["0.nii", "1.nii", "2.nii"]
    (tmp_path / "3.mha").write_text("")
    with pytest.raises(UserError, match="3.mha: is no .nii or .nii.gz file"):
        list_fields(tmp_path)


def test_a_linear_field_comes_onto_any_grid_as_it_is():
    source = VoxelGrid((12, 14, 10), np.diag([1.0, 1.5, 2.0, 1.0]))
    affine = np.diag([2.0, 3.0, 2.0, 1.0])
    affine[:3, 3] = [2.0, 3.0, 3.0]
    target = VoxelGrid((3, 4, 6), affine)
    slope = np.random.default_rng(0).normal(size=(3, 3))

    def linear(grid):
        places = np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
        return np.moveaxis(places @ slope.T, -1, 0)

    resampled = resampler(source, target)(linear(source).astype(np.float32))
    expected = linear(target) / np.array([2.0, 3.0, 2.0])[:, None, None, None]
    np.testing.assert_allclose(resampled, expected, atol=1e-4)
    same = resampler(source, source)(linear(source).astype(np.float32))
    np.testing.assert_allclose(same.T * [1, 1.5, 2], linear(source).T, rtol=1e-5, atol=1e-4)


def test_beyond_a_grid_its_edge_goes_on():
    source, affine = VoxelGrid((4, 4, 4), np.eye(4)), np.eye(4)
    affine[:3, 3] = -2
    field = np.arange(3 * 64, dtype=np.float32).reshape(3, 4, 4, 4)
    resampled = resampler(source, VoxelGrid((8, 8, 8), affine))(field)
    np.testing.assert_array_equal(resampled, np.pad(field, [(0, 0), (2, 2), (2, 2), (2, 2)], mode="edge"))
