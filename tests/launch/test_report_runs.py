import dataclasses
import io
import json
import math
import pathlib
import re
import shutil

import jsonschema
import numpy as np
import pandas as pd
import pytest
from absl import flags

from equipoise.engine import rundir
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.table import table
from equipoise.engine.report.figures import dots
from equipoise.engine.report.page import latex, page, words
from equipoise.launch import report as command
from tests.engine.report import fake_runs
from tests.launch.outline import Outline

SCHEMA = json.loads((pathlib.Path(page.__file__).parent / "runs.schema.json").read_text())
NAMES = ("runs", "by", "workdir", "cohort", "split", "step", "output", "out", "group", "resamples", "seed")


def report(pattern, *words):
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["report", f"--runs={pattern}", "--resamples=100", *map(str, words)])
    try:
        command.main()
    finally:
        flags.FLAGS.unparse_flags()
        for name in NAMES:
            flags.FLAGS[name].unparse()
        flags.FLAGS(["test"])


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are tested once; drawing them takes most of a report's time."""
    empty = page.Figure("undrawn", "nothing", "", b"", "data:,")
    monkeypatch.setattr(dots, "draw", lambda *args, **more: empty)


def value_at(document, key):
    for part in key.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document["value"]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """(runs, report, what was printed): two methods by four seeds, a method of one seed, and runs that cannot be compared."""
    root = tmp_path_factory.mktemp("many")
    frame = fake_runs.make_all(root / "runs")
    cnn = {"model.name": "cnn"}
    fake_runs.make(root / "runs" / "lone_7", frame, 7, **{"model.name": "lone"})
    fake_runs.make(root / "runs" / "stopped_8", frame, 8, step=20, **cnn)
    fake_runs.make(root / "runs" / "elsewhere_8", fake_runs.images(40, 3), 8, **cnn)
    fake_runs.make(root / "runs" / "relabelled_8", frame.assign(target=1 - frame["target"]), 8, **cnn)
    fake_runs.make(root / "runs" / "unscored_8", frame, 8, **cnn)
    shutil.rmtree(root / "runs" / "unscored_8" / "evaluations")
    fake_runs.make(root / "runs" / "zz_copy_of_cnn_0", frame, 0, **cnn)
    (root / "runs" / "notes").mkdir()
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", printed)
        report(root / "runs" / "*", f"--out={root / 'out'}")
    return root / "runs", root / "out", printed.getvalue()


def read(many):
    return json.loads((many[1] / "metrics.json").read_text())


def test_every_run_is_counted_or_named_with_the_reason(many):
    found = read(many)
    assert [r["name"] for r in found["runs"]] == [
        *(f"cnn_{i}" for i in range(4)), "lone_7", *(f"sfcn_{i}" for i in range(4))
    ]  # fmt: skip
    why = {e["name"]: e["reason"] for e in found["excluded"]}
    assert list(why) == [
        "elsewhere_8",
        "notes",
        "relabelled_8",
        "stopped_8",
        "unscored_8",
        "zz_copy_of_cnn_0",
    ]
    assert "scored on other images" in why["elsewhere_8"] and "other labels" in why["relabelled_8"]
    assert (
        "no config.json" in why["notes"]
        and "unfinished: step 20 of 50" in why["stopped_8"]
        and "has not been evaluated" in why["unscored_8"]
    )
    assert "same configuration and seed as cnn_0" in why["zz_copy_of_cnn_0"]
    text = (many[1] / "report.html").read_text()
    assert all(name in text and name in many[2] for name in why)
    assert found["factors"] == ["model.name"] and found["runs"][0]["factors"] == {"model.name": "cnn"}


def test_values_are_those_of_each_run_computed_alone(many):
    found, lines = read(many), pd.read_csv(many[1] / "runs.csv")
    values = []
    for seed in range(4):
        one = table.read_table(rundir.RunFolder(many[0] / f"cnn_{seed}").evaluation("clinic", "test", 50))
        values.append(registry.compute("auroc", one.columns()))
        line = lines.query(f"run == 'cnn_{seed}' and part == 'overall' and score == 'auroc'").iloc[0]
        assert line["value"] == pytest.approx(values[-1]) and line["seed"] == f"seed {seed}"
    cell = found["methods"]["cnn"]["overall"]["auroc"]
    assert cell["value"] == pytest.approx(np.mean(values)) and cell["seed_sd"] == pytest.approx(
        np.std(values, ddof=1)
    )
    assert cell["low"] < cell["sample_low"] < cell["value"] < cell["sample_high"] < cell["high"]
    assert len(lines) == 9 * 5 * (1 + 2 + 3)


def test_one_seed_has_no_interval_of_seeds_and_no_partner(many):
    found = read(many)
    cell = found["methods"]["lone"]["overall"]["auroc"]
    assert cell["seed_sd"] is None and cell["low"] is None and "one run" in cell["reason"]
    assert cell["sample_low"] < cell["value"] < cell["sample_high"]
    alone = [c for c in found["contrasts"] if "lone" in (c["first"], c["second"])]
    assert alone and all(c["value"] is None and "no seed in common" in c["reason"] for c in alone)
    assert "seed 7 (lone)" in alone[0]["unpaired"]


