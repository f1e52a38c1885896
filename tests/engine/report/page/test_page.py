import dataclasses
import json
import pathlib

import jsonschema
import numpy as np
import pytest

from equipoise.engine.metrics.frames import frame
from equipoise.engine.metrics.table.table import Table, validate
from equipoise.engine.report.figures import forests, slices
from equipoise.engine.report.page import page, words
from equipoise.engine.report.single import findings, regions, run, saliency
from equipoise.engine.report.single.context import Context
from equipoise.engine.transforms.masks import decode_labels, encode_labels
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
    return Context(**values | changes)


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
    assert words.number(-0.1234) == "−0.123"
    assert words.number(0.1234, signed=True) == "+0.123"
    assert words.number(-0.0001, signed=True) == "0.000"
    assert words.number(float("nan")) == "–" == words.number(None)
    assert words.interval(0.1, float("nan")) == ""
    assert (
        words.probability(0.0004) == "< 0.001"
        and words.probability(0.0456) == "0.046"
        and words.probability(None) == "–"
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


def test_a_gap_that_cannot_be_is_not_said_to_be_missed():
    """Two rates cannot differ by more than 100 points: what so few patients leave open has no size."""
    here = context()
    metric = findings.compared(here)[0]
    sizes = {("site", str(i)): size for i, size in enumerate((0.2, 0.35, 1.011))}
    text = findings._overlooked(here, metric, sizes)
    assert "under 35 points could have been missed, and a gap of any size in 1 of 3 comparisons" in text
    assert "any size could" in findings._overlooked(here, metric, {("site", "2"): 1.011})


def test_text_is_escaped():
    section = page.Section(
        "<b>", ("a & <script>",), tables=(page.ReportTable(("<i>",), [(page.Cell("<u>"),)]),)
    )
    shown = page.render("<title>", ["<em>"], [page.KeyNumber("k", "<1")], [section])
    assert (
        "<script>" not in shown and "&lt;script&gt;" in shown and "<u>" not in shown and "<em>" not in shown
    )


def test_reasons_that_could_name_a_place_are_not_shown():
    shown = run.cohort(context(cohort_report=fake_run.cohort_report(10))).text[0]
    assert "2 scans" in shown and "truncated" in shown and "clinic" not in shown and "77778" not in shown


def test_what_is_missing_is_said():
    bare = context()
    assert "There is no cohort report" in run.cohort(bare).text[0]
    assert "no curve" in run.training(bare).text[0]
    assert saliency.section(bare).command.endswith("--saliency")


def test_saliency_density_by_hand():
    inside = np.ones((2, 2), bool)
    values = {"g": np.array([[3.0, 1.0], [0.0, 0.0]])}
    regions = {"r": np.array([[True, False], [False, False]]), "none": np.zeros((2, 2), bool)}
    found = slices.density(values, regions, inside)
    assert found["g"]["r"] == 3.0 and np.isnan(found["g"]["none"])


def with_maps(**changes):
    arrays, metadata = fake_run.volumes()
    return context(saliency=arrays, metadata=metadata, **changes)


def test_regions_of_saliency_are_said_ranked_and_drawn():
    section = regions.section(with_maps())
    (grid,), first = section.tables, section.tables[0].rows[0]
    assert first[0].text == "right insula (disease region)" and len(grid.header) == 2 + 4
    assert "without" in grid.header[2] and first[2].note.startswith("rank 1; 100 %; ")
    # The bias is less salient than the disease in those without it, and more in those with it.
    assert section.text[1].startswith(
        "The disease region (right insula) has rank 1 to 2 of 15 over 4 groups, and 100 %"
    )
    assert "; the bias region (right putamen) has rank 1 to 2 of 15" in section.text[1]
    assert [f.name for f in section.figures] == ["region_scores_absent", "region_scores_present"]
    assert all(
        "bias without (n=10): right insula (disease region), right putamen" in f.alt for f in section.figures
    )
    assert all("Orange diamond: disease region" in f.caption for f in section.figures)


def test_regions_follow_the_crop_of_the_images():
    made = with_maps()
    whole = regions.to_json(made)
    maps = {k: v for k, v in made.saliency.items() if k == "template" or k.startswith("mean_")}
    smaller = tuple(n - 2 for n in maps["template"].shape)
    centre = tuple(slice(1, 1 + n) for n in smaller)
    cut = dataclasses.replace(made, saliency=made.saliency | {k: v[centre] for k, v in maps.items()})
    assert regions.to_json(cut) is None  # another grid than the label map
    seen = dataclasses.replace(cut, config=dict(made.config) | {"data": {"shape": list(smaller)}})
    found = regions.to_json(seen)
    assert found is not None and found.keys() == whole.keys()
    assert not any("grid differs" in text for text in saliency.section(seen).text)
    assert len(saliency.section(seen).tables[0].header) == 3


def test_regions_of_saliency_that_cannot_be_scored():
    made = with_maps()
    assert regions.section(context(metadata=made.metadata)) is None  # no maps
    assert regions.section(dataclasses.replace(made, metadata={})) is None  # no label map
    assert regions.to_json(dataclasses.replace(made, metadata={})) is None
    label_map = made.metadata["label_map"] | {"labels": encode_labels(np.ones((3, 3, 3), int))}
    other = dataclasses.replace(made, metadata={"label_map": label_map})
    assert (
        "differs from that of the saliency maps" in regions.section(other).text[0]
        and regions.to_json(other) is None
    )
    flat = {k: np.zeros_like(v) if k.startswith("mean_") else v for k, v in made.saliency.items()}
    assert (
        "has no score: the map is constant"
        in regions.section(dataclasses.replace(made, saliency=flat)).text[1]
    )
    atlas = decode_labels(made.metadata["label_map"]["labels"])
    missed = {
        k: np.where(atlas == 78, 0, v) if k.startswith("mean_") else v for k, v in made.saliency.items()
    }
    section = regions.section(dataclasses.replace(made, saliency=missed))
    assert "; in no group does a voxel of the bias region (right putamen) survive" in section.text[1]
    unmarked = dataclasses.replace(made, metadata={"label_map": made.metadata["label_map"] | {"marked": {}}})
    assert "marks no region" in regions.section(unmarked).text[1]


def test_a_shared_report_has_no_maps_of_few_or_hidden_people():
    hidden = with_maps(hidden=frozenset({("bias", "with")}), min_cell=5)
    assert [m.name for m in saliency.mean_maps(hidden)] == ["absent_without", "present_without"]
    assert "bias with (" not in str(regions.section(hidden)) + str(saliency.section(hidden).tables)
    assert set(regions.to_json(hidden)["groups"]) == {"absent_without", "present_without"}
    few = with_maps(min_cell=11)  # of ten images each
    assert regions.section(few) is None and saliency.section(few).command


def test_groups_of_maps_are_those_that_were_kept():
    schema = dataclasses.replace(
        fake_run.SCHEMA,
        classes=("ill", "ill_late"),
        attributes={"sex": ["with"], "bias": ["with", "without"]},
    )
    arrays = {"mean_ill_late_with": np.zeros((2, 2)), "attribute": np.str_("bias")}
    (one,) = saliency.mean_maps(context(schema=schema, saliency=arrays))
    assert (one.target, one.attribute, one.level, one.n) == ("ill_late", "bias", "with", None)
    (old,) = saliency.mean_maps(context(schema=schema, saliency={"mean_ill_with": np.zeros((2, 2))}))
    assert (old.target, old.attribute, old.level) == ("ill", "sex", "with")  # the first that has the level


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
    first, second = (forests.gaps(rows, "gaps", "caption", {"expected": [0.1, None]}) for _ in range(2))
    assert first.source == second.source and first.source.startswith("data:image/svg+xml;base64,")
    assert "ΔTPR +0.200" in first.alt and "ΔFPR −0.100" in first.alt
