import csv
import json
import pathlib
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from equipoise.data_builders.base import catalogue
from equipoise.data_builders.base.readers import UnreadableScan
from equipoise.data_builders.table import images as table_images
from equipoise.data_builders.table.schema_file import read_schema_file
from equipoise.engine import data
from equipoise.engine.errors import UserError
from tests import launching

COLUMNS = {"image": "path", "label": ["y"], "subject": "pid", "attributes": ["sex", "age"]}
FLAGS = ("--cohort=table", "--image=path", "--label=y", "--subject=pid", "--attributes=sex,age")


def picture(number, shape=(8, 9), **kwargs):
    return np.random.default_rng(number).integers(0, 255, shape, **{"dtype": np.uint8} | kwargs)


def rows_of(count, suffix=".png"):
    """One row per scan: every fifth subject has two."""
    for i in range(count):
        yield {
            "path": f"img/{i:03d}{suffix}", "y": ("no", "yes")[i % 2], "pid": f"p{i - (i % 5 == 1):03d}",
            "sex": ("F", "M")[i // 2 % 2] if i % 5 != 1 else ("F", "M")[(i - 1) // 2 % 2], "age": str(30 + i),
        }  # fmt: skip


def write_table(path, rows, delimiter=",", encoding="utf-8"):
    rows = list(rows)
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def pictures(folder, count=20, **changes):
    """A folder of pictures and its table; ``changes`` maps r3 to what is other in row 3."""
    (folder / "img").mkdir(parents=True)
    rows = [row | changes.get(f"r{i}", {}) for i, row in enumerate(rows_of(count))]
    for i in range(count):
        Image.fromarray(picture(i)).save(folder / f"img/{i:03d}.png")
    return write_table(folder / "my.csv", rows)


def volumes(folder, count=20, shape=(6, 7, 8), **changes):
    (folder / "img").mkdir(parents=True)
    rows = [row | changes.get(f"r{i}", {}) for i, row in enumerate(rows_of(count, ".nii.gz"))]
    for i in range(count):
        values = np.random.default_rng(i).integers(-500, 900, shape).astype(np.int16)
        nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), folder / f"img/{i:03d}.nii.gz")
    return write_table(folder / "my.csv", rows)


def builder_of(table, /, **options):
    options = COLUMNS | {"table": str(table)} | options
    return catalogue.find_builder("table", data_dir=table.parent / "data", **options)


def build(table, **options):
    """Proposes, accepts and prepares; returns the builder."""
    first = builder_of(table, **options)
    if first.is_proposal:
        first.propose()
    builder = builder_of(table, **options)
    builder.download_and_prepare()
    return builder


def examples(builder):
    stored = {}
    for name in builder.info.splits:
        split = data.open_split(f"table/{builder.builder_config.name}", name, builder._data_dir_root)
        stored |= {split.source[i]["scan_id"].decode(): split.source[i] for i in range(len(split))}
    return stored


def report(builder):
    return json.loads((pathlib.Path(builder.data_path) / "cohort_report.json").read_text())


def reasons(builder):
    return {s["scan_id"]: s["reason"] for s in report(builder)["skipped"]}


def test_pixels_read_back_are_the_files_pixels(tmp_path):
    builder = build(pictures(tmp_path))
    stored = examples(builder)
    assert len(stored) == 20
    for name, number in (("p000-001", 0), ("p000-002", 1), ("p002-001", 2)):
        np.testing.assert_array_equal(stored[name]["image"][..., 0], picture(number))
    assert stored["p002-001"]["subject_id"] == b"p002"
    assert stored["p002-001"]["attributes"] == {"sex": 1, "age": 32.0}
    vocabulary = data.open_split("table/my", "train", tmp_path / "data").vocabulary
    assert vocabulary("labels") == {"y": ["no", "yes"]}
    assert vocabulary("attributes") == {"age": None, "sex": ["F", "M", "unknown"]}
    assert builder.info.metadata["positive"] == {"y": "yes"}


def test_voxels_read_back_are_the_files_voxels_and_the_cache_is_gone(tmp_path):
    stored = examples(build(volumes(tmp_path)))
    for i in (0, 7):
        raw = nib.load(tmp_path / f"img/{i:03d}.nii.gz")
        example = stored[f"p{i:03d}-001"]
        np.testing.assert_array_equal(example["image"][..., 0], raw.get_fdata())
        np.testing.assert_array_equal(example["spacing"], [1, 1, 2])
        np.testing.assert_array_equal(example["affine"], raw.affine)
    assert not list((tmp_path / "data").rglob("*.npz"))


