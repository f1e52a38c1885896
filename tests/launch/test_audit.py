"""The audit as a program: the walk-through, its exits, what it imports, and what it makes of every kind of table."""

import html
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from tests import launching, test_docs
from tests.launch.auditing import (
    ROLES,
    audit,
    document,
    everything,
    in_one_process,
    people,
    write_masks,
)
from tests.launch.outline import Outline

NAMES = ["=cmd|'/c calc'!A1", "<script>alert(1)</script>", "Ünïcødé 北京", "+1 $x$"]
BINARY = ("--table=TABLE", *ROLES)
AUDITS = {
    "several models within sites": (
        everything(),
        ("--table=TABLE", "--target=y", "--score=good=p,poor=q_edema", "--subject=pid", "--group=race", "--control=sex"),
    ),
    "multiclass": (everything(), ("--table=TABLE", "--target=grade", "--class_scores=p_{class}", "--subject=pid", "--group=race,sex")),
    "multilabel": (everything(), ("--table=TABLE", "--target=edema,fracture", "--class_scores=q_{class}", "--group=race")),
    "regression": (everything(), ("--table=TABLE", "--task=regression", "--target=age", "--score=guess", "--group=race,sex,race*sex")),
    "values": (everything(), ("--table=TABLE", "--values=dice_cup,hd95_cup", "--subject=pid", "--group=race,sex")),
    "values to give away": (everything(), ("--table=TABLE", "--values=dice_cup,hd95_cup", "--group=race,sex", "--share")),
    "adjusted": (everything(), (*BINARY, "--group=race,sex", "--adjust=age", "--adjust_by=standardization", "--adjust_to=pooled")),
    "adjusted by pairs": (everything(), (*BINARY, "--group=race", "--adjust=age", "--adjust_by=matching")),
    "adjusted by exact pairs": (everything(), (*BINARY, "--group=race", "--adjust=sex", "--adjust_by=matching")),
    "adjusted values": (everything(), ("--table=TABLE", "--values=dice_cup,hd95_cup", "--group=race", "--adjust=age,sex")),
    "masks": (None, ("--pred_dir=pred", "--ref_dir=ref", "--attributes=cases.csv", "--structures=1:disc,2:cup", "--group=sex")),
    "dangerous names": (people(race=np.resize(NAMES, 240)), (*BINARY, "--group=race")),
    "other rows": (people(fold=np.resize(["val", "test"], 240)), (*BINARY, "--group=race", "--split=fold", "--threshold=youden:val")),
    "one class": (people(y=1), (*BINARY, "--group=race")),
    "one person": (people(race=["alone", *["A"] * 120, *["B"] * 119]), (*BINARY, "--group=race")),
    "many groups": (people(600, race=[f"g{i % 60}" for i in range(600)]), (*BINARY, "--group=race")),
    "to give away": (
        people(race=["tiny"] * 8 + ["small"] * 60 + ["large"] * 172), (*BINARY, "--group=race,sex,sex*race", "--share"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """Folder in which every table above was audited, into a folder of its name."""
    folder, commands = tmp_path_factory.mktemp("audits"), []
    write_masks(folder)
    for number, (name, (table, words)) in enumerate(AUDITS.items()):
        if table is not None:
            table.to_csv(folder / f"t{number}.csv", index=False)
        place = str(folder / f"t{number}.csv")  # an address that must not come back
        commands.append(
            [*(w.replace("TABLE", place) for w in words), "--resamples=100", f"--out={folder / name}"]
        )
    assert not any(in_one_process(folder, commands))
    return folder


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The folder in which the walk-through was walked."""
    pytest.importorskip("causaldata", reason="the walk-through's people are in the package causaldata")
    folder = tmp_path_factory.mktemp("walk")
    for language, text in test_docs.FENCE.findall((test_docs.DOCS / "audit.md").read_text()):
        if language == "python":
            (folder / re.match(r"# (\w+\.py)\b", text)[1]).write_text(text)
            continue
        lines = text.splitlines()
        printed = test_docs.run([line[2:] for line in lines if line.startswith("$ ")], folder)
        assert all(line.startswith("$ ") or line in printed for line in lines), printed
    return folder


def test_the_walk_through_runs(walked):
    for name in ("audit", "shared", "loop"):
        assert {p.name for p in (walked / name).iterdir()} == {
            "report.html",
            "metrics.json",
            "metrics.csv",
            "model_card.md",
            "figures",
        }
        outline = Outline((walked / name / "report.html").read_text())
        assert not outline.open and all(address.startswith("data:") for address in outline.loads)
        document(walked / name)
    found = document(walked / "audit")
    assert found["overall"]["auroc"]["value"] == pytest.approx(0.83, abs=0.02)
    black = found["groups"]["race"]["black or other"]["sensitivity"]
    assert black["n"] == 49 and black["value"] < found["groups"]["race"]["white"]["sensitivity"]["value"]
    crossed = {f"{s}*{r}" for s in ("female", "male") for r in ("white", "black or other")}
    assert set(found["groups"]["sex*race"]) == crossed


def test_the_page_says_all_that_it_should_in_order(walked):
    text = (walked / "audit" / "report.html").read_text()
    assert re.findall("<h2>(.*?)</h2>", text) == [
        "Who was scored", "Scores, overall and by group", "Curves by group", "Score distributions", "Gaps between groups",
        "Intersections and strata", "Findings in words", "In natural frequencies", "What this report can and cannot see",
        "Methods, to paste into a paper", "Settings, versions and fingerprints", "Appendix: named fairness scores",
        "Appendix: definitions",
    ]  # fmt: skip
    for words in (
        "missed, of 100 with it", "predictions of died in 1629 cases of 1629 patients, 318 with died = 1",
        "equipoise audit --table=nhefs.csv", "equity-scaled", "demographic parity", "Theil index",
    ):  # fmt: skip
        assert words in text, words
    names = {p.name for p in (walked / "audit" / "figures").iterdir()}
    for kind in ("scores", "roc", "precision_recall", "calibration", "decision", "distribution"):
        assert {f"{kind}_by_sex.png", f"{kind}_by_sex.svg"} <= names


@pytest.mark.parametrize("kind", AUDITS)
def test_every_kind_of_table_is_reported_and_names_nobody(audited, kind):
    found = document(audited / kind)
    assert found["overall"] and all(found["groups"].values())
    assert not Outline((audited / kind / "report.html").read_text()).open
    assert len(pd.read_csv(audited / kind / "metrics.csv", low_memory=False)) > 10
    for path in (audited / kind).rglob("*"):
        if path.is_file() and path.suffix != ".png":
            assert "person-" not in path.read_text() and str(audited) not in path.read_text()


def test_adjusted_gaps_stand_beside_raw_ones(audited):
    found = document(audited / "adjusted")
    assert set(found["adjusted"]) == {"race", "sex"}
    one = next(iter(found["adjusted"]["race"].values()))
    assert (
        one["confounders"] == ["age"] and one["method"] == "standardization" and "together" in one["target"]
    )
    raw = found["disparities"]["race"]
    (level,) = found["adjusted"]["race"]
    for metric, gap in one["gaps"].items():
        assert gap["raw"]["value"] == raw[f"difference:{metric}:{level}-{one['reference']}"]["value"]
        assert gap["adjusted"]["value"] + gap["explained"]["value"] == pytest.approx(gap["raw"]["value"])
    assert "Raw and adjusted gaps" in (audited / "adjusted" / "report.html").read_text()
    for name in ("adjusted by pairs", "adjusted by exact pairs"):
        (one,) = document(audited / name)["adjusted"]["race"].values()
        assert one["method"] == "matching" and set(one["gaps"]) == {"sensitivity", "fpr"}
        for gap in one["gaps"].values():
            assert (gap["adjusted"]["value"] is None) == (gap["adjusted"]["reason"] is not None)
    values = next(iter(document(audited / "adjusted values")["adjusted"]["race"].values()))
    assert set(values["gaps"]) == {"mean:dice_cup", "mean:hd95_cup"} and values["left_out"] > 0


def test_dangerous_level_names_harm_nobody(audited):
    folder = audited / "dangerous names"
    text, table, card = ((folder / n).read_text() for n in ("report.html", "metrics.csv", "model_card.md"))
    assert "<script>" not in text + card and html.escape(NAMES[1]) in text and NAMES[2] in text
    levels = set(pd.read_csv(folder / "metrics.csv").query("part == 'group'")["level"])
    assert levels == {f"'{NAMES[0]}", NAMES[1], NAMES[2], f"'{NAMES[3]}"}
    assert not re.search(r"(^|,)\"?[=+@]", table, re.M)
    assert set(document(folder)["groups"]["race"]) == set(NAMES)


def test_several_models_stand_side_by_side_and_strata_below(audited):
    found = document(audited / "several models within sites")
    assert list(found["models"]) == ["good", "poor"]
    assert found["overall"] == found["models"]["good"]["overall"]
    assert found["models"]["poor"]["overall"]["auroc"]["value"] < found["overall"]["auroc"]["value"]
    assert {"race", "race|sex", "sex"} == set(found["groups"])
    assert "difference:sensitivity:A|F-B|F" in found["disparities"]["race|sex"]
    text = (audited / "several models within sites" / "report.html").read_text()
    assert "Side by side" in text and "compared within each level of sex" in text
    assert set(pd.read_csv(audited / "several models within sites" / "metrics.csv")["model"]) == {
        "good",
        "poor",
    }


def test_a_threshold_comes_from_other_rows_than_it_is_judged_on(audited):
    settings = document(audited / "other rows")["settings"]
    assert settings["threshold_split"] == "val" and settings["num_images"] == 120
    assert (
        "chosen on the val data, not on the reported data"
        in (audited / "other rows" / "report.html").read_text()
    )


def test_values_are_judged_in_their_own_direction(audited):
    found = document(audited / "values")
    groups, worst = found["groups"]["race"], found["disparities"]["race"]
    value = {level: cells["mean:hd95_cup"]["value"] for level, cells in groups.items()}
    assert worst["worst_group:mean:hd95_cup"]["value"] == max(value.values())
    assert worst["worst_group:mean:dice_cup"]["value"] == min(
        c["mean:dice_cup"]["value"] for c in groups.values()
    )
    assert found["overall"]["mean:hd95_cup"]["n"] == 159


def test_one_class_or_one_person_is_said_and_not_hidden(audited):
    overall = document(audited / "one class")["overall"]
    assert overall["auroc"]["value"] is None and overall["auroc"]["reason"]
    assert "Every case of this table is y 1" in (audited / "one class" / "report.html").read_text()
    alone = document(audited / "one person")["groups"]["race"]["alone"]["accuracy"]
    assert alone["n"] == 1 and "read with care" in alone["reason"]


def test_many_groups_stay_a_page(audited):
    assert "has 60 levels; this page shows the 40" in (audited / "many groups" / "report.html").read_text()
    levels = pd.read_csv(audited / "many groups" / "metrics.csv", low_memory=False).query("part == 'group'")[
        "level"
    ]
    assert levels.nunique() == 60


def test_a_shared_report_shows_no_small_cell(audited):
    found = document(audited / "to give away")
    hidden = {v for v, cells in found["groups"]["race"].items() if cells["accuracy"]["value"] is None}
    assert hidden == {"tiny", "small"}  # total minus the two others would give the tiny one
    assert all(c["n"] is None for v in hidden for c in found["groups"]["race"][v].values())
    cells = [
        cell for levels in found["groups"].values() for scores in levels.values() for cell in scores.values()
    ]
    assert all(cell["n"] is None or cell["n"] >= 11 for cell in cells)
    scores = found["disparities"]["race"]
    shown = {name for name, score in scores.items() if score["value"] is not None}
    assert all(name.startswith("to_overall:") and name.endswith(":large") for name in shown), shown
    text = (audited / "to give away" / "report.html").read_text()
    assert "suppressed" in text and not re.search(r"n=(8|60)\b", text)
    assert found["overall"]["accuracy"]["n"] == 240


def test_nothing_of_the_training_engine_is_imported_and_no_gpu_is_taken(tmp_path):
    people().to_csv(tmp_path / "t.csv", index=False)
    code = (
        "import os, sys\nfrom equipoise.launch import audit, program\n"
        "try:\n    program.run(audit.main, ['equipoise audit', *sys.argv[1:]])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = ('flax', 'orbax', 'grain', 'tensorflow_datasets', 'tensorflow', 'optax', 'array_record')\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
        "assert os.environ['JAX_PLATFORMS'] == 'cpu'\n"
    )
    environment = {k: v for k, v in launching.environment().items() if k != "JAX_PLATFORMS"}
    flags = ("--table=t.csv", *ROLES, "--out=out", "--resamples=100", "--group=race")
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_mistaken_flags_end_with_their_code(tmp_path):
    people(60).to_csv(tmp_path / "t.csv", index=False)
    assert audit(tmp_path, "--table=t.csv", "--nonsense=1").returncode == 2
    done = audit(tmp_path, "--table=t.csv", "--target=y")
    assert done.returncode == 1 and done.stderr == "error: no --out: name the folder to write to\n"


def test_help_teaches():
    done = audit(launching.ROOT, "--help")
    assert done.returncode == 0 and "--bins=age:40,60,80" in done.stdout and "--min_cell" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("rows, groups", [(10**6, 2), (20_000, 500)])
def test_large_tables_are_reported(tmp_path, rows, groups):
    people(rows, race=[f"g{i % groups}" for i in range(rows)]).to_csv(tmp_path / "t.csv", index=False)
    done = audit(tmp_path, "--table=t.csv", *ROLES, "--out=out", "--group=race,sex")
    assert done.returncode == 0 and (tmp_path / "out" / "report.html").stat().st_size < 5e6, done.stderr
