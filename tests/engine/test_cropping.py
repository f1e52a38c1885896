"""What a centre crop cuts away from masks is counted, and said once."""

import logging

import numpy as np

from equipoise.engine import cropping, data
from equipoise.engine.config import Data
from equipoise.engine.transforms import spatial


def test_what_a_crop_takes_away_is_said(masks_data_dir, caplog):
    split = data.open_split("tiny_masks", "test", masks_data_dir)
    with caplog.at_level(logging.WARNING, "absl"):
        cropping.warn_of_cut(split, Data(shape=(12, 12)))
    assert not caplog.records
    masks = [split.source[i]["mask"] for i in range(len(split))]
    lost = [np.count_nonzero(m) - np.count_nonzero(spatial.crop_or_pad(m, (6, 6))) for m in masks]
    assert cropping.count_cut(split, (6, 6)) == (np.count_nonzero(lost), 0)
    with caplog.at_level(logging.WARNING, "absl"):
        cropping.warn_of_cut(split, Data(shape=(6, 6)))
    assert f"in {np.count_nonzero(lost)} of {len(split)} images" in caplog.text