def test_the_cache_may_be_kept_and_spares_the_decoding(tmp_path, monkeypatch, capsys):
    table = volumes(tmp_path)
    build(table, cache_dir=str(tmp_path / "cache"), keep_cache=True)
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 20
    monkeypatch.setattr(table_images, "load", pytest.fail)
    again = catalogue.find_builder(
        "table/again", data_dir=tmp_path, **COLUMNS, table=str(table), cache_dir=str(tmp_path / "cache")
    )
    again.download_and_prepare()
    assert "20 of 20 scans were decoded before" in capsys.readouterr().out
    assert len(examples(again)) == 20


def test_nothing_that_is_stored_tells_a_path(tmp_path):
    table = volumes(tmp_path / "secret_place", r3={"path": "img/secret_file.nii.gz"})
    build(table, cache_dir=str(tmp_path / "secret_place" / "cache"), keep_cache=True)
    written = [*(table.parent / "data").rglob("*"), table.with_name("my.csv.schema.json")]
    for file in written:
        assert "secret" not in str(file.relative_to(table.parent))
        assert not file.is_file() or b"secret" not in file.read_bytes(), file.name


# --- the schema


def test_spellings_in_other_case_are_merged_and_abbreviations_are_not(tmp_path):
    odd = {"r0": {"sex": "Male"}, "r2": {"sex": "male "}, "r4": {"sex": "Male"}, "r7": {"sex": " Unknown"}, "r8": {"sex": "n/a"}}  # fmt: skip
    builder = builder_of(pictures(tmp_path, **odd))
    text = builder.propose()
    assert "Male       3  merged from 'Male', 'male '" in text
    assert "read as missing: ' Unknown' (1), 'n/a' (1)" in text
    sex = builder.schema_file.attributes["sex"]
    assert sex.levels == ("F", "M", "Male")
    assert sex.strings["male "] == "Male" and sex.strings["M"] == "M"


def test_the_file_is_read_back_as_it_was_written_and_is_binding(tmp_path):
    table = pictures(tmp_path, r4={"sex": "male"})
    first = builder_of(table)
    first.propose()
    path = table.with_name("my.csv.schema.json")
    assert read_schema_file(path) == builder_of(table).schema_file
    held = json.loads(path.read_text())
    held["attributes"]["sex"] |= {"levels": ["F", "M"], "strings": {"F": "F", "M": "M", "male": "M"}}
    held["labels"]["y"]["positive"] = "no"
    path.write_text(json.dumps(held))
    builder = build(table)
    assert examples(builder)["p004-001"]["attributes"]["sex"] == 1
    assert builder.info.metadata["positive"] == {"y": "no"}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("attributes", "sex", "strings", "M", "Mal"), r"attributes 'sex': strings maps 'M' to 'Mal', which is not"),
        (("labels", "y", "positive", "jes"), r"labels 'y': positive 'jes' is not in levels. Did you mean 'yes'"),
        (("labels", "y", "kind", "class"), r"kind 'class' is none of levels, number"),
        (("labels", "y", "level", "class"), r"labels 'y' has no entry 'level'. Did you mean 'levels'"),
        (("images", "fit", "crop"), r"images: fit 'crop' of a picture is none of none, resize"),
        (("images", "size", [8]), r"images: size \[8\] must be 2 whole numbers"),
        (("version", 9), "no schema of version 1"),
    ],
)  # fmt: skip
def test_mistakes_in_the_schema_file_are_named(tmp_path, edit, message):
    table = pictures(tmp_path, count=4)
    builder_of(table).propose()
    path = table.with_name("my.csv.schema.json")
    held = json.loads(path.read_text())
    *way, last, value = edit
    inner = held
    for step in way:
        inner = inner[step]
    inner[last] = value
    path.write_text(json.dumps(held))
    with pytest.raises(UserError, match=message):
        builder_of(table)


def test_a_schema_of_other_columns_or_sizes_is_not_applied(tmp_path):
    table = pictures(tmp_path, count=4)
    builder_of(table).propose()
    for other in ({"attributes": ["sex"]}, {"size": ["4", "4"]}, {"split": "y"}):
        with pytest.raises(
            UserError, match=r"my.csv.schema.json was written for .* edit or remove that file"
        ):
            builder_of(table, **other)


