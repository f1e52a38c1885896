import numpy as np
import pytest
from PIL import Image

from equipoise.data_builders import UnreadableScan, read_picture


def test_pictures_keep_their_depth(tmp_path):
    rng = np.random.default_rng(0)
    grey8, grey16 = (
        rng.integers(0, 255, (3, 4)).astype(np.uint8),
        rng.integers(0, 65535, (3, 4)).astype(np.uint16),
    )
    colour = rng.integers(0, 255, (3, 4, 3)).astype(np.uint8)
    for name, values in (("a.png", grey8), ("b.png", grey16), ("c.png", colour)):
        Image.fromarray(values).save(tmp_path / name)
        pixels = read_picture(tmp_path / name)
        assert pixels.image.dtype == values.dtype
        np.testing.assert_array_equal(pixels.image.squeeze(), values)
        assert pixels.image.ndim == 3


def test_a_truncated_picture_and_a_missing_one(tmp_path):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "x.jpg")
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableScan, match="truncated"):
        read_picture(tmp_path / "x.jpg")
    with pytest.raises(UnreadableScan, match="missing"):
        read_picture(tmp_path / "y.jpg")
