"""Data sets of the Harvard Ophthalmology AI Lab: every form in which their files went round, and what is refused."""

import json
import os
import pathlib
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from equipoise.data_builders.harvard.fairseg import HarvardFairseg
from equipoise.data_builders.harvard.family import ATTRIBUTES, Field, Harvard, HarvardConfig
from equipoise.engine import data
from equipoise.engine.config import Data
from equipoise.engine.errors import UserError

# Keys of image, mask and the attributes that changed names: the documented release, what the authors' code reads, the first
# release, and Harvard-FairDomain.
VARIANTS = {
    "release": ("slo_fundus", "disc_cup_mask", "ethnicity", "gender"),
    "code": ("fundus_slo", "disc_cup", "hispanic", "gender"),
    "first": ("fundus", "disc_cup_borders", "hispanic", "male"),
    "domain": ("fundus_slo", "slo_disc_cup", "ethnicity", "gender"),
}


def person(i, variant="release", **changes):
    """File ``i`` of a release: 14 x 17 pixels, a rim of 12 and a cup of 4; pickled scalars as the authors store them."""
    mask = np.zeros((14, 17), np.int16)
    mask[4:8, 5:9], mask[5:7, 6:8] = -1, -2
    image, masks, ethnicity, gender = VARIANTS[variant]
    values = {
        image: np.full((14, 17), i, np.uint8),
        masks: mask,
        "race": (0, 1, 2, 2)[i % 4],
        gender: i // 2 % 2,
        ethnicity: (0, 0, 1, -1)[i % 4],
        "language": i % 3,
        "maritalstatus": i % 5,
        "age": 40.0 + i,
    } | {{"image": image, "mask": masks}.get(k, k): v for k, v in changes.items()}
    return {k: v if isinstance(v, np.ndarray) else boxed(v) for k, v in values.items() if v is not None}


def boxed(value):
    box = np.empty((), object)
    box[()] = value
    return box


def write(folder, count=40, edits=None, variant="release", sub=lambda i: "", names="data_{:05d}.npz"):
    """The raw files; ``edits`` maps a number, or "*", to changed fields."""
    edits = edits or {}
    for i in range(1, count + 1):
        path = folder / sub(i) / names.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **person(i, variant, **edits.get("*", {}) | edits.get(i, {})))
    return folder