def test_a_prepared_cohort_is_not_taken_for_one_of_another_schema(tmp_path):
    table = pictures(tmp_path)
    build(table)
    path = table.with_name("my.csv.schema.json")
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(
        UserError, match="was prepared by another schema than my.csv.schema.json: give another --name"
    ):
        build(table)


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("y", ["0", "1", "1.0", ""], "levels"),
        ("y", ["1.5", "2", "-3e2", "NA"], "number"),
        ("age", ["1", "2", "3", "4"], "levels"),
        ("age", ["64", "70", "81", "unknown"], "number"),
        ("age", ["<65", "65-70", ">70", ""], "levels"),
    ],
)
def test_words_and_codes_are_levels_and_other_numbers_are_numbers(tmp_path, column, values, kind):
    table = pictures(tmp_path, count=16, **{f"r{i}": {column: values[i % 4]} for i in range(16)})
    schema_file = builder_of(table).schema_file
    assert (schema_file.labels | schema_file.attributes)[column].kind == kind


def test_a_number_may_be_a_label_and_there_may_be_several(tmp_path):
    table = pictures(tmp_path, r3={"age": ""})
    builder = build(table, label=["age", "y"], attributes=["sex"])
    assert examples(builder)["p002-001"]["labels"] == {"age": 32.0, "y": 0}
    assert reasons(builder) == {"p003-001": "label 'age' is missing"}


# --- tables


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-8"), ("|", "utf-8")])
def test_tables_of_other_delimiters_and_parquet_are_the_same_table(tmp_path, delimiter, encoding):
    table = pictures(tmp_path, count=6, r1={"age": ""})
    usual = builder_of(table)
    other = write_table(
        tmp_path / "other.csv", usual.builder_config.table.frame.to_dict("records"), delimiter, encoding
    )
    frame = pd.read_csv(table)
    assert frame["age"].dtype == float  # whole numbers and an empty cell
    frame.to_parquet(tmp_path / "other.parquet")
    for path in (other, tmp_path / "other.parquet"):
        builder = builder_of(path)
        pd.testing.assert_frame_equal(builder.builder_config.table.frame, usual.builder_config.table.frame)
        assert builder.schema_file == usual.schema_file


def test_lines_are_counted_as_an_editor_does(tmp_path):
    table = pictures(tmp_path, count=4)
    header, *lines = table.read_text().splitlines()
    header += ",note"
    lines = [f'{line},"two\nlines"' for line in lines]
    lines[2] = lines[2].replace("p002", "")
    table.write_text("\n".join([header, "", *lines]))
    with pytest.raises(UserError, match=r"my.csv, line 7, column 'pid' \(--subject\): '' names no one"):
        builder_of(table).check()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,y,pid,sex,age\na.png,no,p1,F,3,4\n", r"line 2: 6 cells where the header has 5: put quotes around"),
        (b"path,y,pid,sex,age\n", "no row below its header"),
        (b"path,y,pid,sex,sex,age\na.png,no,p1,F,F,3\n", "two columns named 'sex'"),
        ("path,y,pid,sex,age\nä.png,no,p1,F,3\n".encode("latin-1"), "not UTF-8"),
        (b"path,y,pid,gender,age\na.png,no,p1,F,3\n", r"no column 'sex' \(--attributes\).*It has: path, y, pid, gender"),
        (b'path,y,pid,sex,age\n"a.png,no,p1,F,3\n', "line 2: 1 cells"),
        (b"path,y,pid,sex,age\na.dcm,no,p1,F,3\n", "images end in '.dcm': a table's images are PNG or JPEG"),
        (b"path,y,pid,sex,age\na.png,no,p1,F,3\nb.nii,no,p1,F,3\n", "1 pictures and 1 volumes: a cohort holds one"),
        (b"path,y,pid,sex,age\na.png,no,p1,F,3\n", r"none of the 1 images .* file is missing \(1\).*--image_root="),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "my.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        builder_of(tmp_path / "my.csv")


