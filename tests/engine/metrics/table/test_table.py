import pandas as pd
import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.table.table import Schema, Table, read_table, write_table

SCHEMA = Schema(
    "classification", "disease", ("absent", "present"), "present", {"sex": ["F", "M", "unknown"], "age": None}
)


def frame(**changes):
    values = {
        "scan_id": ["a", "b", "c"],
        "subject_id": ["p", "p", "q"],
        "cohort": "x",
        "split": "test",
        "target": [0, 1, 1],
        "score": [0.7, 0.2, 1.0],
        "threshold": 0.7,
        "threshold_split": "validation",
        "checkpoint_step": 5,
        "checkpoint_fingerprint": "f",
        "config_fingerprint": "g",
        "sex": ["F", "unknown", "M"],
        "age": [50.0, float("nan"), 61.0],
    }
    return pd.DataFrame(values | changes)


def test_a_table_prints_what_it_holds_and_no_row():
    text = repr(Table(frame(), SCHEMA))
    assert text == "Table(3 images of 2 patients, binary 'disease', models: model; attributes: sex, age)"


def test_a_table_reads_back_as_written(tmp_path):
    path = tmp_path / "deep" / "t.parquet"
    write_table(path, frame(), SCHEMA)
    table = read_table(path)
    assert table.schema == SCHEMA
    pd.testing.assert_frame_equal(table.frame, frame(), check_dtype=False)
    assert table.frame["threshold"].dtype == "float64" and table.frame["target"].dtype == "int64"
    assert [p.name for p in path.parent.iterdir()] == ["t.parquet"]


def test_a_float32_score_is_compared_as_it_was_stored(tmp_path):
    write_table(tmp_path / "t.parquet", frame(score=pd.Series([0.7, 0.2, 1.0], dtype="float32")), SCHEMA)
    assert read_table(tmp_path / "t.parquet").frame["score"].dtype == "float64"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scan_id": ["a", "b", "a"]}, ["'scan_id'", "same id twice", "2 rows", "0, 2"]),
        ({"score": [0.5, float("nan"), 0.1]}, ["'score'", "NaN", "1 row ", "1)"]),
        ({"score": [0.5, 1.2, -0.1]}, ["'score'", "outside [0, 1]", "2 rows", "1, 2", "not logits"]),
        ({"score": ["high", 0.1, 0.2]}, ["'score'", "not a number", "0)"]),
        ({"target": [0, 2, 1]}, ["'target'", "0=absent, 1=present", "1)"]),
        ({"sex": ["F", "X", "M"]}, ["'sex'", "F, M, unknown", "1)"]),
        ({"sex": ["F", None, "M"]}, ["'sex'", "not a known level", "1)"]),
        ({"subject_id": ["p", "", "q"]}, ["'subject_id'", "1)"]),
        ({"threshold": [0.5, float("nan"), 0.5]}, ["'threshold'", "1)"]),
        ({"checkpoint_step": [5, 5, 5.5]}, ["'checkpoint_step'", "whole", "2)"]),
    ],
)
def test_faults_name_column_row_and_remedy(changes, words, tmp_path):
    with pytest.raises(UserError) as caught:
        write_table(tmp_path / "t.parquet", frame(**changes), SCHEMA)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not list(tmp_path.iterdir())


def test_messages_hold_no_value_of_a_person(tmp_path):
    with pytest.raises(UserError) as caught:
        write_table(
            tmp_path / "t.parquet",
            frame(sex=["F", "secret-level", "M"], scan_id=["id-1", "id-2", "id-3"]),
            SCHEMA,
        )
    assert "secret" not in str(caught.value) and "id-" not in str(caught.value)


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(UserError, match="no column 'score', 'sex'"):
        write_table(tmp_path / "t.parquet", frame().drop(columns=["score", "sex"]), SCHEMA)


def test_files_that_are_not_ours_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("scan_id,score\na,0.1\n")
    with pytest.raises(UserError, match="not a readable Parquet"):
        read_table(tmp_path / "t.csv")
    frame().to_parquet(tmp_path / "u.parquet")
    with pytest.raises(UserError, match="without Equipoise's schema"):
        read_table(tmp_path / "u.parquet")
    with pytest.raises(UserError, match="equipoise evaluate"):
        read_table(tmp_path / "none.parquet")
