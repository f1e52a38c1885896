"""What lay at a place in the world still lies there, whatever the grid: the affine follows the voxels."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest

from equipoise.data_builders import Pixels, crop_or_pad_pixels, read_nifti, resample

SHAPE = (8, 9, 10)
ANGLE = 0.3
TURN = np.array(
    [[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]]
) @ np.array([[1, 0, 0], [0, np.cos(0.2), np.sin(0.2)], [0, -np.sin(0.2), np.cos(0.2)]])
AFFINES = {
    "isotropic": nib.affines.from_matvec(np.diag([2.0, 2, 2]), [-90.5, -126, -72]),
    "anisotropic": nib.affines.from_matvec(np.diag([0.9, 1.1, 3.3]), [-90.25, 1000, 1e5]),
    "flipped": nib.affines.from_matvec(np.diag([-1.0, 2, -1.5]), [90, -126, 72]),
    "permuted": nib.affines.from_matvec([[0, 0, 1.5], [-1, 0, 0], [0, 2, 0]], [10, 20, 30]),
    "oblique": nib.affines.from_matvec(TURN @ np.diag([1.0, 2, 1.5]), [-90, -126, -72]),
    "oblique and flipped": nib.affines.from_matvec(TURN @ np.diag([1.0, -2, 1.5]), [-90, 126, -72]),
}
any_affine = pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)


def world(affine, shape):
    """[*spatial, 3] mm of every voxel."""
    return nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def read(folder, affine):
    """A volume whose brightness is a linear function of the place: 2 x + 3 y - z, in mm about the middle."""
    image = nib.Nifti1Image(np.zeros(SHAPE, np.float32), affine)
    image.set_sform(affine)
    stored = nib.Nifti1Image.from_bytes(image.to_bytes()).affine  # float32, as a file holds it
    middle = world(stored, SHAPE).reshape(-1, 3).mean(0)
    values = (world(stored, SHAPE) - middle) @ [2, 3, -1]
    nib.save(nib.Nifti1Image(values.astype(np.float32), stored), folder / "x.nii")
    return read_nifti(folder / "x.nii"), middle


def in_place(pixels, middle):
    """How far brightness is from what the place asks for, [*spatial]."""
    expected = (world(pixels.affine, pixels.image.shape[:3]) - middle) @ [2, 3, -1]
    return np.abs(pixels.image[..., 0] - expected)


@any_affine
def test_reading_turns_the_affine_with_the_voxels(tmp_path, affine):
    pixels, middle = read(tmp_path, affine)
    assert pixels.affine.dtype == np.float64
    np.testing.assert_allclose(
        pixels.affine, nib.as_closest_canonical(nib.load(tmp_path / "x.nii")).affine, atol=1e-9
    )
    assert nib.aff2axcodes(pixels.affine) == ("R", "A", "S")
    assert in_place(pixels, middle).max() < 1e-4


@any_affine
@pytest.mark.parametrize("factor", [0.5, 1.7, 2])
def test_resampling_keeps_every_place(tmp_path, affine, factor):
    pixels, middle = read(tmp_path, affine)
    new = resample(pixels, tuple(np.float64(pixels.spacing) * factor))
    np.testing.assert_allclose(nib.affines.voxel_sizes(new.affine), new.spacing, rtol=1e-6)
    shape = np.array(new.image.shape[:3])
    # Closed form: index i of the new grid is index f i + (f - 1) / 2 of the old one.
    for index in ((0, 0, 0), (1, 2, 1), tuple(shape - 1)):
        old = factor * np.array(index) + (factor - 1) / 2
        np.testing.assert_allclose(
            nib.affines.apply_affine(new.affine, index), nib.affines.apply_affine(pixels.affine, old), atol=1e-6
        )  # fmt: skip
    corner = [-0.5, -0.5, -0.5]
    np.testing.assert_allclose(
        nib.affines.apply_affine(new.affine, corner), nib.affines.apply_affine(pixels.affine, corner), atol=1e-6
    )  # fmt: skip
    # A linear brightness stays itself under linear interpolation, away from the edges that go on as constants.
    inner = in_place(new, middle)[(slice(2, -2),) * 3]
    assert inner.size == 0 or inner.max() < 0.02


@any_affine
@pytest.mark.parametrize("shape", [(4, 4, 4), (5, 6, 7), (12, 13, 15), (8, 20, 3), (9, 8, 11), SHAPE])
def test_cropping_and_padding_keep_every_place(tmp_path, affine, shape):
    pixels, middle = read(tmp_path, affine)
    new = crop_or_pad_pixels(pixels, shape, np.nan)
    assert new.image.shape == (*shape, 1)
    there = ~np.isnan(new.image[..., 0])
    overlap = np.minimum(shape, pixels.image.shape[:3]).prod()
    assert there.sum() == overlap
    np.testing.assert_allclose(in_place(new, middle)[there], 0, atol=1e-4)
    # Every voxel that is kept, known by its number, lies where it lay.
    numbers = dataclasses.replace(pixels, image=np.arange(720, dtype=np.float32).reshape(*pixels.image.shape))
    moved = crop_or_pad_pixels(numbers, shape, -1).image[..., 0].astype(int)
    before = world(pixels.affine, pixels.image.shape[:3]).reshape(-1, 3)
    np.testing.assert_allclose(world(new.affine, shape)[moved >= 0], before[moved[moved >= 0]], atol=1e-6)


def test_pixels_without_an_affine_stay_without():
    pixels = Pixels(np.zeros((4, 4, 4, 1), np.uint8), np.ones(3), mask=np.ones((4, 4, 4), np.uint8))
    assert resample(pixels, (2, 2, 2)).affine is None
    cropped = crop_or_pad_pixels(pixels, (6, 2, 4), 7)
    assert cropped.affine is None and cropped.image[0, 0, 0, 0] == 7
    assert cropped.mask.shape == (6, 2, 4) and cropped.mask[0].sum() == 0 and cropped.mask[1:5].all()


def test_the_mask_moves_with_the_image():
    image = np.zeros((6, 6, 6, 1), np.uint8)
    image[2, 3, 4] = 200
    pixels = Pixels(image, np.ones(3), mask=(image[..., 0] > 0).astype(np.uint8), affine=np.eye(4))
    new = crop_or_pad_pixels(pixels, (9, 4, 5))
    (place,) = np.argwhere(new.mask)
    np.testing.assert_array_equal(new.image[..., 0] > 0, new.mask > 0)
    np.testing.assert_allclose(nib.affines.apply_affine(new.affine, place), [2, 3, 4])