def test_contrasts_are_paired_by_seed(many):
    found, lines = (
        read(many),
        pd.read_csv(many[1] / "runs.csv").query("part == 'overall' and score == 'accuracy'"),
    )
    wide = lines.pivot_table(index="seed", columns="method", values="value")
    apart = (wide["cnn"] - wide["sfcn"]).dropna()
    one = next(
        c
        for c in found["contrasts"]
        if (c["first"], c["second"], c["score"], c["attribute"]) == ("cnn", "sfcn", "accuracy", "")
    )
    assert one["value"] == pytest.approx(apart.mean()) and one["seed_sd"] == pytest.approx(apart.std(ddof=1))
    assert one["num_runs"] == 4 and one["p_adjusted"] >= one["p"] and (one["p"] < 0.05) == (one["high"] < 0)


def test_extremes_are_of_the_means_and_their_own_stand_beside(many):
    found, lines = (
        read(many),
        pd.read_csv(many[1] / "runs.csv").query(
            "method == 'cnn' and attribute == 'race' and score == 'sensitivity'"
        ),
    )
    wide = lines.pivot_table(index="seed", columns="level", values="value")
    worst = found["methods"]["cnn"]["disparities"]["race"]["worst_group:sensitivity"]
    assert worst["value"] == pytest.approx(wide.mean().min()) and worst["levels"] == [wide.mean().idxmin()]
    assert (
        worst["mean_of_runs"] == pytest.approx(wide.min(axis=1).mean())
        and worst["mean_of_runs"] <= worst["value"]
    )
    spread = found["methods"]["cnn"]["disparities"]["race"]["max_min:sensitivity"]
    assert (
        spread["value"] == pytest.approx(np.ptp(wide.mean()))
        and spread["low"] <= spread["value"] <= spread["high"]
    )


def test_files_fit_their_schema_and_the_page(many):
    found = read(many)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    for spoil in (lambda d: d["methods"].clear(), lambda d: d["contrasts"][0].pop("first"), lambda d: d["contrasts"][0].update(more=1),
                  lambda d: d["methods"]["lone"]["overall"]["auroc"].pop("reason")):  # fmt: skip
        broken = json.loads(json.dumps(found))
        spoil(broken)
        assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(broken)
    text = (many[1] / "report.html").read_text()
    outline = Outline(text)
    assert not outline.open and all(address.startswith("data:") for address in outline.loads)
    assert len(outline.numbers) > 60
    for key, shown in outline.numbers:
        value = value_at(found, key)
        signed = key.startswith("/contrasts") or "/difference:" in key
        assert shown == words.number(value, 3, signed), key
    for path in (p for p in many[1].iterdir() if p.is_file()):
        written = path.read_text()
        assert "person-" not in written and "scan-0" not in written and str(many[0]) not in written
    drawn = {p.name for p in (many[1] / "figures").iterdir()}
    assert {f"{n}.{k}" for n in ("methods_auroc", "differences") for k in ("png", "svg", "pdf")} <= drawn
    summary = pd.read_csv(many[1] / "summary.csv")
    assert set(summary["part"]) == {"overall", "group", "disparity", "contrast"}


def test_the_table_is_whole_and_bold_only_where_it_is_clear(many):
    text = (many[1] / "table.tex").read_text()
    assert re.findall(r"\\(begin|end)\{(\w+)\}", text) == [
        ("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")
    ]  # fmt: skip
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    columns = len(re.search(r"\{tabular\}\{(l c*)\}".replace(" ", ""), text)[1])
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0].replace(r"\midrule", "").splitlines()
    body = [line for line in body if line.strip()]
    assert len(body) == 1 + 2 * 3 and all(
        line.count(" & ") == columns - 1 and line.endswith(r"\\") for line in body
    )
    assert text.count("{") == text.count("}") and not re.search(
        r"(?<!\\)[%_#]", text.split("\n", 1)[1].replace(r"\label{tab:runs}", "")
    )
    assert r"\textbf" not in text  # nothing is best of all where one method has no partner


def test_best_is_bold_between_two(many, tmp_path, undrawn):
    report(many[0] / "[cs]*n_?", f"--out={tmp_path}")
    rows = (tmp_path / "table.tex").read_text().splitlines()
    cells = {
        name: next(r for r in rows if r.strip().startswith(f"{name} ")).split(" & ")[1:]
        for name in ("cnn", "sfcn")
    }
    found = json.loads((tmp_path / "metrics.json").read_text())
    for place, metric in enumerate(("auroc", "accuracy", "sensitivity", "fpr", "ppv")):
        one = next(c for c in found["contrasts"] if c["score"] == metric and not c["attribute"])
        better = "sfcn" if (one["value"] < 0) == registry.get(metric).higher_is_better else "cnn"
        clear = one["low"] > 0 or one["high"] < 0
        for name, row in cells.items():
            assert (r"\textbf" in row[place]) == (clear and name == better), (metric, name)