def test_what_is_asked_must_make_sense(tmp_path):
    table = pictures(tmp_path, count=4)
    for options, message in (
        ({"subject": ""}, "needs --subject, e.g. equipoise prepare --cohort=table"),
        ({"image_root": "/nowhere"}, "--image_root: no folder /nowhere"),
        ({"size": ["a"]}, "--size=a: numbers are expected"),
        ({"size": ["4", "4", "4"]}, r"size \[4, 4, 4\] must be 2 whole numbers"),
        ({"spacing": ["1"]}, "is for volumes only"),
        ({"table": "my.xlsx"}, "no file my.xlsx"),
        ({"attributes": ["sex", "sex"]}, "'sex' is named twice"),
    ):
        with pytest.raises(UserError, match=message):
            builder_of(table, **options)
    with pytest.raises(UserError, match="cohort 'table' needs --table"):
        catalogue.find_builder("table/x", data_dir=tmp_path)


# --- hostile rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r3": {"sex": "Femal"}}, r"my.csv, line 5, column 'sex': 'Femal' is not in the schema. Did you mean 'Female'\? Correct the table, or add"),
        ({"r3": {"y": "perhaps"}}, r"my.csv, line 5, column 'y': 'perhaps' is not in the schema"),
        ({"r3": {"age": "ca. 70"}, "r5": {"age": "x"}}, r"line 5, column 'age': 'ca. 70' is not a number; .*\(1 more"),
        ({"r3": {"age": "63,5"}}, r"'63,5' is not a number \(decimals are written with a point\)"),
        ({"r3": {"pid": "NA"}}, r"line 5, column 'pid' \(--subject\): 'NA' names no one"),
        ({"r3": {"pid": "a/b"}}, r"line 5, column 'pid' \(--subject\): the id holds a slash"),
        ({"r3": {"path": "img/002.png", "pid": "p002"}}, r"my.csv, lines 4 and 5: the same image twice"),
        ({"r3": {"path": "./img/002.png"}}, r"my.csv, lines 4 and 5: the same image under two subjects"),
    ],
)  # fmt: skip
def test_rows_that_stop_the_build(tmp_path, changes, message):
    female = {f"r{i}": {"sex": "Female"} for i in (0, 1, 4)}
    builder_of(pictures(tmp_path / "good", **female)).propose()
    table = pictures(tmp_path / "bad", **female | changes)
    schema = tmp_path / "good" / "my.csv.schema.json"
    with pytest.raises(UserError, match=message) as error:
        builder_of(table, schema=str(schema)).check()
    assert not {"p002", "p003", "a/b"} & set(str(error.value).replace("'", " ").split())


def test_scans_that_are_skipped_are_listed_with_a_reason_that_holds_no_path(tmp_path):
    table = pictures(tmp_path, 40, r2={"path": "img/nobody.png"}, r3={"y": "unknown"}, r5={"sex": "unknown"}, r7={"path": ""})  # fmt: skip
    for name, keep in (("004", 40), ("008", 10)):
        file = tmp_path / f"img/{name}.png"
        file.write_bytes(file.read_bytes()[:keep] if keep < 40 else file.read_bytes()[:-30])
    builder = build(table)
    assert reasons(builder) == {
        "p002-001": "file is missing",
        "p003-001": "label 'y' is missing",
        "p004-001": "picture is truncated or damaged (OSError)",
        "p008-001": "picture is truncated or damaged (UnidentifiedImageError)",
        "p007-001": "the table names no image",
    }
    assert examples(builder)["p005-001"]["attributes"]["sex"] == 2  # unknown


def test_truncated_volumes_are_skipped(tmp_path):
    table = volumes(tmp_path)
    file = tmp_path / "img/004.nii.gz"
    file.write_bytes(file.read_bytes()[:-60])
    (tmp_path / "img/007.nii.gz").write_bytes(b"no volume")
    reason_of = reasons(build(table))
    assert reason_of["p004-001"].startswith("data are truncated or damaged")
    assert reason_of["p007-001"].startswith("not a readable NIfTI file")


