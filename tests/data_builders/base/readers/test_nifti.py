import pathlib

import nibabel as nib
import numpy as np
import pytest

from equipoise.data_builders import UnreadableScan, read_nifti


def save(path, values, affine=None, **header):
    image = nib.Nifti1Image(values, np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def test_volumes_come_out_in_ras_whatever_their_axes(tmp_path):
    ras = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    reference = nib.Nifti1Image(ras, affine)
    for code in ("RAS", "LPI", "PIR", "SLA"):
        turned = reference.as_reoriented(
            nib.orientations.ornt_transform(
                nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(code)
            )
        )
        nib.save(turned, tmp_path / "x.nii")
        pixels = read_nifti(tmp_path / "x.nii")
        np.testing.assert_array_equal(pixels.image[..., 0], ras, err_msg=code)
        np.testing.assert_array_equal(pixels.spacing, [2, 3, 4], err_msg=code)


def test_integers_stay_integers_with_their_scale(tmp_path):
    image = nib.Nifti1Image(np.arange(8.0).reshape(2, 2, 2) * 0.5 + 3, np.eye(4))
    image.set_data_dtype(np.uint8)
    nib.save(image, tmp_path / "x.nii")
    pixels = read_nifti(tmp_path / "x.nii")
    assert pixels.image.dtype == np.uint8
    slope, intercept = pixels.scale
    np.testing.assert_allclose(
        pixels.image[..., 0] * slope + intercept, nib.load(tmp_path / "x.nii").get_fdata()
    )


def test_a_trailing_axis_of_one_is_dropped_and_big_endian_is_turned(tmp_path):
    values = np.arange(24, dtype=">i2").reshape(2, 3, 4, 1)
    nib.save(nib.Nifti1Image(values, np.eye(4), nib.Nifti1Header(endianness=">")), tmp_path / "x.nii")
    pixels = read_nifti(tmp_path / "x.nii")
    assert pixels.image.dtype.isnative
    np.testing.assert_array_equal(pixels.image, values)


@pytest.mark.parametrize(
    ("values", "affine", "message"),
    [
        (np.zeros((3, 3)), None, "expected a 3D volume, found shape 3x3"),
        (np.zeros((3, 3, 3, 2)), None, "expected a 3D volume, found shape 3x3x3x2"),
        (np.full((2, 2, 2), np.nan), None, "8 voxels are not finite"),
    ],
)
def test_volumes_that_cannot_be_used(tmp_path, values, affine, message):
    with pytest.raises(UnreadableScan, match=message):
        read_nifti(save(tmp_path / "x.nii", values.astype(np.float32), affine))


def test_a_singular_affine_is_refused(tmp_path):
    path = save(tmp_path / "x.nii", np.zeros((2, 2, 2), np.int16))
    content = bytearray(path.read_bytes())
    content[280:296] = bytes(16)  # first row of the sform
    path.write_bytes(content)
    with pytest.raises(UnreadableScan, match="singular"):
        read_nifti(path)


def test_the_real_template_reads_as_nilearn_reads_it():
    datasets = pytest.importorskip("nilearn.datasets")
    folder = pathlib.Path(datasets.__file__).parent / "data"
    pixels = read_nifti(folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    assert pixels.image.shape == (197, 233, 189, 1)
    assert pixels.image.dtype == np.uint8
    np.testing.assert_array_equal(pixels.spacing, 1)
