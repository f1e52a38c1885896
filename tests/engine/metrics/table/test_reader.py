import numpy as np
import pandas as pd
import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.table import reader, thresholds
from equipoise.engine.metrics.table.reader import Roles, cut, read
from equipoise.engine.vocabulary import UNKNOWN

BINARY = Roles("binary", ("y",), {"m": ("p",)}, attributes=("sex",))


def write(folder, text, name="t.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def test_a_csv_by_hand(tmp_path):
    path = write(tmp_path, "y,p,sex,pid\n1,0.9,F,a\n0,0.2, M ,a\n0,.5,NA,b\n1,0.5,,c\n")
    table = read(path, Roles("binary", ("y",), {"m": ("p",)}, attributes=("sex",), subject="pid"))
    columns = table.columns()
    assert columns["truth"].tolist() == [True, False, False, True]
    assert columns["called"].tolist() == [True, False, True, True]  # a score at the threshold is a positive
    assert table.frame["sex"].tolist() == ["F", "M", UNKNOWN, UNKNOWN]
    assert table.schema.attributes == {"sex": ["F", "M"]} and table.schema.classes == ("0", "1")
    assert table.frame["subject_id"].tolist() == ["a", "a", "b", "c"] and not table.notes


@pytest.mark.parametrize("sign", ",;\t|")
def test_any_usual_separator_and_a_byte_order_mark(tmp_path, sign):
    path = write(tmp_path, f"y{sign}p{sign}sex\n1{sign}0.9{sign}Frau Müller 北京\n", encoding="utf-8-sig")
    assert read(path, BINARY).frame["sex"].tolist() == ["Frau Müller 北京"]


def test_parquet_keeps_numbers_and_text_alike(tmp_path):
    frame = pd.DataFrame(
        {"y": [True, False, True], "p": np.float32([0.7, 0.1, 0.3]), "sex": [1.0, np.nan, 2.0]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    table = read(tmp_path / "t.parquet", BINARY)
    assert table.frame["sex"].tolist() == ["1", UNKNOWN, "2"]
    assert table.columns()["score"].tolist() == [float(np.float32(x)) for x in (0.7, 0.1, 0.3)]


@pytest.mark.parametrize(
    ("values", "positive", "truth"),
    [
        (["yes", "no", "Yes"], None, [True, False, True]),
        (["yes", "no", "yes"], None, [True, False, True]),
        (["1.0", "0.0", "1.0"], None, [True, False, True]),
        (["b", "a", "c"], "b", [True, False, False]),
        (["b", "a", "c"], None, None),
    ],
)
def test_the_positive_class_is_known_or_asked_for(tmp_path, values, positive, truth):
    path = write(tmp_path, "y,p\n" + "".join(f"{v},0.5\n" for v in values))
    roles = Roles("binary", ("y",), {"m": ("p",)}, positive)
    if truth is None:
        with pytest.raises(UserError, match="--positive=VALUE"):
            read(path, roles)
    else:
        assert read(path, roles).columns()["truth"].tolist() == truth


def test_numbers_are_cut_into_intervals():
    labels, names = cut(np.array([39, 40, 59, 60, 81, np.nan]), (40, 60, 80))
    assert names == ["<40", "40–59", "60–79", "≥80"]
    assert labels.tolist() == ["<40", "40–59", "40–59", "60–79", "≥80", UNKNOWN]
    assert cut(np.array([1.5, 2.5]), (2.0, 3.0))[1] == ["<2", "2 to <3", "≥3"]


def test_several_classes_labels_models_and_values(tmp_path):
    path = write(
        tmp_path,
        "grade,a_mild,a_none,b_mild,b_none,e,f,p_e,p_f,dice,sex\nmild,.6,.4,.1,.9,1,0,.8,.1,.9,F\nnone,.5,.5,.2,.8,0,1,.3,.7,,M\n",
    )
    table = read(path, Roles("multiclass", ("grade",), {"a": ("a_{class}",), "b": ("b_{class}",)}))
    assert table.models == ("a", "b") and table.schema.classes == ("mild", "none")
    assert table.columns("a")["called"].tolist() == [0, 0] and table.columns("b")["called"].tolist() == [1, 1]
    assert table.columns("b")["truth"].tolist() == [0, 1] and table.columns("b")["scores"].shape == (2, 2)
    table = read(path, Roles("multilabel", ("e", "f"), {"m": ("p_{class}",)}))
    assert table.columns()["truth"].tolist() == [[True, False], [False, True]]
    assert table.columns()["called"].tolist() == [[True, False], [False, True]]
    table = read(path, Roles("values", (), {"dice": ("dice",)}, attributes=("sex",)))
    np.testing.assert_array_equal(table.columns()["value"], [0.9, np.nan])
    table = read(path, Roles("regression", ("a_mild",), {"m": ("b_mild",)}))
    assert table.columns()["truth"].tolist() == [0.6, 0.5] and table.columns()["score"].tolist() == [0.1, 0.2]


def test_a_class_without_its_column_is_named(tmp_path):
    path = write(tmp_path, "y,p_a,p_b\na,.5,.5\nc,.5,.5\n")
    with pytest.raises(UserError, match="no column 'p_c' for the class 'c'"):
        read(path, Roles("multiclass", ("y",), {"m": ("p_{class}",)}))


def test_lines_are_those_of_an_editor(tmp_path):
    path = write(tmp_path, 'y,note,p\n1,"two\nlines",0.5\n\n0,x,1.5\n')
    with pytest.raises(UserError, match=r"column 'p': score outside \[0, 1\] in 1 line \(5\)"):
        read(path, Roles("binary", ("y",), {"m": ("p",)}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1 is empty"),
        ("y,p,sex\n", "no row below its header"),
        ("y,p,p\n1,0,0\n", "'p' is there twice"),
        ("y,p,sex\n1,.5,F,?\n", "line 2 has 4 fields, but line 1 names 3"),
        ("y,score,sex\n1,.5,F\n", "no column 'p'"),
    ],
)
def test_damaged_files_are_told(tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        read(write(tmp_path, text), BINARY)
    assert words in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_other_files_and_encodings_are_told(tmp_path):
    with pytest.raises(UserError, match="no table"):
        read(tmp_path / "none.csv", BINARY)
    with pytest.raises(UserError, match="CSV UTF-8"):
        read(write(tmp_path, "x", "t.xlsx"), BINARY)
    with pytest.raises(UserError, match="line 3 is not UTF-8"):
        read(write(tmp_path, "y,p,sex\n1,.5,F\n0,.5,Ä\n", encoding="latin-1"), BINARY)
    with pytest.raises(UserError, match="not a readable Parquet"):
        read(write(tmp_path, "x", "t.parquet"), BINARY)


def test_patients_are_asked_for_and_ids_are_unique(tmp_path):
    path = write(tmp_path, "y,p,sex,scan_id\n1,.5,F,a\n0,.5,F,a\n")
    with pytest.raises(UserError, match=r"column 'scan_id': the same id twice in 2 lines \(2, 3\)"):
        read(path, BINARY)
    table = read(write(tmp_path, "y,p,sex\n1,.5,F\n0,.5,F\n"), BINARY)
    assert "--subject" in table.notes[0] and table.frame["subject_id"].nunique() == 2


def test_a_million_rows_of_five_hundred_groups_are_read_in_seconds(tmp_path):
    generator, n = np.random.default_rng(0), 1_000_000
    frame = pd.DataFrame(
        {"y": generator.integers(0, 2, n), "p": generator.random(n).round(3), "sex": generator.choice([f"s{i}" for i in range(500)], n)}
    )  # fmt: skip
    frame.to_parquet(tmp_path / "t.parquet")
    table = read(tmp_path / "t.parquet", BINARY)
    assert len(table.frame) == n and table.schema.attributes["sex"][:3] == ["s0", "s1", "s2"]


def test_thresholds_come_from_another_split(tmp_path):
    path = write(tmp_path, "y,p,fold\n" + "1,.8,val\n0,.3,val\n1,.7,test\n0,.4,test\n")
    table = read(path, Roles("binary", ("y",), {"m": ("p",)}, split="fold"))
    judged = thresholds.reported(table, "test", "youden:val")
    assert judged.frame["threshold"].tolist() == [0.8, 0.8] and set(judged.frame["threshold_split"]) == {
        "val"
    }
    assert judged.columns()["called"].tolist() == [False, False]
    assert thresholds.reported(table, "test", "0.4").columns()["called"].tolist() == [True, True]
    for split, rule, words in (
        ("test", "youden:test", "judged on the same"),
        ("tset", "0.5", "Did you mean 'test'"),
        ("test", "youden:vla", "Did you mean 'val'"),
        ("test", "high", "RULE:SPLIT"),
        ("test", "yuoden:val", "youden"),
    ):
        with pytest.raises(UserError, match=words):
            thresholds.reported(table, split, rule)


def test_one_class_is_noted(tmp_path):
    path = write(tmp_path, "y,p\n1,.8\n1,.3\n")
    table = thresholds.reported(read(path, Roles("binary", ("y",), {"m": ("p",)})), "all", "0.5")
    assert "Every case of this table is y 1" in table.notes[0]


def test_missing_words_are_the_documented_ones():
    text = reader.as_text(pd.Series(["", "NA", "n/a", "NaN", "null", "Unknown", "none", "North  America"]))
    assert text.tolist() == [UNKNOWN] * 6 + ["none", "North America"]
