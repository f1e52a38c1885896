"""Invariants of the import graph: nothing imports in a circle, and a package of the engine imports what stands below it."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
FOLDERS = ("engine", "data_builders", "tasks", "launch")
# From below to above. A room imports rooms of lines above its own, and none of those below or beside it.
FLOORS = """
errors vocabulary files rng
rundir
config
validation
hosts
mesh
metrics.estimates
metrics.formulas
metrics.table metrics.resampling
metrics.frames
metrics.comparing metrics.confounding metrics.postprocessing
metrics.decisions
metrics
transforms
data
cropping
models
models.published
update
methods
provenance
predicted_masks
training
explain
gather evaluate
report.page
report.figures
report.single
report.many
report
"""
FLOOR = {room: i for i, line in enumerate(FLOORS.split("\n")) for room in line.split()}


def _name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(p): p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))}


def imports(module: str) -> set[str]:
    """Modules of ours that a module imports, at its top or in a function."""
    imported = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "equipoise":
            base = node.module.removeprefix("equipoise").lstrip(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".lstrip(".")
                imported.add(name if name in MODULES else base)
    return imported - {module, ""}


def package(module: str) -> str:
    """The folder that holds a module; a file that stands at the top of a folder of :data:`FOLDERS` is a package of its own."""
    is_folder = MODULES[module].name == "__init__.py"
    return module if is_folder or module.count(".") == 1 else module.rpartition(".")[0]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected parts of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    parts = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                parts.append(sorted(part))

    for node in graph:
        if node not in index:
            visit(node)
    return parts


def test_the_search_for_circles_finds_them():
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert sorted(circles(graph)) == [["a", "b", "c"], ["d", "e"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_module_imports_itself_through_others():
    assert circles({module: imports(module) for module in MODULES}) == []


def test_no_package_imports_itself_through_others():
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        graph.setdefault(package(module), set()).update(map(package, imports(module)))
    assert circles({name: others - {name} for name, others in graph.items()}) == []


def _room(module: str) -> str:
    """The longest name of :data:`FLOOR` that a module of the engine stands in."""
    parts = module.split(".")[1:]
    names = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
    return next((name for name in names if name in FLOOR), "")


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("engine.")])
def test_a_package_of_the_engine_imports_what_stands_below_it(module):
    room = _room(module)
    assert room, f"{module} has no floor: add it to FLOORS"
    for other in sorted(imports(module)):
        if other.startswith("engine.") and _room(other) != room:
            assert FLOOR[_room(other)] < FLOOR[room], (
                f"{module} imports {other}, which does not stand below {room}"
            )


def test_every_floor_is_in_use():
    assert set(FLOOR) <= {_room(m) for m in MODULES if m.startswith("engine.")}
