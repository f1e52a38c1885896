"""PNG and JPEG pictures, with the bit depth of the file."""

import pathlib

import numpy as np

from equipoise.data_builders.base.readers.pixels import Pixels, UnreadableScan


def read_picture(path: pathlib.Path) -> Pixels:
    """Reads a PNG or JPEG: 8-bit grey or colour, or 16-bit grey. The spacing is 1, because pictures do not hold one.

    Raises:
      UnreadableScan: for a file that is missing, truncated or no picture.
    """
    from PIL import Image

    if not pathlib.Path(path).exists():
        raise UnreadableScan("file is missing")
    try:
        with Image.open(path) as opened:
            opened.load()
            deep = opened.mode.startswith("I")
            grey = opened.mode in ("L", "1", "LA") or deep
            values = np.asarray(opened if deep else opened.convert("L" if grey else "RGB"))
    except Exception as error:
        raise UnreadableScan(f"picture is truncated or damaged ({type(error).__name__})") from error
    if deep:
        values = values.astype(np.uint16)
    return Pixels(values[..., None] if values.ndim == 2 else values, np.ones(2, np.float32))
