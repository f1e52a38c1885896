"""Invariant: the built wheel is whole: installed elsewhere, far from this repository, every command works."""

import os
import pathlib
import subprocess
import sys
import venv
import zipfile

import pytest

from equipoise.launch.__main__ import COMMANDS

ROOT = pathlib.Path(__file__).parent.parent.parent
FOLDERS = ("equipoise", "engine", "tasks", "data_builders", "launch")


def _run(*words, **options):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run(
        [str(w) for w in words], capture_output=True, text=True, timeout=600, env=environment, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # From what git knows, so that no stray file of this checkout can slip in or help out.
    files = _run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, source)
    return next(folder.glob("*.whl"))


def _environment(folder, wheel):
    """A new environment with the wheel; dependencies are borrowed, this repository is not."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    site = pathlib.Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    _run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    # A folder named in a .pth file is searched for modules, but its own .pth files, our editable install, are not read.
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder / "bin" / "equipoise"


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    return _environment(tmp_path_factory.mktemp("clean") / "env", wheel)


def test_the_wheel_holds_one_package_and_its_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"equipoise"}
    tracked = _run("git", "ls-files", "-co", "--exclude-standard", *FOLDERS, cwd=ROOT).splitlines()
    wanted = {
        name if name.startswith("equipoise/") else f"equipoise/{name}"
        for name in tracked
        if name.endswith((".py", ".pyi", ".json", ".css", ".j2", "py.typed"))
    }
    assert wanted <= set(names)
    assert not [n for n in names if n.startswith("tests")]


def test_the_installed_code_is_the_wheels(installed, tmp_path):
    code = "from equipoise import data_builders, engine, launch, tasks; print(engine.__path__[0])"
    where = _run(installed.parent / "python", "-c", code, cwd=tmp_path).strip()
    assert where.startswith(str(installed.parent.parent))


def test_modules_of_the_users_own_do_no_harm(installed, tmp_path):
    """A repository of theirs with an ``engine.py`` beside the training loop, as several reference code bases have."""
    for name in ("engine", "launch", "tasks", "data_builders"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a module of the user was imported')\n")
    (tmp_path / "my_runs.py").write_text(
        "from equipoise import Run\n\n\ndef get_config():\n    return Run()\n"
    )
    code = "from equipoise.engine.metrics.table.writer import PredictionWriter; from equipoise import Cohort, metrics"
    _run(installed.parent / "python", "-c", code, cwd=tmp_path)
    _run(installed, "prepare", "--list", cwd=tmp_path)
    where = ["--config=my_runs.py", "--config.data.cohort=a", "--config.task.label=b"]
    assert '"cohort": "a"' in _run(installed, "train", *where, "--print_config", cwd=tmp_path)
    for name in ("engine", "tasks"):
        (tmp_path / f"{name}.py").write_text(f"NAME = {name!r}\n")
    code = "import engine, equipoise.engine; assert engine.NAME == 'engine'; print('both')"
    assert _run(installed.parent / "python", "-c", code, cwd=tmp_path) == "both\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches(installed, tmp_path, command):
    assert f"equipoise {command}" in _run(installed, command, "--help", cwd=tmp_path)


def test_a_shrunken_study_runs_end_to_end(installed, tmp_path):
    run = lambda *words: _run(installed, *words, "--data_dir=data", cwd=tmp_path)  # noqa: E731
    run("prepare", "--cohort=simba/near_4mm", "--options=subjects=24,resolution=5")
    cohort = next((tmp_path / "data" / "simba").iterdir()).name
    small = ["num_steps=2", "data.batch_size=4", "evaluation.every_steps=2", f"data.cohort=simba/{cohort}"]
    run("train", "--config=simba:near", "--workdir=run", *(f"--config.{s}" for s in small))
    run("evaluate", "--workdir=run")
    run("report", "--workdir=run", "--resamples=100")
    assert "<html" in (tmp_path / "run" / "report" / "report.html").read_text()


@pytest.mark.slow
def test_dependencies_are_declared(wheel, tmp_path):
    """In an environment with nothing borrowed: what the wheel asks for is all that it needs."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    _run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[brain]")
    test_a_shrunken_study_runs_end_to_end(python.parent / "equipoise", tmp_path)
