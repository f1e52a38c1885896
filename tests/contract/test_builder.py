"""Invariant: a builder gives the same records in the same order, hides paths, enforces vocabularies, lists what it skips."""

import json
import pathlib

import nibabel as nib
import numpy as np
import pytest

from equipoise.data_builders.base import catalogue
from equipoise.data_builders.base.cohort import Cohort
from equipoise.data_builders.base.readers import read_nifti
from equipoise.data_builders.base.schema import Scan, Schema
from equipoise.engine import data
from equipoise.engine.errors import UserError


class Brains(Cohort):
    """NIfTI files and their sheet, in a folder."""

    FRACTIONS = {"train": 0.5, "validation": 0.25, "test": 0.25}

    def schema(self):
        return Schema(
            image_shape=(4, 5, 6, 1),
            dtype=np.int16,
            labels={"disease": ("absent", "present")},
            attributes={"sex": ("F", "M"), "age": None},
            positive={"disease": "present"},
        )

    def scans(self):
        for line in (self.source_dir / "sheet.csv").read_text().splitlines():
            name, disease, sex, age = line.split(",")
            yield Scan(
                name, f"person-{name}", {"disease": disease}, {"sex": sex, "age": float(age) if age else None},
                stratum=disease, payload=self.source_dir / f"{name}.nii.gz",
            )  # fmt: skip

    def load(self, scan):
        return read_nifti(scan.payload)


def write(folder, rows=16, order=1, **changes):
    """A folder of ``rows`` volumes; ``changes`` maps a name to its sheet line."""
    folder.mkdir()
    lines = []
    for i in range(rows):
        name = f"b{i:02d}"
        values = np.random.default_rng(i).integers(0, 999, (4, 5, 6)).astype(np.int16)
        nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), folder / f"{name}.nii.gz")
        lines.append(changes.get(name, f"{name},{('absent', 'present')[i % 2]},{'FM'[i // 2 % 2]},{40 + i}"))
    (folder / "sheet.csv").write_text("\n".join(lines[::order]) + "\n")
    return folder


def build(source, data_dir):
    builder = Brains(source_dir=source, data_dir=data_dir)
    builder.download_and_prepare()
    return pathlib.Path(builder.data_path)


def report(folder):
    return json.loads((folder / "cohort_report.json").read_text())


def records(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if "array_record" in p.name}


def test_two_builds_are_equal_to_the_byte_whatever_the_order_of_the_listing(tmp_path):
    a = build(write(tmp_path / "one"), tmp_path / "a")
    b = build(write(tmp_path / "two", order=-1), tmp_path / "b")
    assert records(a) == records(b) and len(records(a)) == 3
    assert (a / "splits.json").read_bytes() == (b / "splits.json").read_bytes()
    assert report(a) == report(b)


def test_no_file_that_is_written_holds_the_source_path(tmp_path):
    folder = build(write(tmp_path / "secret_place"), tmp_path / "a")
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"secret_place" not in path.read_bytes(), path.name


def test_examples_are_canonical(tmp_path):
    build(write(tmp_path / "raw", b00="b00,absent,,"), tmp_path / "a")
    split = [data.open_split("brains", s, tmp_path / "a") for s in Brains.FRACTIONS]
    examples = [s.source[i] for s in split for i in range(len(s))]
    assert len(examples) == 16
    first = next(e for e in examples if e["scan_id"] == b"b00")
    assert first["image"].dtype == np.int16 and first["image"].shape == (4, 5, 6, 1)
    np.testing.assert_array_equal(
        first["image"][..., 0], np.random.default_rng(0).integers(0, 999, (4, 5, 6))
    )
    np.testing.assert_array_equal(first["spacing"], [1, 1, 2])
    np.testing.assert_array_equal(first["scale"], [1, 0])
    assert split[0].vocabulary("attributes") == {"age": None, "sex": ["F", "M", "unknown"]}
    assert first["attributes"]["sex"] == 2 and np.isnan(first["attributes"]["age"])


def test_every_skipped_scan_is_listed_with_its_reason(tmp_path):
    source = write(tmp_path / "raw", rows=24, b05="b05,,F,40")
    content = (source / "b01.nii.gz").read_bytes()
    (source / "b01.nii.gz").write_bytes(content[: len(content) * 9 // 10])
    (source / "b02.nii.gz").unlink()
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 7), np.int16), np.eye(4)), source / "b03.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), source / "b04.nii.gz")
    (source / "b06.nii.gz").write_bytes(b"not an image")
    found = report(build(source, tmp_path / "a"))
    reasons = {s["scan_id"]: s["reason"] for s in found["skipped"]}
    assert set(reasons) == {"b01", "b02", "b03", "b04", "b05", "b06"}
    assert "truncated or damaged" in reasons["b01"]
    assert reasons["b02"] == "file is missing"
    assert reasons["b03"] == "shape 4x5x7x1, expected 4x5x6x1"
    assert reasons["b04"] == "stored as float32, expected int16"
    assert reasons["b05"] == "label 'disease' is missing"
    assert "not a readable NIfTI" in reasons["b06"]
    assert found["skipped_total"] == 6
    assert sum(c["scans"] for c in found["counts"].values()) == 18


def test_counts_are_by_split_and_level(tmp_path):
    counts = report(build(write(tmp_path / "raw", b00="b00,absent,,"), tmp_path / "a"))["counts"]
    assert {k: c["scans"] for k, c in counts.items()} == {"train": 8, "validation": 4, "test": 4}
    total = sum(
        np.array([c["attributes"]["sex"].get(k, 0) for k in ("F", "M", "unknown")]) for c in counts.values()
    )
    assert total.tolist() == [7, 8, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "b03,present,Female,40",
            r"scan 'b03', attribute 'sex': 'Female' is not one of \['F', 'M', 'unknown'\]",
        ),
        ("b03,sick,F,40", r"scan 'b03', label 'disease': 'sick' is not one of"),
        ("b04,present,F,40", "1 scan id.s. appear more than once, e.g. 'b04'"),
    ],
)
def test_what_is_outside_the_vocabulary_stops_the_build(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        build(write(tmp_path / "raw", b03=line), tmp_path / "a")


def test_an_empty_folder_is_an_error_that_says_what_to_do(tmp_path):
    source = tmp_path / "raw"
    source.mkdir()
    (source / "sheet.csv").write_text("")
    with pytest.raises(UserError, match=r"no scan found in .*raw. Is --source_dir the folder"):
        build(source, tmp_path / "a")


def test_a_cohort_without_one_usable_scan_is_an_error_with_the_reasons(tmp_path):
    source = write(tmp_path / "raw")
    for path in source.glob("*.nii.gz"):
        path.unlink()
    with pytest.raises(UserError, match=r"all 8 scans of split 'train' were skipped: file is missing \(8\)"):
        build(source, tmp_path / "a")


def test_a_builder_of_ones_own_is_found_by_module(tmp_path):
    found = catalogue.find_builder(f"{__name__}:Brains", data_dir=tmp_path, source_dir=tmp_path)
    assert isinstance(found, Brains)
    for name, message in (
        (f"{__name__}:Brain", "has no attribute"),
        (f"{__name__}:Scan", "not a subclass"),
        ("simbaa/near_4mm", "Did you mean 'simba'"),
        ("simba/near_5mm", "Did you mean 'near_"),
    ):
        with pytest.raises(UserError, match=message):
            catalogue.find_builder(name, data_dir=tmp_path)


def test_the_listing_describes_every_cohort():
    listed = {c.name: c for c in catalogue.list_cohorts()}
    assert "near_4mm" in listed["simba"].configs
    assert all(c.description for c in listed.values())
