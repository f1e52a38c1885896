import html
import json
import pathlib

import jsonschema
import pandas as pd
import pytest
from absl import flags

from equipoise.engine import data
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.table import table
from equipoise.engine.report.page import page, words
from equipoise.launch import report as command
from tests import launching
from tests.engine.report import fake_run
from tests.launch.outline import Outline


def run(workdir, *words):
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["report", f"--workdir={workdir}", "--resamples=200", *words])
    try:
        return command.main()
    finally:
        flags.FLAGS.unparse_flags()
        for name in (
            "workdir",
            "cohort",
            "split",
            "step",
            "output",
            "group",
            "resamples",
            "seed",
            "policy",
            "region_cut",
        ):
            flags.FLAGS[name].unparse()
        flags.FLAGS(["test"])


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """(run folder, report folder) of a complete fake run."""
    root = tmp_path_factory.mktemp("fake")
    builder = fake_run.make(root / "run", root / "data", 300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "open_builder", lambda cohort, data_dir: builder)
        run(root / "run")
    return root / "run", root / "run" / "report"


def value_at(document, key):
    """``/groups/bias/with/fpr`` -> the value of that cell; ``/region_scores/.../weighted`` -> the number itself."""
    for part in key.split("/")[1:]:
        document = document[part.replace("~1", "/").replace("~0", "~")]
    return document["value"] if isinstance(document, dict) else document


def test_the_page_stands_alone_and_is_well_formed(reported):
    outline = Outline((reported[1] / "report.html").read_text())
    assert not outline.open
    assert len(outline.loads) >= 9 and all(address.startswith("data:") for address in outline.loads)
    style = (reported[1] / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_the_page_names_nobody_and_no_place(reported):
    written = [p.read_text() for p in reported[1].iterdir() if p.is_file()]
    assert len(written) == 5
    for text in written:
        assert "person-" not in text and "scan-0" not in text and "scan-7" not in text
        assert str(reported[0]) not in text and "/home" not in text and "/tmp" not in text


def test_every_number_on_the_page_is_that_of_metrics_json(reported):
    document = json.loads((reported[1] / "metrics.json").read_text())
    numbers = Outline((reported[1] / "report.html").read_text()).numbers
    assert len(numbers) > 60
    assert {key.split("/")[1] for key, _ in numbers} == {"overall", "groups", "disparities", "region_scores"}
    for key, text in numbers:
        value = value_at(document, key)
        signed = "/difference:" in key or "/xauc_" in key
        assert text == words.number(value, 3, signed), key
        if value is not None:
            assert float(text.replace("−", "-")) == pytest.approx(value, abs=0.0005001)


def test_metrics_files_agree_and_fit_the_schema(reported):
    document = json.loads((reported[1] / "metrics.json").read_text())
    schema = pathlib.Path(page.__file__).parent / "metrics.schema.json"
    jsonschema.validate(document, json.loads(schema.read_text()))
    flat = pd.read_csv(reported[1] / "metrics.csv")
    row = flat.query("part == 'group' and level == 'with' and score == 'fpr'").iloc[0]
    cell = document["groups"]["bias"]["with"]["fpr"]
    assert (row["value"], row["low"], row["n"]) == pytest.approx((cell["value"], cell["low"], cell["n"]))
    assert document["settings"]["threshold_split"] == "fixed"
    scored = pd.read_csv(reported[1] / "region_scores.csv").set_index(["target", "level", "label"])
    group = document["region_scores"]["groups"]["present_with"]
    assert (group["target"], group["attribute"], group["level"], group["n"]) == (
        "present",
        "bias",
        "with",
        10,
    )
    for region in ("75", "78"):
        row = scored.loc[("present", "with", int(region))]
        assert row["weighted"] == pytest.approx(group["regions"][region]["weighted"])
        assert row["marked"] == group["regions"][region]["marked"] == {"75": "disease", "78": "bias"}[region]
    assert "no voxel" in group["regions"]["79"]["reason"] and group["regions"]["79"]["weighted"] is None
    assert document["models"]["cnn"]["overall"] == document["overall"]


def test_every_section_and_figure_is_there(reported):
    text = (reported[1] / "report.html").read_text()
    for part in (
        "best validation auroc", "2 scans could not be used", "Scores, overall and by group", "Gaps between groups",
        "perfect shortcut user", "The same subjects, with and without the bias", "Rendering the bias into the very same subjects changes",
        "Training", "Where the model looks", "disease region (right insula)", "What this report can and cannot see",
        "The disease region (right insula) has rank 1 to 2 of 15", "Orange diamond: disease region", "blue square: bias region",
        "smallest detectable", "Appendix: definitions", html.escape(registry.get("accuracy").formula), "Settings, versions and fingerprints", "0123456789ab",
        "Who was scored", "Findings in words", "missed, of 100 with it", "Methods, to paste into a paper",
    ):  # fmt: skip
        assert part in text, part
    names = {p.stem for p in (reported[1] / "figures").glob("*.png")}
    assert names == {
        "composition", "scores_by_bias", "roc_by_bias", "precision_recall_by_bias", "calibration_by_bias", "distribution_by_bias",
        "decision_by_bias",
        "gaps_by_bias_sensitivity", "gaps_by_bias_fpr", "gaps_and_theory", "paired_effect", "training", "saliency",
        "region_scores_absent", "region_scores_present",
    }  # fmt: skip


def test_missing_parts_become_notes_with_their_command(tmp_path, monkeypatch):
    builder = fake_run.make(tmp_path / "run", tmp_path / "data", 120, counterfactual=False)
    for path in (tmp_path / "run" / "saliency").rglob("*.npz"):
        path.unlink()
    monkeypatch.setattr(data, "open_builder", lambda cohort, data_dir: builder)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "region_scores.csv").touch()  # of an older report, which had maps
    run(tmp_path / "run", f"--output={tmp_path / 'elsewhere'}", "--step=600")
    assert not (tmp_path / "elsewhere" / "region_scores.csv").exists()
    text = (tmp_path / "elsewhere" / "report.html").read_text()
    assert "equipoise evaluate --workdir=... --cohort=simba/near_4mm_counterfactual --split=test" in text
    assert "--saliency" in text
    assert not list((tmp_path / "elsewhere").rglob(".*.tmp"))


