import json
import pathlib

import numpy as np
import pytest

from equipoise.data_builders.base import cohort
from equipoise.data_builders.base.cohort import Cohort
from equipoise.data_builders.base.readers import Pixels
from equipoise.data_builders.base.schema import Scan, Schema
from equipoise.engine.errors import UserError


class Visits(Cohort):
    """Eight people with two scans each; a test edits their rows."""

    FRACTIONS = {"train": 0.5, "test": 0.5}
    EDITS: dict[str, dict] = {}

    def schema(self):
        return Schema(
            image_shape=(2, 2, 1),
            dtype=np.uint8,
            labels={"disease": ("absent", "present")},
            attributes={"sex": ("F", "M")},
        )

    def scans(self):
        for i in range(8):
            for visit in "ab":
                row = {
                    "scan_id": f"p{i}{visit}",
                    "subject_id": f"p{i}",
                    "labels": {"disease": ("absent", "present")[i % 2]},
                    "attributes": {"sex": "F"},
                }
                yield Scan(**row | self.EDITS.get(f"p{i}{visit}", self.EDITS.get("*", {})))

    def load(self, scan):
        return Pixels(np.zeros((2, 2, 1), np.uint8), np.ones(2))


def build(folder, monkeypatch, edits=None):
    monkeypatch.setattr(Visits, "EDITS", edits or {})
    builder = Visits(data_dir=folder)
    builder.download_and_prepare()
    return pathlib.Path(builder.data_path)


def test_people_with_contradictory_labels_and_attributes_are_counted(tmp_path, monkeypatch):
    edits = {
        "p0a": {"labels": {"disease": "present"}},  # p0b says absent
        "p1a": {"attributes": {"sex": "M"}},  # p1b says F
        "p2a": {"attributes": {"sex": None}},  # unknown contradicts nothing
    }
    folder = build(tmp_path, monkeypatch, edits)
    counts = json.loads((folder / "cohort_report.json").read_text())["counts"]
    found = [c["subjects_with_two_levels"] for c in counts.values()]
    assert {k: v for each in found for k, v in each.items()} == {"labels/disease": 1, "attributes/sex": 1}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"scan_id": "/raw/jane/t1.nii"}, "scan_id '/raw/jane/t1.nii' is empty or a path"),
        ({"scan_id": "raw\\t1.nii"}, "scan_id .* is empty or a path"),
        ({"subject_id": "sub-01/ses-1"}, "subject_id 'sub-01/ses-1' is empty or a path"),
        ({"subject_id": ""}, "subject_id '' is empty or a path"),
    ],
)
def test_an_identifier_is_never_a_path(tmp_path, monkeypatch, edit, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path, monkeypatch, {"p3a": edit})


def test_a_cohort_without_labels_is_an_error_with_the_reason(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"all 16 scans were skipped: label 'disease' is missing \(16\)"):
        build(tmp_path, monkeypatch, {"*": {"labels": {"disease": None}}})


def test_a_failed_build_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    """The report is written before TFDS renames its temporary folder, so a dataset never stands without one."""

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cohort.json, "dumps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, monkeypatch)
    assert not list(tmp_path.glob("visits/1.0.0"))
    monkeypatch.undo()
    folder = build(tmp_path, monkeypatch)
    report = json.loads((folder / "cohort_report.json").read_text())
    assert sum(c["scans"] for c in report["counts"].values()) == 16
    assert len(json.loads((folder / "splits.json").read_text())) == 8


def test_a_dataset_without_its_report_is_not_taken_for_a_prepared_cohort(tmp_path, monkeypatch):
    (build(tmp_path, monkeypatch) / "cohort_report.json").unlink()
    with pytest.raises(UserError, match=r"has no cohort_report.json.*Remove the folder"):
        build(tmp_path, monkeypatch)
