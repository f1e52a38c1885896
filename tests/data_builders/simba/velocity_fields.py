"""Folders of velocity fields for tests."""

import nibabel as nib
import numpy as np

from equipoise.data_builders.simba.anatomy import VoxelGrid
from equipoise.data_builders.simba.fields import VelocityFields, list_fields

LPS = np.array([-1, -1, 1])


def write_field(path, values, affine, *, code="vector", name="", layout=5, unit="mm"):
    """[3, d, h, w] as they are, on a grid of that affine, in a header that says so."""
    data = np.moveaxis(np.asarray(values), 0, -1)
    image = nib.Nifti1Image(data[:, :, :, None] if layout == 5 else data, affine)
    image.header.set_intent(code, name=name)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


def write_fields(folder, fields, affine, suffix=".nii"):
    """Fields [n, 3, d, h, w] in mm to the right, anterior, superior, as ITK writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, field in enumerate(fields):
        write_field(folder / f"field-{index:02d}{suffix}", (field.T * LPS).T.astype(np.float32), affine)
    return folder


def opened(folder, shape, affine):
    return VelocityFields(list_fields(folder), VoxelGrid.canonical(tuple(shape), np.asarray(affine, float)))