def test_people_who_contradict_themselves_are_counted(tmp_path):
    builder = build(pictures(tmp_path, r0={"sex": "M"}, r1={"sex": "F"}, r5={"sex": "F"}, r6={"sex": "F"}))
    counted = [c["subjects_with_two_levels"] for c in report(builder)["counts"].values()]
    assert sum(c.get("attributes/sex", 0) for c in counted) == 1
    assert sum(c.get("labels/y", 0) for c in counted) == 4  # the visits of one person differ, as scans may


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([f"seen on day {i}" for i in range(60)], "holds 60 different texts in 60 rows: free text, dates or an"),
        ([f"AB{i // 2}" for i in range(120)], "60 different texts in 120 rows"),
        ([str(7_000_000 + i) for i in range(20)], "looks like an identifier: leave it out of --attributes"),
        (["unknown", ""] * 4, "holds no value: leave it out"),
        ([f"{i},5" for i in range(30)], "write decimals with a point"),
    ],
)  # fmt: skip
def test_columns_that_make_no_groups_are_refused(tmp_path, texts, message):
    (tmp_path / "img").mkdir()
    Image.fromarray(picture(0)).save(tmp_path / "img/000.png")
    rows = [{"path": "img/000.png", "y": "ab"[i % 2], "pid": f"p{i}", "sex": text, "age": "40"} for i, text in enumerate(texts)]  # fmt: skip
    with pytest.raises(UserError, match=message):
        builder_of(write_table(tmp_path / "my.csv", rows))


# --- splits and names


def test_the_tables_own_splits_are_kept(tmp_path):
    words = ("Training", "dev", "TEST", "train")
    folds = {f"r{i}": {"fold": words[(i - (i % 5 == 1)) % 4]} for i in range(20)}
    builder = build(pictures(tmp_path, **folds), split="fold")
    assigned = json.loads((pathlib.Path(builder.data_path) / "splits.json").read_text())
    assert assigned["p002"] == "test" and assigned["p003"] == "train" and assigned["p005"] == "validation"
    assert builder.info.metadata["split_rule"] == {"unit": "subject", "column": "fold"}


def test_a_subject_in_two_splits_and_a_word_that_is_no_split(tmp_path):
    folds = {f"r{i}": {"fold": "train" if i else "val"} for i in range(20)}
    with pytest.raises(UserError, match=r"my.csv, lines 2 and 3: one subject in validation and in train"):
        builder_of(pictures(tmp_path / "a", **folds), split="fold").check()
    folds = {f"r{i}": {"fold": "tset" if i == 4 else "test"} for i in range(20)}
    with pytest.raises(
        UserError, match=r"line 6, column 'fold' \(--split\): 'tset' is not a split. Did you mean 'test'"
    ):
        builder_of(pictures(tmp_path / "b", **folds), split="fold")


def test_splits_are_balanced_and_do_not_depend_on_the_order_of_rows(tmp_path):
    table = pictures(tmp_path, count=80)
    first = build(table)
    counts = {k: c["labels"]["y"] for k, c in report(first)["counts"].items()}
    assert all(abs(c["no"] - c["yes"]) <= 4 for c in counts.values())
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join([header, *lines[::-1]]) + "\n")
    other = catalogue.find_builder("table/other", data_dir=tmp_path, **COLUMNS, table=str(table))
    other.download_and_prepare()
    for name in ("splits.json", "table-train.array_record-00000-of-00001"):
        assert (pathlib.Path(first.data_path) / name).read_bytes() == (
            pathlib.Path(other.data_path) / name
        ).read_bytes()


def test_a_column_may_name_the_scans(tmp_path):
    names = {f"r{i}": {"visit": f"v{i}"} for i in range(20)}
    assert "v7" in examples(build(pictures(tmp_path / "a", **names), scan="visit"))
    names["r3"] = {"visit": "v2"}
    with pytest.raises(UserError, match="lines 4 and 5: the same scan in column 'visit'"):
        builder_of(pictures(tmp_path / "b", **names), scan="visit").check()


# --- forms of images


def test_pictures_of_different_shapes_need_a_size(tmp_path):
    table = pictures(tmp_path)
    Image.fromarray(picture(3, (16, 18))).save(tmp_path / "img/003.png")
    with pytest.raises(
        UserError, match=r"different shapes: 8x9 \(19\), 16x18 \(1\).*e.g. --size=16,18, to which"
    ):
        builder_of(table)
    stored = examples(build(table, size=["8", "9"]))
    np.testing.assert_array_equal(stored["p002-001"]["image"][..., 0], picture(2))
    expected = Image.fromarray(picture(3, (16, 18))).resize((9, 8), Image.Resampling.BILINEAR)
    assert np.abs(stored["p003-001"]["image"][..., 0] - np.asarray(expected).astype(int)).max() <= 1


