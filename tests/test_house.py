"""The house of docs: files import from their own package or from floors below, and stay small."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "cartesian_moe_jax"
FLOORS = {
    "config": 0,
    "settings": 0,
    "errors": 0,
    "cache": 0,
    "columns": 0,
    "compiler_options": 0,
    "paths": 0,
    "platform": 0,
    "process_memory": 0,
    "relations": 0,
    "varying": 0,
    "kernels": 1,
    "data": 1,
    "layers": 2,
    "parallel": 2,
    "moe": 3,
    "models": 4,
    "runs": 5,
    "evaluation": 6,
    "interop": 6,
    "training": 7,
    "api": 8,
    "study": 8,
    "__init__": 9,
    "__main__": 9,
}
"""The floor of each package, and of each module that is in none."""

IMPORTED_WHERE_USED = {
    "backports",
    "grain",
    "lm_eval",
    "markdown",
    "matplotlib",
    "safetensors",
    "scipy",
    "sentencepiece",
    "tensorboardX",
    "tensorflow_datasets",
    "tokenizers",
}
DERIVES_FROM = {f"{PACKAGE}/evaluation/downstream/harness.py": "lm_eval"}
"""Files with a class that derives from a heavy package's: themselves imported where used."""
MAX_LINES, MAX_FUNCTION_LINES = 400, 60

INSIDE = sorted((ROOT / PACKAGE).rglob("*.py"))
ENTRIES = [ROOT / "train.py", ROOT / "eval.py", *sorted((ROOT / "configs").rglob("*.py"))]
ALL = [*INSIDE, *ENTRIES, *sorted((ROOT / "benchmarks").rglob("*.py"))]


def name_of(file):
    return str(file.relative_to(ROOT))


def module_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module):
    """The package, or lone module, that a dotted name lies in."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(file):
    """Every imported (dotted name, whether inside a function); ``from a import b`` gives a.b."""
    found = []

    def visit(node, inside):
        if isinstance(node, ast.Import):
            found.extend((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(file)} imports relatively"
            found.extend((f"{node.module}.{alias.name}", inside) for alias in node.names)
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(file.read_text()), inside=False)
    return found


def imported_rooms(file):
    own = [name for name, _ in imports(file) if name.split(".")[0] == PACKAGE]
    return {room_of(name) for name in own}


def imported_modules(file):
    """The package's modules that a file imports at its top."""
    modules = {module_of(f) for f in INSIDE}
    names = [name for name, inside in imports(file) if not inside]
    return {n if n in modules else n.rpartition(".")[0] for n in names} & modules


def top_names(file):
    return {(name.split(".")[0], inside) for name, inside in imports(file)}


def test_every_room_has_a_floor():
    assert {room_of(module_of(file)) for file in INSIDE} == set(FLOORS)


@pytest.mark.parametrize("file", INSIDE, ids=name_of)
def test_imports_lead_to_the_own_package_or_to_floors_below(file):
    room = room_of(module_of(file))
    above = {r for r in imported_rooms(file) if FLOORS[r] >= FLOORS[room]} - {room}
    assert not above or FLOORS[room] == 0 == max(FLOORS[r] for r in above)


def test_modules_import_each_other_without_cycles():
    graph = {module_of(file): imported_modules(file) - {module_of(file)} for file in INSIDE}
    assert graph[f"{PACKAGE}.api"], "the graph must have edges to have cycles"
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("file", [f for f in INSIDE if f.name != "__main__.py"], ids=name_of)
def test_only_configs_and_entry_points_know_ml_collections_and_absl(file):
    assert not {"ml_collections", "absl", "configs"} & {name for name, _ in top_names(file)}


@pytest.mark.parametrize("file", ALL, ids=name_of)
def test_heavy_packages_are_imported_where_they_are_used(file):
    heavy = IMPORTED_WHERE_USED - {DERIVES_FROM.get(name_of(file))}
    assert not {(name, False) for name in heavy} & top_names(file)


def test_reading_text_needs_no_jax():
    """Workers start by importing this, several at once."""
    program = f"import sys, {PACKAGE}.data.worker; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_importing_the_package_imports_nothing_that_training_alone_needs():
    # Libraries that we import import backports where they find them.
    absent = sorted(IMPORTED_WHERE_USED - {"backports"} | {"ml_collections"})
    program = f"import sys, {PACKAGE}.api; print([m for m in {absent} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize("file", ALL, ids=name_of)
def test_files_and_functions_are_short(file):
    text = file.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name
