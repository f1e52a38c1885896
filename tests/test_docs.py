"""The walk-throughs are true: their files are written, their commands run, and what they show is what is printed."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

from tests import launching

DOCS = launching.ROOT / "docs"
PAGES = sorted(p for p in launching.ROOT.rglob("*.md") if ".venv" not in p.parts)
FENCE = re.compile(r"^```(python|yaml|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = f"equipoise() {{ '{sys.executable}' -P -m equipoise.launch \"$@\"; }}\npython() {{ '{sys.executable}' \"$@\"; }}\n"


# What a page may import: the front door and the faces of packages, so that files can move behind them.
FACES = re.compile(r"equipoise(\.data_builders|\.engine(\.(metrics|models|report|transforms))?)?")


def run(commands, folder):
    """Runs the ``$`` lines of a console block in ``folder``; returns what they printed."""
    done = subprocess.run(
        ["bash", "-ec", PROGRAMS + "\n".join(commands)],
        cwd=folder,
        env=launching.environment() | {"EQUIPOISE_DATA": str(folder / "cohorts")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_import_only_faces(page):
    for language, text in FENCE.findall(page.read_text()):
        if language == "python":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "equipoise":
                    assert FACES.fullmatch(node.module), f"{page.name} imports {node.module}"
                if isinstance(node, ast.Import):
                    assert not any(alias.name.startswith("equipoise.") for alias in node.names), page.name


@pytest.mark.parametrize("page", ["own_cohort.md", "own_model.md", "policy.md"])
def test_a_walk_through_can_be_walked(page, tmp_path):
    for language, text in FENCE.findall((DOCS / page).read_text()):
        if language != "console":
            name = re.match(r"# (\w+\.(py|yaml))\b", text)
            assert name, f"{page}: a {language} block opens with the name of its file"
            pathlib.Path(tmp_path / name[1]).write_text(text)
            continue
        lines = text.splitlines()
        printed = run([line[2:] for line in lines if line.startswith("$ ")], tmp_path)
        for line in lines:
            assert line.startswith("$ ") or line in printed, f"{page} shows {line!r}; printed was\n{printed}"
    if page == "policy.md":
        return
    run_folders = list((tmp_path / "runs").iterdir())
    assert run_folders and all((folder / "checkpoints").is_dir() for folder in run_folders)
    if page == "own_cohort.md":
        assert {f.parent.parent.name for f in tmp_path.glob("runs/*/report/report.html")} == {
            "pictures",
            "volumes",
        }
