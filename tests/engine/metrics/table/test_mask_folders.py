import math

import nibabel
import numpy as np
import pytest
from PIL import Image

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import segmentation
from equipoise.engine.metrics.table import mask_folders as masks
from equipoise.engine.metrics.table import reader
from equipoise.engine.vocabulary import UNKNOWN

SPACING = (0.5, 1.0, 2.0)
AFFINE = np.diag([*SPACING, 1.0])
ROLES = reader.Roles("values", (), {}, attributes=("sex",))


def labels(shift=0, codes=(1, 2)):
    mask = np.zeros((10, 9, 8), np.uint8)
    mask[2 + shift : 7 + shift, 2:7, 2:6] = codes[0]
    mask[3 + shift : 5 + shift, 3:5, 3:5] = codes[-1]
    return mask


def write(path, codes, affine=AFFINE):
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(codes).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(codes, affine), path)


@pytest.fixture
def study(tmp_path):
    """Three cases of two structures; the second is predicted one voxel off, the third without its second structure."""
    for case, prediction in (("a1", labels()), ("b2", labels(1)), ("c3", labels(codes=(1, 1)))):
        write(tmp_path / "labels" / f"{case}.nii.gz", labels())
        write(tmp_path / "predicted" / f"{case}.nii.gz", prediction)
    (tmp_path / "predicted" / "plans.json").write_text("{}")
    (tmp_path / "predicted" / "._a1.nii.gz").write_bytes(b"\0")
    people(tmp_path, "case,sex,subject_id", "b2,F,p1", "a1,M,p2", "c3,,p1")
    return tmp_path


def people(folder, *lines):
    (folder / "people.csv").write_text("\n".join(lines) + "\n")


def read(folder, roles=ROLES, **settings):
    return masks.read(folder / "predicted", folder / "labels", folder / "people.csv", roles, **settings)


def test_values_are_those_of_the_masks_in_the_order_of_the_attributes(study):
    table = read(study, structures={"disc": 1, "cup": 2}, metrics=(*masks.METRICS, "missed"))
    assert table.schema.kind == "values" and table.schema.scores == tuple(
        f"{metric}_{structure}" for structure in ("disc", "cup") for metric in (*masks.METRICS, "missed")
    )
    assert table.frame["scan_id"].tolist() == ["b2", "a1", "c3"]
    assert table.frame["subject_id"].tolist() == ["p1", "p2", "p1"]
    assert table.frame["sex"].tolist() == ["F", "M", UNKNOWN]
    assert set(table.frame["cohort"]) == {"predicted"}
    expected = segmentation.evaluate_case(labels(1), labels(), SPACING, {"cup": 2}, 1.0)["cup"]
    assert {m: table.frame[f"{m}_cup"][0] for m in masks.METRICS} == {m: expected[m] for m in masks.METRICS}
    assert table.frame["dice_cup"][1] == 1
    assert table.frame["missed_cup"].tolist() == [0, 0, 1]
    assert math.isnan(table.frame["hd95_cup"][2])
    assert table.columns("dice_disc")["value"].tolist() == table.frame["dice_disc"].tolist()
    assert "within 1 mm" in table.notes[-2] and "Distances are in mm" in table.notes[-1]


def test_every_code_of_a_reference_is_a_structure_by_default(study):
    write(study / "predicted" / "a1.nii.gz", labels(codes=(1, 7)))
    write(study / "labels" / "c3.nii.gz", labels(codes=(1, 3)))
    table = read(study, metrics=("dice", "false_positive"), workers=1)
    assert table.schema.scores == tuple(f"{m}_{c}" for c in (1, 2, 3) for m in ("dice", "false_positive"))
    np.testing.assert_array_equal(table.frame["dice_3"], [np.nan, np.nan, 0])
    np.testing.assert_array_equal(table.frame["false_positive_3"], [0, 0, np.nan])
    assert "[7]" in table.notes[-1]


def test_masks_of_floats_and_of_one_slice(study):
    write(study / "predicted" / "a1.nii.gz", labels().astype(np.float32))
    assert read(study).frame["dice_1"][1] == 1
    for folder in ("labels", "predicted"):
        for case in ("a1", "b2", "c3"):
            write(study / folder / f"{case}.nii.gz", labels()[:, :, 3:4])
    table = read(study)
    assert (table.frame["hd95_1"] == 0).all()


def test_a_header_in_metres_is_in_mm_too(study):
    for folder, shift in (("labels", 0), ("predicted", 1)):
        image = nibabel.Nifti1Image(labels(shift), np.diag([0.0005, 0.001, 0.002, 1]))
        image.header.set_xyzt_units("meter")
        nibabel.save(image, study / folder / "b2.nii.gz")
    assert read(study).frame["hd95_2"][0] == pytest.approx(0.5)


