"""What a centre crop (``data.shape``) cuts away from the masks of a split."""

import concurrent.futures

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from equipoise.engine import hosts
from equipoise.engine.config import Data
from equipoise.engine.data import Split
from equipoise.engine.transforms import spatial


def count_cut(split: Split, shape: tuple[int, ...], threads: int = 2) -> tuple[int, int]:
    """Counts the images of a split that lose foreground to a centre crop.

    Args:
      split: a split with masks.
      shape: [*spatial] the size after the crop.
      threads: how many threads read masks.

    Returns:
      (images that lose some of their foreground, images that lose all of it).
    """
    source = split.builder.as_data_source(split=split.name, decoders={"image": tfds.decode.SkipDecoding()})

    def loses(row: int) -> tuple[bool, bool]:
        mask = source[row]["mask"]
        before, after = np.count_nonzero(mask), np.count_nonzero(spatial.crop_or_pad(mask, shape))
        return after < before, bool(before) and not after

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        cut = np.array(list(pool.map(loses, range(len(split)))))
    return int(cut[:, 0].sum()), int(cut[:, 1].sum())


def warn_of_cut(split: Split, settings: Data) -> None:
    """Logs how many images of a split lose foreground to ``data.shape``; reads masks only where that can happen."""
    stored = split.image_shape[:-1]
    if not settings.shape or all(
        n is not None and n <= m for n, m in zip(stored, settings.shape, strict=False)
    ):
        return
    if hosts.is_main():
        some, entirely = count_cut(split, settings.shape, settings.num_threads)
        if some:
            logging.warning(
                "--config.data.shape=%s cuts foreground away in %d of %d images of %s %s, all of it in %d: what is cut is "
                "neither learnt nor scored; a larger shape keeps it",
                tuple(settings.shape), some, len(split), split.cohort, split.name, entirely,
            )  # fmt: skip