def test_a_new_shape_in_a_later_table_is_an_error_too(tmp_path):
    table = pictures(tmp_path)
    builder_of(table).propose()
    Image.fromarray(picture(3, (16, 18))).save(tmp_path / "img/003.png")
    with pytest.raises(UserError, match="different shapes"):
        builder_of(table).check()


def test_grey_and_colour_become_what_most_are(tmp_path):
    table = pictures(tmp_path)
    colour = picture(3, (8, 9, 3))
    Image.fromarray(colour).save(tmp_path / "img/003.png")
    builder = builder_of(table)
    assert "1 of them colour, made grey" in builder.propose()
    stored = examples(build(table))
    expected = np.asarray(Image.fromarray(colour).convert("L"))
    np.testing.assert_array_equal(stored["p003-001"]["image"][..., 0], expected)


def test_pictures_of_8_and_16_bits_are_not_mixed(tmp_path):
    table = pictures(tmp_path)
    Image.fromarray(picture(3, dtype=np.uint16)).save(tmp_path / "img/003.png")
    with pytest.raises(UserError, match=r"8 and of 16 bits are mixed \(uint8 \(19\), uint16 \(1\)\)"):
        builder_of(table)


def test_volumes_are_resampled_then_cropped_or_padded(tmp_path):
    table = volumes(tmp_path)
    coarse = np.random.default_rng(0).integers(-500, 900, (4, 4, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(coarse, np.diag([2.0, 2, 2, 1])), tmp_path / "img/003.nii.gz")
    with pytest.raises(
        UserError, match=r"6x7x8 \(19\), 4x4x4 \(1\).*--spacing=MM first, where voxel sizes differ"
    ):
        builder_of(table)
    stored = examples(build(table, spacing=["1"], size=["8", "8", "10"]))
    image = stored["p003-001"]["image"][..., 0]
    assert image.shape == (8, 8, 10) and (image[..., 0] == image.min()).all()  # padded with the least
    np.testing.assert_array_equal(stored["p003-001"]["spacing"], 1)
    # Along z the fine grid has two points per voxel, each a quarter of a voxel from its centre.
    raw = nib.load(tmp_path / "img/002.nii.gz").get_fdata()
    image = stored["p002-001"]["image"][1:-1, :-1, :, 0]  # 6x7x16, padded to 8x8 and cropped to 10 planes
    np.testing.assert_allclose(image[..., 1], 0.75 * raw[..., 2] + 0.25 * raw[..., 1], atol=0.51)
    np.testing.assert_allclose(image[..., 2], 0.75 * raw[..., 2] + 0.25 * raw[..., 3], atol=0.51)
    # So plane 2 of the image lies at 2.25 planes of the file, 4.5 mm; one row is padded before, and no column.
    place = stored["p002-001"]["affine"] @ [1, 0, 2, 1]
    np.testing.assert_allclose(place, [0, 0, 4.5, 1], atol=1e-6)


def test_volumes_stored_in_different_ways_become_real_units(tmp_path):
    table = volumes(tmp_path)
    values = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float64)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "img/003.nii.gz")
    builder = builder_of(table)
    assert "values of int16 (19), float64 (1) become float32 in real units" in builder.propose()
    np.testing.assert_allclose(examples(build(table))["p003-001"]["image"][..., 0], values, atol=1e-6)


