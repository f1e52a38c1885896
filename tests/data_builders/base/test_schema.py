import dataclasses
import json
import pathlib

import numpy as np
import pytest

from equipoise.data_builders import Cohort, Pixels, Scan, Schema
from equipoise.data_builders.base.schema import misfit
from equipoise.engine import data

SCHEMA = Schema((2, 3, 4, 1), np.uint8, labels={"disease": ("absent", "present")}, attributes={})
PIXELS = Pixels(np.zeros((2, 3, 4, 1), np.uint8), np.ones(3), affine=np.eye(4))
# Offsets that float32 would round by up to 0.004 mm.
AFFINE = np.array([[-0.1, 0.2, 0, 123456.789], [0, 1 / 3, 0, -98765.4321], [0, 0, 1.5, 1e-9], [0, 0, 0, 1]])


class Located(Cohort):
    """Volumes, each in its own place, or all in one."""

    FRACTIONS = {"train": 0.5, "test": 0.5}
    HAS_AFFINE = True
    METADATA = {}

    def schema(self):
        return dataclasses.replace(SCHEMA, has_affine=self.HAS_AFFINE, metadata=self.METADATA)

    def scans(self):
        for i in range(8):
            yield Scan(f"s{i}", f"p{i}", {"disease": ("absent", "present")[i % 2]}, {}, payload=i)

    def load(self, scan):
        affine = AFFINE + np.pad([[0.0, 0, 0, scan.payload]], ((0, 3), (0, 0)))
        return dataclasses.replace(PIXELS, affine=None if scan.payload == 7 else affine)


def prepare(folder):
    builder = Located(data_dir=folder)
    builder.download_and_prepare()
    report = json.loads((pathlib.Path(builder.data_path) / "cohort_report.json").read_text())
    return [data.open_split("located", name, folder) for name in ("train", "test")], report


@pytest.mark.parametrize(
    "affine", [None, np.eye(3), np.diag([1, 0, 1, 1.0]), np.diag([1, np.nan, 1, 1])], ids=str
)
def test_an_affine_that_says_no_place_does_not_fit(affine):
    pixels = dataclasses.replace(PIXELS, affine=affine)
    wanted = dataclasses.replace(SCHEMA, has_affine=True)
    assert misfit(pixels, wanted) == "affine is missing, singular or not finite"
    assert misfit(pixels, SCHEMA) is None and misfit(PIXELS, wanted) is None


def test_every_image_keeps_its_own_affine_to_the_last_digit(tmp_path):
    splits, report = prepare(tmp_path)
    assert report["skipped"] == [{"scan_id": "s7", "reason": "affine is missing, singular or not finite"}]
    for split in splits:
        for i, scan in enumerate(split.columns["scan_id"]):
            affine = split.affine(i)
            assert affine.dtype == np.float64
            np.testing.assert_array_equal(affine[:, :3], AFFINE[:, :3])
            np.testing.assert_array_equal(affine[0, 3], AFFINE[0, 3] + int(scan[1:]))


def test_images_on_one_grid_share_the_affine_of_their_metadata(tmp_path, monkeypatch):
    monkeypatch.setattr(Located, "HAS_AFFINE", False)
    monkeypatch.setattr(Located, "METADATA", {"affine": AFFINE.tolist()})
    (split, _), report = prepare(tmp_path)
    assert not report["skipped"] and "affine" not in split.source[0]
    np.testing.assert_array_equal(split.affine(0), AFFINE)


def test_a_cohort_that_was_prepared_without_affines_opens_and_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(Located, "HAS_AFFINE", False)
    prepare(tmp_path)
    monkeypatch.undo()
    (split, _), report = prepare(tmp_path)  # the builder now asks for affines; what is there is left as it is
    assert report["skipped_total"] == 0 and len(split) == 4
    assert split.affine(0) is None and split.source[0]["image"].shape == (2, 3, 4, 1)
    builder = Located(data_dir=tmp_path)
    assert builder.info.splits["train"].num_examples == 4
