"""One decoded scan, and the reason why a scan cannot be used."""

import dataclasses

import numpy as np


class UnreadableScan(Exception):
    """A scan that cannot be used; its message is the reason that the cohort report gives (no path in it)."""


@dataclasses.dataclass(frozen=True)
class Pixels:
    """One decoded scan.

    Attributes:
      image: [*spatial, channel], as stored.
      spacing: [num_spatial], mm.
      scale: real intensity = image · scale[0] + scale[1].
      mask: [*spatial] uint8, or None.
      affine: [4, 4] float64, from the index of a voxel to its place in the world, in mm to the right, anterior and
        superior; None for pictures, and for volumes whose place is not known.
    """

    image: np.ndarray
    spacing: np.ndarray
    scale: tuple[float, float] = (1.0, 0.0)
    mask: np.ndarray | None = None
    affine: np.ndarray | None = None