def test_masks_follow_their_images(tmp_path):
    masks = {f"r{i}": {"mask": f"mask/{i:03d}.png"} for i in range(20)}
    masks |= {"r2": {"mask": ""}, "r3": {"mask": "mask/none.png"}}
    table = pictures(tmp_path, **masks)
    (tmp_path / "mask").mkdir()
    for i in range(20):
        Image.fromarray(picture(i, (8, 9) if i != 4 else (8, 8)) // 128).save(tmp_path / f"mask/{i:03d}.png")
    builder = build(table, mask="mask")
    stored = examples(builder)
    np.testing.assert_array_equal(stored["p005-001"]["mask"], picture(5) // 128)
    assert reasons(builder) == {
        "p002-001": "the table names no mask",
        "p003-001": "mask: file is missing",
        "p004-001": "mask: shape 8x8x1, expected 8x9x1",
    }
    half = catalogue.find_builder(
        "table/half", data_dir=tmp_path, **COLUMNS, mask="mask", table=str(table), size=["4", "9"],
        schema=str(tmp_path / "half.json")
    )  # fmt: skip
    half.download_and_prepare()
    assert set(np.unique(examples(half)["p005-001"]["mask"])) == {0, 1}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_header_says_what_the_reader_then_finds(tmp_path, mode):
    source = Image.fromarray(picture(0, dtype=np.uint16)) if mode == "I;16" else Image.fromarray(picture(0)).convert(mode)  # fmt: skip
    source.save(tmp_path / "x.png")
    header = table_images.read_header(tmp_path / "x.png")
    pixels = table_images._read(tmp_path / "x.png")
    assert (*header.shape, header.channels) == pixels.image.shape
    assert header.dtype == pixels.image.dtype


def test_the_header_of_a_volume_is_in_the_readers_axes(tmp_path):
    affine = np.zeros((4, 4))
    affine[[0, 1, 2, 3], [2, 0, 1, 3]] = [-3, 2, 4, 1]
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5, 1), ">i2"), affine), tmp_path / "x.nii")
    header = table_images.read_header(tmp_path / "x.nii")
    pixels = table_images._read(tmp_path / "x.nii")
    assert header.shape == pixels.image.shape[:3] and header.dtype == pixels.image.dtype
    np.testing.assert_array_equal(header.spacing, pixels.spacing)
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5, 2)), np.eye(4)), tmp_path / "y.nii")
    with pytest.raises(UnreadableScan, match="^not a 3D volume$"):
        table_images.read_header(tmp_path / "y.nii")


# --- the programs


@pytest.mark.parametrize("make", [pictures, volumes])
def test_two_calls_prepare_and_a_model_trains(tmp_path, make):
    table = make(tmp_path / "raw", count=40)
    words = ("prepare", *FLAGS, f"--table={table}", "--name=mine", f"--data_dir={tmp_path / 'data'}")
    first = launching.equipoise(*words)
    assert first.returncode == 0, first.stderr
    assert "then run the same command again" in first.stdout and not (tmp_path / "data" / "table").exists()
    second = launching.equipoise(*words)
    assert second.returncode == 0, second.stderr
    assert "WARNING" not in second.stdout and "0 scans skipped" in second.stdout
    assert not any(f"p{i:03d}" in (first.stdout + second.stdout + second.stderr) for i in range(40))
    launching.train(
        tmp_path / "run", tmp_path / "data", "--config.data.cohort=table/mine", "--config.task.label=y",
        "--config.data.augment=", "--config.num_steps=2", "--config.data.batch_size=4",
        "--config.evaluation.every_steps=2", "--config.model.args.features=(4,)",
    )  # fmt: skip
    assert list((tmp_path / "run" / "validation").glob("00000002.parquet"))


def test_yes_takes_the_proposal_and_the_listing_knows_the_cohort(tmp_path):
    table = pictures(tmp_path / "raw", r0={"sex": "M"}, r1={"sex": "F"})
    words = ("prepare", *FLAGS, f"--table={table}", "--yes", f"--data_dir={tmp_path / 'data'}")
    done = launching.equipoise(*words)
    assert done.returncode == 0, done.stderr
    assert "WARNING: 1 of these subjects have scans with different attributes/sex" in done.stdout
    assert "Private data" in next(c.description for c in catalogue.list_cohorts() if c.name == "table")


def test_a_builder_and_a_run_file_from_another_folder(tmp_path):
    """Named by module or path, found from the folder that the user stands in (-P: as by the installed command)."""
    (tmp_path / "my_cohort.py").write_text(
        "from tests.tiny_cohort import Tiny\n\n\nclass Mine(Tiny):\n    '''Mine.'''\n"
    )
    (tmp_path / "my_runs.py").write_text(
        "from tests import tiny_runs\n\n\ndef get_config(name):\n    run = tiny_runs.get_config('float32')\n"
        "    run.data.cohort = name\n    return run\n"
    )
    where = {"cwd": tmp_path, "env": launching.environment(), "capture_output": True, "text": True}
    for words in (
        ("prepare", "--cohort=my_cohort:Mine", f"--data_dir={tmp_path / 'data'}"),
        ("train", "--config=my_runs.py:mine", "--print_config"),
    ):  # fmt: skip
        done = subprocess.run([sys.executable, "-P", "-m", "equipoise.launch", *words], **where)
        assert done.returncode == 0, done.stderr
    assert '"cohort": "mine"' in done.stdout
    assert (tmp_path / "data" / "mine" / "1.0.0" / "cohort_report.json").exists()