def write_lists(folder, train, test, names="data_{:05d}.npz"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, numbers in (("train", train), ("test", test)):
        (folder / f"{name}.txt").write_text("".join(names.format(i) + "\n" for i in numbers))


def build(source, config="slo", *, cls=HarvardFairseg, **options):
    made = cls.configure(config, **options)
    builder = cls(data_dir=source.parent / "data", source_dir=source, config=made)
    builder.download_and_prepare()
    report = json.loads((pathlib.Path(builder.data_path) / "cohort_report.json").read_text())
    splits = {
        name: data.open_split(f"{cls.name}/{made.name}", name, source.parent / "data")
        for name in report["counts"]
    }
    return report, splits


def rows(splits):
    return {
        e["scan_id"].decode(): (name, e)
        for name, s in splits.items()
        for e in (s.source[i] for i in range(len(s)))
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_form_of_the_files_gives_the_same_cohort(tmp_path, variant):
    report, splits = build(write(tmp_path / "raw", variant=variant))
    scans = rows(splits)
    assert len(scans) == 40 and report["skipped_total"] == 0
    expected = person(7)
    _, example = scans["data_00007"]
    assert example["image"].shape == (14, 17, 1) and (example["image"] == 7).all()
    np.testing.assert_array_equal(example["mask"], -expected["disc_cup_mask"])
    np.testing.assert_allclose(example["scale"], [1 / 255, 0])
    words = splits["train"].vocabulary("attributes")
    values = {k: words[k][v] if words[k] else v for k, v in example["attributes"].items()}
    assert values == {
        "race": "White", "gender": "Male", "ethnicity": "unknown", "language": "Spanish", "marital_status": "Divorced", "age": 47,
    }  # fmt: skip
    metadata = splits["train"].metadata
    assert metadata["mask_classes"] == ["background", "rim", "cup"]
    assert metadata["structures"] == {"rim": ["rim"], "cup": ["cup"], "disc": ["rim", "cup"]}
    assert metadata["age_unit"] == report["findings"]["age_unit"] == "years"


def test_a_domain_file_has_an_oct_image_too(tmp_path):
    pair = {"fundus_oct": np.full((5, 5), 9, np.uint8), "oct_disc_cup": np.ones((5, 5), np.int8)}
    source = write(tmp_path / "raw", variant="domain", edits={"*": pair})
    _, splits = build(source, "oct")
    assert all((e["image"] == 9).all() and (e["mask"] == 1).all() for _, e in rows(splits).values())


@pytest.mark.parametrize("codes", [(0, -1, -2), (0, 1, 2), (0.0, -1.0, -2.0)])
def test_mask_codes_of_either_sign(tmp_path, codes):
    positive = -person(1)["disc_cup_mask"]
    mask = np.array(codes)[positive]
    _, splits = build(write(tmp_path / "raw", edits={"*": {"mask": mask}}))
    for _, example in rows(splits).values():
        assert example["mask"].dtype == np.uint8
        np.testing.assert_array_equal(example["mask"], positive)


def test_lists_folders_and_our_own_splits(tmp_path):
    source = write(tmp_path / "raw", sub=lambda i: "Training" if i <= 30 else "Test")
    lists = source / "lists" / "FairSeg_final"
    write_lists(lists, range(11, 41), range(1, 11))
    report, splits = build(source)
    scans = rows(splits)
    assert report["findings"]["split_rule"]["source"] == "lists"
    assert {k for k, (split, _) in scans.items() if split == "test"} == {
        f"data_{i:05d}" for i in range(1, 11)
    }
    assert {name: len(s) for name, s in splits.items()} == {"train": 27, "validation": 3, "test": 10}

    _, splits = build(source, split="folders")
    assert splits["train"].metadata["split_rule"]["source"] == "folders"
    assert {k for k, (split, _) in rows(splits).items() if split == "test"} == {
        f"data_{i:05d}" for i in range(31, 41)
    }
    report, splits = build(source, split="own", seed=3)
    assert splits["train"].metadata["split_rule"]["source"] == "own"
    assert {name: len(s) for name, s in splits.items()} == {"train": 29, "validation": 3, "test": 8}
    assert report["counts"]["test"]["attributes"]["race"] == {
        "Asian": 2,
        "Black": 2,
        "White": 4,
    }  # a fifth of each

    elsewhere = tmp_path / "elsewhere"
    write_lists(elsewhere, range(1, 36), range(36, 41), names="data_{:06d}.npz")  # as first published
    report, splits = build(source, lists=str(elsewhere), validation_share=0.2)
    assert {name: len(s) for name, s in splits.items()} == {"train": 28, "validation": 7, "test": 5}
    assert str(elsewhere) not in json.dumps(report) + json.dumps(splits["train"].metadata)


def test_a_file_that_no_list_names_is_skipped(tmp_path):
    source = write(tmp_path / "raw")
    write_lists(source, range(1, 31), range(31, 40))
    report, _ = build(source)
    assert report["skipped"] == [{"scan_id": "data_00040", "reason": "is in none of the published splits"}]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([*range(1, 31), 99], range(31, 41), r"train\.txt, line 31: there is no file 'data_00099\.npz'.*lists=FOLDER"),
        (range(1, 31), range(30, 41), r"test\.txt, line 1: 'data_00030\.npz' is already listed in train\.txt, line 30"),
        ([*range(1, 31), 1], range(31, 41), r"train\.txt, line 31: 'data_00001\.npz' is already listed in train\.txt, line 1"),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit(tmp_path, train, test, message):
    source = write(tmp_path / "raw")
    write_lists(source, train, test)
    with pytest.raises(UserError, match=message):
        build(source)


def test_a_person_with_two_files_is_in_one_split(tmp_path):
    source = write(tmp_path / "raw", edits={i: {"pid": f"p{i // 2}"} for i in range(1, 41)})
    report, splits = build(source)
    homes = {(example["subject_id"], split) for split, example in rows(splits).values()}
    assert len(homes) == len({subject for subject, _ in homes}) == 21
    assert sum(counts["scans"] for counts in report["counts"].values()) == 40
    write_lists(source, range(1, 31), range(31, 41))  # 30 and 31 are p15
    with pytest.raises(UserError, match=r"1 subject\(s\) are in both 'test' and 'train'"):
        build(source, seed=1)


def test_ages_in_days_are_told_from_years(tmp_path):
    days = {i: {"age": (40 + i) * 365.25} for i in range(1, 41)} | {5: {"age": -1}}
    report, splits = build(write(tmp_path / "raw", edits=days))
    assert report["findings"]["age_unit"] == "days"
    scans = rows(splits)
    assert scans["data_00007"][1]["attributes"]["age"] == pytest.approx(47)
    assert np.isnan(scans["data_00005"][1]["attributes"]["age"])
    mixed = write(tmp_path / "second" / "raw", edits={3: {"age": 20000.0}})
    with pytest.raises(UserError, match="1 ages are above 130 and 39 are not.*age_unit=days"):
        build(mixed)
    assert build(mixed, age_unit="years")[0]["findings"]["age_unit"] == "years"


def test_an_unknown_code_keeps_the_scan_as_unknown_and_is_counted(tmp_path):
    edits = {1: {"race": 7}, 2: {"race": 7}, 3: {"language": None}, 4: {"race": 5}}
    report, splits = build(write(tmp_path / "raw", edits=edits))
    scans = rows(splits)
    words = splits["train"].vocabulary("attributes")["race"]
    assert words == ["Asian", "Black", "White", "unknown"]
    assert all(words[scans[f"data_0000{i}"][1]["attributes"]["race"]] == "unknown" for i in (1, 2, 4))
    assert report["findings"]["codes_taken_as_unknown"] == {"race": {"5": 1, "7": 2}}
    assert report["findings"]["files_without_the_key"] == {"language": 1}
    assert sum(c["attributes"]["race"].get("unknown", 0) for c in report["counts"].values()) == 3


@pytest.mark.parametrize("codes", [(2, 3, 7, 7), (3, 3, 7, 7), (4, 5, 6, 6)])
def test_codes_of_an_older_table_are_refused(tmp_path, codes):
    edits = {i: {"race": codes[i % 4]} for i in range(1, 41)}
    with pytest.raises(
        UserError, match=r"'race' holds the codes .*release has 0 Asian, 1 Black, 2 White.*older code table"
    ):
        build(write(tmp_path / "raw", edits=edits))


def test_one_race_alone_is_no_older_table(tmp_path):
    report, _ = build(write(tmp_path / "raw", edits={"*": {"race": 2}}))
    assert [set(c["attributes"]["race"]) for c in report["counts"].values()] == [{"White"}] * 3


class Command:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_what_cannot_be_used_is_skipped_with_its_reason(tmp_path):
    marker, square = tmp_path / "ran", np.zeros((14, 17), np.int16)
    colour = np.arange(14 * 17 * 3, dtype=np.uint8).reshape(14, 17, 3)
    bad = {
        1: ({"image": None}, "has no image: none of the keys slo_fundus, fundus_slo, fundus"),
        2: ({"mask": None}, "has no mask: none of the keys disc_cup_mask, disc_cup, disc_cup_borders, slo_disc_cup"),
        3: ({"race": Command(marker)}, "holds a pickle that names posix.system, which is no array; it was not run"),
        4: ({"mask": square + 3}, "mask holds the codes 3, expected 0, 1, 2 or their negatives"),
        5: ({"mask": square + np.arange(17) % 3 - 1}, "mask holds the codes -1, 0, 1, expected 0, 1, 2 or their negatives"),
        6: ({"mask": square + 0.5}, "mask holds the codes 0.5, expected 0, 1, 2 or their negatives"),
        7: ({"image": square + 0.5}, "image of float64 does not hold whole numbers from 0 to 255 alone"),
        8: ({"image": square - 1}, "image of int16 does not hold whole numbers from 0 to 255 alone"),
        9: ({"image": colour}, "image of shape 14x17x3, expected one grey channel"),
        10: ({"image": square.astype(np.uint8)[1:]}, "mask is missing or of another shape than the image"),
        11: ({"mask": Command(marker)}, "holds a pickle that names posix.system, which is no array; it was not run"),
        12: ({"gender": "F"}, "'gender' is not a number"),
        13: ({}, "NPZ file is truncated or damaged (BadZipFile)"),
    }  # fmt: skip
    source = write(tmp_path / "raw", edits={i: edit for i, (edit, _) in bad.items()})
    content = (source / "data_00013.npz").read_bytes()
    (source / "data_00013.npz").write_bytes(content[: len(content) // 2])
    report, splits = build(source)
    assert report["skipped"] == [
        {"scan_id": f"data_{i:05d}", "reason": reason} for i, (_, reason) in bad.items()
    ]
    assert set(rows(splits)) == {f"data_{i:05d}" for i in range(14, 41)}
    assert not marker.exists()


def test_grey_in_three_alike_channels_and_whole_floats_are_taken(tmp_path):
    image = np.arange(14 * 17).reshape(14, 17)
    edits = {1: {"image": np.repeat(image[..., None], 3, -1).astype(np.uint8)}, 2: {"image": image * 1.0}}
    scans = rows(build(write(tmp_path / "raw", edits=edits))[1])
    for i in (1, 2):
        np.testing.assert_array_equal(scans[f"data_0000{i}"][1]["image"][..., 0], image)


def test_empty_masks_are_kept_and_counted_by_structure(tmp_path):
    no_cup = np.minimum(-person(1)["disc_cup_mask"], 1)
    edits = {1: {"mask": np.zeros((14, 17), np.int16)}, 2: {"mask": no_cup}}
    report, splits = build(write(tmp_path / "raw", edits=edits))
    assert report["skipped_total"] == 0 and "data_00001" in rows(splits)
    without = {
        name: sum(c["scans_without"][name] for c in report["counts"].values())
        for name in ("rim", "cup", "disc")
    }
    assert without == {"rim": 1, "cup": 2, "disc": 1}


def test_sizes_may_differ_and_a_run_crops_them_to_one(tmp_path):
    large = {"image": np.ones((20, 9), np.uint8), "mask": np.zeros((20, 9), np.int8)}
    _, splits = build(write(tmp_path / "raw", edits=dict.fromkeys(range(1, 21), large)))
    scans = rows(splits)
    assert {e["image"].shape for _, e in scans.values()} == {(20, 9, 1), (14, 17, 1)}
    assert all(e["mask"].shape == e["image"].shape[:2] for _, e in scans.values())
    assert splits["train"].image_shape == (None, None, 1)
    with pytest.raises(UserError, match=r"differ in size .*set --config\.data\.shape"):
        data.batch_shape(splits["train"], Data())
    assert data.batch_shape(splits["train"], Data(shape=(12, 12))) == (12, 12, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "mri"}, "modality='mri' is none of slo, oct"),
        ({"split": "list"}, "split='list' is none of .*Did you mean 'lists'"),
        ({"split": "own", "lists": "/x"}, "lists='/x' goes with split=lists"),
        ({"split": "lists"}, "split=lists: there are no train.txt and test.txt in .*FairSeg_final or "),
        ({"split": "folders"}, "split=folders: there are no folders Training and Test"),
        ({"validation_share": 1.0}, "must lie between 0 and 1"),
        ({"age_units": "days"}, "has no setting 'age_units'.*Did you mean 'age_unit'"),
    ],
)
def test_settings_that_cannot_be(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        build(write(tmp_path / "raw", count=2), **options)


def test_without_its_folder_the_cohort_says_what_is_missing(tmp_path):
    builder = HarvardFairseg(data_dir=tmp_path, config="slo")
    with pytest.raises(UserError, match="give --source_dir, the folder of its NPZ files"):
        builder.download_and_prepare()
    with pytest.raises(UserError, match="no scan found in"):
        build(write(tmp_path / "raw", count=0) if (tmp_path / "raw").mkdir() is None else None)


class HarvardGlaucoma(Harvard):
    """A sister set, such as Harvard-FairVision: a label, no mask, three folders. All that it takes is here."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [HarvardConfig(name="slo")]
    LABELS: ClassVar = {"glaucoma": Field(("glaucoma",), ("absent", "present"))}


def test_a_sister_set_is_a_few_lines(tmp_path):
    def folder(i):
        return ("Training", "Validation", "Test")[i % 3]

    edits = {i: {"glaucoma": i % 2, "mask": None} for i in range(1, 41)} | {9: {"mask": None}}
    report, splits = build(write(tmp_path / "raw", edits=edits, sub=folder), cls=HarvardGlaucoma)
    assert report["skipped"] == [{"scan_id": "data_00009", "reason": "label 'glaucoma' is missing"}]
    scans = rows(splits)
    assert {split for k, (split, _) in scans.items() if int(k[-2:]) % 3 == 1} == {"validation"}
    assert all(e["labels"]["glaucoma"] == int(k[-2:]) % 2 and "mask" not in e for k, (_, e) in scans.items())
    assert report["findings"]["split_rule"]["validation"] == "as the rest"
    assert set(splits["train"].vocabulary("attributes")) == set(ATTRIBUTES)