def test_latex_text_is_escaped():
    assert latex.escape(r"a_b & 50% #1 $x$ {y} \n ~ ^") == (
        r"a\_b \& 50\% \#1 \$x\$ \{y\} \textbackslash{}n \textasciitilde{} \textasciicircum{}"
    )
    assert latex.escape("[0.5]*2 − é 北") == "{[}0.5{]}{*}2 $-$ é (U+5317)"
    text = latex.table(
        ["x"],
        {"m": [(math.nan,) * 4], "k": [(-0.5, math.nan, math.nan, math.nan)]},
        {"m": [False], "k": [True]},
        "c",
    )
    assert "m & -- " in text and r"\textbf{$-$0.500}" in text and "no interval" in text


def test_by_makes_the_methods_and_names_what_differs_within(tmp_path, undrawn):
    frame = fake_runs.images(40)
    for seed in range(2):
        for rate in (0.1, 0.2):
            for name in ("cnn", "sfcn"):
                changes = {"model.name": name, "optimizer.learning_rate": rate}
                fake_runs.make(tmp_path / "r" / f"{name}_{rate}_{seed}", frame, seed, 1 + rate, **changes)
    report(tmp_path / "r" / "*", "--by=model.name", f"--out={tmp_path / 'a'}", "--group=sex")
    found = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert list(found["methods"]) == ["cnn", "sfcn"] and found["within"] == ["optimizer.learning_rate"]
    assert found["runs"][0]["block"] == "seed 0, learning_rate=0.1"
    assert found["contrasts"][0]["num_runs"] == 4
    report(tmp_path / "r" / "*", f"--out={tmp_path / 'b'}", "--group=sex")
    found = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert list(found["methods"])[:2] == ["name=cnn, learning_rate=0.1", "name=cnn, learning_rate=0.2"]
    with pytest.raises(UserError, match="Did you mean 'model.name'"):
        report(tmp_path / "r" / "*", "--by=modl.name", f"--out={tmp_path / 'c'}")
    with pytest.raises(UserError, match=r"'name' may mean model.name or method.name or optimizer.name"):
        report(tmp_path / "r" / "*", "--by=name", f"--out={tmp_path / 'c'}")


def test_mistakes_are_told(tmp_path, many, undrawn):
    with pytest.raises(UserError, match="matches nothing: quote a glob"):
        report(tmp_path / "*", f"--out={tmp_path}")
    with pytest.raises(UserError, match="none of them a run"):
        report(many[0] / "notes", f"--out={tmp_path}")
    with pytest.raises(UserError, match="no --out"):
        report(many[0] / "*")
    with pytest.raises(UserError, match="exclude each other"):
        report(many[0] / "*", f"--workdir={tmp_path}", f"--out={tmp_path}")
    with pytest.raises(UserError, match=r"none of the 15 folders can be reported:\n  cnn_0: "):
        report(many[0] / "*", f"--out={tmp_path}", "--split=validation")
    frame = fake_runs.images(20)
    fake_runs.make(tmp_path / "x" / "a", frame, 0)
    fake_runs.make(tmp_path / "x" / "b", frame, 1, **{"data.cohort": "hospital"})
    with pytest.raises(UserError, match="trained on clinic, hospital: name with --cohort"):
        report(tmp_path / "x" / "*", f"--out={tmp_path}")
    (tmp_path / "x" / "b" / "config.json").write_text("{")
    report(tmp_path / "x" / "*", f"--out={tmp_path / 'o'}")
    assert "cannot be read" in (tmp_path / "o" / "report.html").read_text()


def test_asking_for_a_step_takes_unfinished_runs(many, tmp_path, undrawn):
    report(many[0] / "s*_8", f"--out={tmp_path}", "--step=20")
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert [r["name"] for r in found["runs"]] == ["stopped_8"] and found["runs"][0]["step"] == 20


def test_the_order_of_attributes_and_numbers_that_form_no_group_do_not_matter(tmp_path, undrawn):
    frame = fake_runs.images(30)
    fake_runs.make(tmp_path / "r" / "a", frame, 0)
    fake_runs.make(tmp_path / "r" / "b", frame.assign(age=frame["age"] + 1e-3), 1)
    path = rundir.RunFolder(tmp_path / "r" / "b").evaluation("clinic", "test", 50)
    read = table.read_table(path)
    turned = dataclasses.replace(read.schema, attributes=dict(reversed(read.schema.attributes.items())))
    table.write_table(path, read.frame.sample(frac=1, random_state=0), turned)
    report(tmp_path / "r" / "*", f"--out={tmp_path / 'o'}")
    found = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert not found["excluded"] and len(found["runs"]) == 2
