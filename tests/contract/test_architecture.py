"""Invariants that can be read off the source: import directions, where devices are named, retired JAX APIs."""

import ast
import pathlib
import re
import tomllib

import pytest

from equipoise.data_builders.base.catalogue import COHORTS

ROOT = pathlib.Path(__file__).parent.parent.parent
ROOMS = ("engine", "tasks", "data_builders", "launch")
SOURCES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
MAY_IMPORT = {
    "engine": {"engine"},
    "tasks": {"tasks", "engine"},
    "data_builders": {
        "data_builders",
        "engine.transforms",
        "engine.rng",
        "engine.mesh",
        "engine.errors",
        "engine.files",
        "engine.vocabulary",
    },
    "launch": set(ROOMS),
}
# A study's plan names cohorts, and a cohort's settings say what it is called.
SETTINGS = re.compile(r"data_builders\.\w+\.config(\.\w+)?")
NAMES_DEVICES = {"engine/hosts.py", "engine/mesh.py", "engine/models/layers.py"}
DEVICES = re.compile(
    r"\bjax\.(local_)?devices\(|\bjax\.(local_)?device_count|\bprocess_(index|count)\(|\bNamedSharding\(|"
    r"\bMesh\(|\bpmap\(|platform_dependent|default_backend"
)
RETIRED = re.compile(
    r"\bjax\.tree_map\b|\bjax\.tree_(leaves|flatten|unflatten|structure)\b|jax\.random\.PRNGKey|\bjax\.xla\b|"
    r"jax\.experimental\.(maps|pjit|global_device_array|host_callback)|jax\.abstract_arrays|jax\.linear_util|"
    r"flax\.training\.checkpoints|orbax\.checkpoint\.PyTreeCheckpointer|jax\.core\.|jnp\.(in1d|trapz|row_stack)\b"
)


def ids(path):
    return str(path.relative_to(ROOT))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def own_name(name):
    """``engine.config`` of ``equipoise.engine.config``; None for what is not ours."""
    return name.removeprefix("equipoise.") if name.startswith("equipoise.") else None


def test_the_packages_that_are_installed_are_those_of_the_tree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {p.parent.relative_to(ROOT) for room in ROOMS for p in (ROOT / room).rglob("__init__.py")}
    assert set(project["packages"]) == {"equipoise", *(".".join(("equipoise", *f.parts)) for f in folders)}
    assert set(project["package-dir"]) == {"equipoise", *(f"equipoise.{room}" for room in ROOMS)}


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))], ids=ids)
def test_our_code_is_imported_under_its_installed_name(path):
    for name in imports(path):
        assert name.split(".")[0] not in ROOMS, f"{path.relative_to(ROOT)} imports {name}: equipoise.{name}"


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_imports_flow_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        assert name.split(".")[0] not in ("tests", "benchmarks"), f"{path.relative_to(ROOT)} imports {name}"
        name = own_name(name)
        if room == "tasks" and path.name == "study.py" and name and SETTINGS.fullmatch(name):
            continue
        if name:
            allowed = any(name == ok or name.startswith(ok + ".") for ok in MAY_IMPORT[room])
            assert allowed, (
                f"{path.relative_to(ROOT)} imports {name}; {room} may import {sorted(MAY_IMPORT[room])}"
            )


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_devices_are_named_in_one_place(path):
    if str(path.relative_to(ROOT)) not in NAMES_DEVICES:
        found = DEVICES.search(path.read_text())
        assert not found, (
            f"{path.relative_to(ROOT)} names a device: {found.group()}; ask engine.mesh or engine.hosts"
        )


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_retired_apis_are_absent(path):
    found = RETIRED.search(path.read_text())
    assert not found, f"{path.relative_to(ROOT)} uses {found.group()}"


def test_the_engine_names_no_study_and_no_cohort():
    studies = [p.name for p in (ROOT / "tasks").iterdir() if (p / "runs.py").exists()]
    cohorts = set(COHORTS) - {
        "table"
    }  # a word of the engine's own; cohorts made of tables have their users' names
    assert studies and cohorts
    words = re.compile(r"\b(" + "|".join(sorted({*studies, *cohorts})) + r")\b")
    for path in (ROOT / "engine").rglob("*.py"):
        tree = ast.parse(path.read_text())
        docs = {id(n.body[0].value) for n in ast.walk(tree) if _is_documented(n)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                assert not words.search(node.value), (
                    f"{path.relative_to(ROOT)}:{node.lineno} names {node.value!r}"
                )


def _is_documented(node):
    holds = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    return (
        holds
        and node.body
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
    )
