"""Readers of image files: integers stay integers, and a file that cannot be trusted is refused with the reason.

Every reader of images returns :class:`Pixels` or raises :class:`UnreadableScan`. :func:`resample` and
:func:`crop_or_pad_pixels` bring pixels onto another grid, and their affine with them.
"""

from equipoise.data_builders.base.readers.nifti import read_nifti
from equipoise.data_builders.base.readers.npz import read_npz
from equipoise.data_builders.base.readers.picture import read_picture
from equipoise.data_builders.base.readers.pixels import Pixels, UnreadableScan
from equipoise.data_builders.base.readers.resample import crop_or_pad_pixels, resample

__all__ = [
    "Pixels",
    "UnreadableScan",
    "crop_or_pad_pixels",
    "read_nifti",
    "read_npz",
    "read_picture",
    "resample",
]
