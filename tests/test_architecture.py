"""What import-linter cannot see: imports by string, circles, and how light an import is."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOUSE: dict[str, Any] = next(
    contract
    for contract in PYPROJECT["tool"]["importlinter"]["contracts"]
    if contract["type"] == "layers"
)

# Modules of evalkit that others name in a string, {} for a part that is filled in. A new one
# belongs into this list, with its own level or a lower one.
NAMED = {
    "evalkit": {"evalkit.api", "evalkit.errors", "evalkit.records"},
    "evalkit.running.lm_eval_entry": {"evalkit.running.lm_eval_model:EvalkitModel"},
    "evalkit.running.process": {"evalkit.running.preload"},
    "evalkit.view.pages": {"evalkit.view"},
    "pyproject.toml": {"evalkit.cli:main", "evalkit.running.lm_eval_entry:register"},
}
# The only ones that look upward: plugins by their name, and a result that shows itself.
UPWARD = {
    "evalkit.displayable": {"evalkit.view.display"},
    "evalkit.plugins": {"evalkit.{}"},
}
# Modules that import a module whose name they are given.
IMPORTERS = {"evalkit", "evalkit.displayable", "evalkit.plugins"}

# A file name that looks like a module.
NOT_A_MODULE = "evalkit.json"

IMPORTING = ("import_module", "__import__", "run_module", "resolve_name")
MODULE = re.compile(r"evalkit(\.[a-z_{}][a-z0-9_{}]*)+(:\w+)?")


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / "evalkit").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text())


def _text(node: ast.AST) -> str:
    """A string, or an f-string with {} for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return "{}"
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _named(tree: ast.Module) -> set[str]:
    """Modules of evalkit that `tree` names in a string."""
    parts = {id(p) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for p in n.values}
    texts = {_text(node) for node in ast.walk(tree) if id(node) not in parts}
    return {text for text in texts if MODULE.fullmatch(text)} - {NOT_A_MODULE}


def _imports_by_name(tree: ast.Module) -> bool:
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {getattr(function, "attr", getattr(function, "id", "")) for function in calls}
    return not names.isdisjoint(IMPORTING)


def _level(module: str) -> int:
    """The layer of a module, the highest is 0; evalkit itself and pyproject.toml stand above."""
    folder = module.partition(":")[0].split(".")[1:2]
    layers = [layer.split(" | ") for layer in HOUSE["layers"]]
    found = [level for level, names in enumerate(layers) if folder and folder[0] in names]
    return found[0] if found else -1


def _entry_points(table: dict[str, Any]) -> Iterator[str]:
    for value in table.values():
        if isinstance(value, dict):
            yield from _entry_points(value)
        else:
            yield value


def test_every_import_by_string_is_listed() -> None:
    found = {name: named for name, tree in _modules() if (named := _named(tree))}
    project = PYPROJECT["project"]
    found["pyproject.toml"] = {*_entry_points(project["scripts"] | project["entry-points"])}
    assert found == NAMED | UPWARD
    assert {name for name, tree in _modules() if _imports_by_name(tree)} == IMPORTERS


@pytest.mark.parametrize(("importer", "named"), NAMED.items())
def test_imports_by_string_keep_to_the_layers(importer: str, named: set[str]) -> None:
    known = {name for name, _ in _modules()}
    for target in named:
        assert target.partition(":")[0] in known, f"{importer} names {target}, which is not there"
        assert _level(importer) <= _level(target), f"{importer} looks upward to {target}"


def test_the_import_graph_has_no_circle() -> None:
    """Lazy imports included, and those between modules of one folder."""
    graph = grimp.build_graph("evalkit", exclude_type_checking_imports=True)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


EVERY_MODULE_OF = """
import importlib, pkgutil, sys
for package in {packages}:
    package = importlib.import_module("evalkit." + package)
    for module in pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + "."):
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize(
    ("script", "absent"),
    [
        ("import evalkit", {"torch", "transformers", "matplotlib", "pandas", "numpy", "typer"}),
        (
            EVERY_MODULE_OF.format(
                packages=["records", "store", "results", "analysis", "view", "displayable"]
            ),
            {"torch", "transformers", "lm_eval", "datasets"},
        ),
        (
            "from evalkit import flips, load_bench, load_comparison, load_run, report",
            {"torch", "transformers", "lm_eval", "datasets"},
        ),
    ],
    ids=["evalkit", "what shows results", "what opens results"],
)
def test_an_import_is_light(script: str, absent: set[str]) -> None:
    told = f"import sys\n{script}\nprint(*sorted(set({sorted(absent)}) & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []
