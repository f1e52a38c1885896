import json
import pathlib

import jsonschema
import numpy as np
import pytest

from engine.metrics import frame
from engine.metrics.table import Table, validate
from engine.report import figures, findings, page, run, slices
from tests.engine.report import fake_run

SCHEMA = json.loads((pathlib.Path(page.__file__).parent / "metrics.schema.json").read_text())


def context(table=None, **changes):
    table = fake_run.predictions(300, 5) if table is None else table
    table = Table(validate(table, fake_run.SCHEMA, "t"), fake_run.SCHEMA)
    values = {
        "workdir": pathlib.Path("/home/someone/runs"), "config": {"model": {"name": "cnn"}}, "cohort": fake_run.COHORT, "split": "test",
        "step": 600, "schema": fake_run.SCHEMA, "frame": frame.evaluate(table, resamples=100),
        "tables": {(fake_run.COHORT, "test"): table.frame},
    }  # fmt: skip
    return page.Context(**values | changes)


def test_metrics_json_fits_its_schema_and_the_schema_can_refuse():
    document = json.loads(json.dumps(frame.to_json({"cnn": context().frame}), allow_nan=False))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.validate(document)
    for spoil in (
        lambda d: d["overall"]["auroc"].pop("n"),
        lambda d: d["overall"].update(made_up={}),
        lambda d: d["groups"]["bias"]["with"]["fpr"].update(value="0.1"),
        lambda d: d["groups"]["bias"]["with"]["fpr"].update(value=None, reason=None),
        lambda d: d["disparities"]["bias"].update(gap={}),
        lambda d: d["settings"].pop("threshold_split"),
        lambda d: d.update(models={}),
    ):
        broken = json.loads(json.dumps(document))
        spoil(broken)
        assert not validator.is_valid(broken)


def test_undefined_cells_fit_the_schema_too():
    table = fake_run.predictions(40, 5)
    table = table[(table["bias"] == "without") | (table["target"] == 1)]
    document = json.loads(json.dumps(frame.to_json({"cnn": context(table).frame}), allow_nan=False))
    jsonschema.validate(document, SCHEMA)
    assert document["groups"]["bias"]["with"]["auroc"]["value"] is None


def test_numbers_are_printed_with_a_true_minus_and_dashes():
    assert page.number(-0.1234) == "−0.123"
    assert page.number(0.1234, signed=True) == "+0.123"
    assert page.number(-0.0001, signed=True) == "0.000"
    assert page.number(float("nan")) == "–" == page.number(None)
    assert page.interval(0.1, float("nan")) == ""
    assert (
        page.probability(0.0004) == "< 0.001"
        and page.probability(0.0456) == "0.046"
        and page.probability(None) == "–"
    )


def test_the_conclusion_says_what_the_numbers_say():
    unequal = findings.conclusion(context(fake_run.predictions(600, 1, gamma=0.9, alpha=0.1)))
    assert "serves the groups of “bias” differently" in unequal and "with" in unequal
    matched = fake_run.predictions(300, 2, lean=0.0).sort_values(["target", "score"])
    matched["bias"] = np.where(
        np.arange(300) % 2, "with", "without"
    )  # neighbours in score: no gap by construction
    equal = findings.conclusion(context(matched))
    assert "No difference" in equal and "could have been missed" in equal
    alone = findings.conclusion(context(fake_run.predictions(60, 2).query("bias == 'with'")))
    assert "No two groups can be compared" in alone


def test_text_is_escaped():
    section = page.Section("<b>", ("a & <script>",), tables=(page.Grid(("<i>",), [(page.Cell("<u>"),)]),))
    shown = page.render("<title>", ["<em>"], [page.KeyNumber("k", "<1")], [section])
    assert (
        "<script>" not in shown and "&lt;script&gt;" in shown and "<u>" not in shown and "<em>" not in shown
    )


def test_reasons_that_could_name_a_place_are_not_shown():
    shown = run.cohort(context(cohort_report=fake_run.cohort_report(10))).text[0]
    assert "2 scans" in shown and "truncated" in shown and "clinic" not in shown and "77778" not in shown


def test_what_is_missing_is_said():
    bare = context()
    assert "No cohort report" in run.cohort(bare).text[0]
    assert "no curve" in run.training(bare).text[0]
    assert run.saliency(bare).command.endswith("--saliency")


def test_saliency_density_by_hand():
    inside = np.ones((2, 2), bool)
    values = {"g": np.array([[3.0, 1.0], [0.0, 0.0]])}
    regions = {"r": np.array([[True, False], [False, False]]), "none": np.zeros((2, 2), bool)}
    found = slices.density(values, regions, inside)
    assert found["g"]["r"] == 3.0 and np.isnan(found["g"]["none"])


def test_slices_show_both_regions_where_one_slice_can():
    first, second = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    first[1:4, 4, 2:6], second[6:8, 4, 5:8] = True, True
    places = {title: place for _, place, title, _, _ in slices._planes(first.shape, [first, second])}
    assert places["axial"] == 5 and places["coronal"] == 4  # z 5 is in both; y 4 is in both
    assert places["sagittal"] == 2  # no x is in both: the first region's centre


@pytest.mark.parametrize("shape", [(12, 14, 10), (16, 12)])
def test_saliency_is_drawn_for_volumes_and_pictures(shape, rng):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(4, 7) for _ in shape)] = True
    drawn = slices.saliency(
        {"a": rng.random(shape), "b": rng.random(shape)}, rng.random(shape), {"spot": mask}
    )
    assert drawn.png.startswith(b"\x89PNG") and "a, b" in drawn.alt


def test_figures_are_vectors_and_the_same_every_time():
    rows = [("ΔTPR", 0.2, 0.1, 0.3), ("ΔFPR", -0.1, -0.2, 0.0)]
    first, second = (figures.gaps(rows, "gaps", "caption", {"expected": [0.1, None]}) for _ in range(2))
    assert first.source == second.source and first.source.startswith("data:image/svg+xml;base64,")
    assert "ΔTPR +0.200" in first.alt and "ΔFPR −0.100" in first.alt