def test_png_masks_are_measured_in_pixels(tmp_path):
    for case in ("a", "b"):
        write(tmp_path / "labels" / f"{case}.png", labels()[:, :, 3] * 127)
        write(tmp_path / "predicted" / f"{case}.png", labels(1)[:, :, 3] * 127)
    people(tmp_path, "case,sex", "a,F", "b,M")
    table = read(tmp_path)
    assert table.frame["hd95_127"].tolist() == [1, 1]
    assert any("pixels" in note for note in table.notes)
    write(tmp_path / "predicted" / "a.png", np.zeros((10, 9, 3), np.uint8))
    with pytest.raises(UserError, match=r"a\.png: 3 channels"):
        read(tmp_path)


def damage(study, what):
    """Makes one thing wrong."""
    predicted, reference = study / "predicted" / "b2.nii.gz", study / "labels" / "b2.nii.gz"
    if what == "no prediction":
        predicted.unlink()
    elif what == "no reference":
        reference.unlink()
    elif what == "no row":
        people(study, "case,sex", "a1,M", "c3,")
    elif what == "row without masks":
        people(study, "case,sex", "a1,M", "b2,F", "c3,", "d4,F")
    elif what == "case twice":
        people(study, "case,sex", "a1,M", "b2,F", "b2,F", "c3,")
    elif what == "two files":
        write(study / "labels" / "b2.nii", labels())
    elif what == "shape":
        write(predicted, labels()[:-1])
    elif what == "affine":
        write(predicted, labels(), AFFINE @ np.diag([-1, 1, 1, 1]))
    elif what == "probabilities":
        write(predicted, labels() / np.float32(3))
    elif what == "cut off":
        predicted.write_bytes(predicted.read_bytes()[:60])
    elif what == "channels":
        write(predicted, np.stack([labels()] * 2, -1))
    elif what == "no column":
        people(study, "file,sex", "a1,M")
    elif what == "clash":
        people(study, "case,sex,dice_1", "a1,M,x", "b2,F,y", "c3,,z")
    elif what == "one png":
        for path in (predicted, reference):
            path.unlink()
            write(path.with_name("b2.png"), labels()[:, :, 3])
    elif what == "png against nifti":
        for folder in ("labels", "predicted"):
            for case in ("a1", "b2", "c3"):
                write(study / folder / f"{case}.nii.gz", labels()[:, :, 3])
        predicted.unlink()
        write(predicted.with_name("b2.png"), labels()[:, :, 3])


@pytest.mark.parametrize(
    ("what", "message"),
    [("no prediction", r"1 references without a prediction \(b2\)"), ("no reference", "predictions without a reference"),
     ("no row", "cases without a row in people.csv"), ("row without masks", r"rows of people.csv without masks \(d4\)"),
     ("case twice", r"people.csv: column 'case': the same id twice in 2 lines \(3, 4\)"), ("two files", "the same case"),
     ("shape", r"case b2: .*\(9, 9, 8\).*\(10, 9, 8\)"), ("affine", "case b2: the headers"), ("probabilities", "not whole numbers"),
     ("cut off", r"b2\.nii\.gz: the file is damaged"), ("channels", "4 axes"), ("no column", "no column 'case'"), ("clash", "'dice_1'"),
     ("one png", "in pixels"), ("png against nifti", "one mask is PNG")],
)  # fmt: skip
def test_refused(study, what, message):
    damage(study, what)
    roles = reader.Roles("values", (), {}, attributes=("sex", "dice_1")) if what == "clash" else ROLES
    with pytest.raises(UserError, match=message):
        read(study, roles)


def test_refused_folders_and_structures(study):
    with pytest.raises(UserError, match="--pred_dir: no folder"):
        masks.read(study / "none", study / "labels", study / "people.csv", ROLES)
    (study / "empty").mkdir()
    with pytest.raises(UserError, match="--ref_dir: .* has no mask"):
        masks.read(study / "predicted", study / "empty", study / "people.csv", ROLES)
    with pytest.raises(UserError, match="label code 9 of 'lens'"):
        read(study, structures={"lens": 9})
    for case in ("a1", "b2", "c3"):
        write(study / "labels" / f"{case}.nii.gz", labels(codes=(0, 0)))
    with pytest.raises(UserError, match="other than 0"):
        read(study)


def test_headers_that_differ_by_rounding_are_the_same_place(study):
    write(study / "predicted" / "b2.nii.gz", labels(1), AFFINE + 1e-4)
    assert read(study).frame["hd95_2"][0] == 0.5


def test_names_of_structures():
    assert masks.name_structures(["1:disc", "2:optic cup"]) == {"disc": 1, "optic cup": 2}
    for words in (["disc"], ["0:none"], ["x:disc"], ["1:"], ["1:a", "1:b"], ["1:a", "2:a"]):
        with pytest.raises(UserError, match="--structures"):
            masks.name_structures(words)
