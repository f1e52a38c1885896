import pytest

from equipoise.engine.metrics.frames import frame
from equipoise.engine.metrics.table.table import Schema
from tests.engine.metrics.frames.test_frame import CELLS, METRICS, table


@pytest.fixture(scope="module")
def found():
    return frame.evaluate(table(CELLS), metrics=METRICS, resamples=200)


def test_long_table_and_notebook_view(found):
    lines = found.to_pandas()
    assert set(lines["part"]) == {"overall", "group", "disparity"}
    row = lines[(lines["attribute"] == "sex") & (lines["level"] == "F") & (lines["score"] == "sensitivity")]
    assert row["value"].item() == 0.75 and row["n"].item() == 40
    page = found._repr_html_()
    assert "0.750 (0.598 to 0.858), n=40" in page


def test_levels_are_escaped():
    schema = Schema(
        "classification",
        "disease",
        ("absent", "present"),
        "present",
        {"sex": ["<b>x</b>", "Ä&"], "age": None},
    )
    cells = {(s, t, c): 5 for s in ("<b>x</b>", "Ä&") for t in (0, 1) for c in (0, 1)}
    page = frame.evaluate(table(cells, schema), metrics=METRICS, resamples=20)._repr_html_()
    assert "<b>" not in page and "&lt;b&gt;x" in page and "Ä&amp;" in page