def test_mistakes_get_a_command_to_run(tmp_path):
    fake_run.make(tmp_path / "run", tmp_path / "data", 40)
    with pytest.raises(UserError, match="give best, last or one of 600"):
        run(tmp_path / "run", "--step=7")
    with pytest.raises(UserError, match="equipoise evaluate .*--cohort=simba/far_4mm --split=test"):
        run(tmp_path / "run", "--cohort=simba/far_4mm")
    with pytest.raises(UserError, match="--region_cut=1.0: give a number between 0 and 1"):
        run(tmp_path / "run", "--region_cut=1")
    with pytest.raises(UserError, match="holds no run"):
        run(tmp_path / "nothing")


def test_a_policy_decides_the_exit_code_and_a_threshold_of_its_own_split_is_refused(
    tmp_path, monkeypatch, capsys
):
    builder = fake_run.make(tmp_path / "run", tmp_path / "data", 200, counterfactual=False)
    monkeypatch.setattr(data, "open_builder", lambda cohort, data_dir: builder)
    rules = tmp_path / "policy.yaml"
    rules.write_text(
        "rules:\n  - {metric: auroc, min: 0.1}\n  - {metric: accuracy, groups: bias, min: 0.999}\n"
    )
    assert run(tmp_path / "run", f"--policy={rules}") == 3
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all("policy.yaml:3: cnn: accuracy >= 0.999" in line for line in told)
    document = json.loads((tmp_path / "run" / "report" / "metrics.json").read_text())
    jsonschema.validate(
        document, json.loads((pathlib.Path(page.__file__).parent / "metrics.schema.json").read_text())
    )
    assert [v["is_met"] for v in document["policy"]["verdicts"]] == [True, True, True, False, False]
    path = next((tmp_path / "run" / "evaluations").glob("*near*/test/*.parquet"))
    found = table.read_table(path)
    table.write_table(path, found.frame.assign(threshold_split="test"), found.schema)
    with pytest.raises(UserError, match="judged on the same images"):
        run(tmp_path / "run")


def test_a_real_run_of_another_cohort_is_reported(tiny_run, tiny_data_dir):
    _, workdir = tiny_run
    done = launching.equipoise(
        "evaluate", f"--workdir={workdir}", "--saliency", f"--data_dir={tiny_data_dir}"
    )
    assert done.returncode == 0, done.stderr
    done = launching.equipoise("report", f"--workdir={workdir}", f"--data_dir={tiny_data_dir}")
    assert done.returncode == 0, done.stderr
    text = (workdir / "report" / "report.html").read_text()
    Outline(text)
    assert (
        "sex: F" in text
        and "sex: M" in text
        and "These attributes are numbers and form no groups: age" in text
    )
    assert "subject-" not in text and "shortcut" not in text
    assert not done.stderr
