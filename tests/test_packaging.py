"""What is installed: every imported package is declared, every declared one pinned as tested."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import evalkit

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Import name where it is not the distribution's own.
DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "pynvml": "nvidia-ml-py",
    "llama_cpp": "llama-cpp-python",
}


def _names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(words).name) for words in requirements}


CORE = _names(PROJECT["dependencies"])
# What a user may choose to install, not what developing evalkit takes.
OPTIONAL = _names(
    [
        words
        for extra in ("torchao", "compressed-tensors", "gguf", "notebooks", "ray")
        for words in PROJECT["optional-dependencies"][extra]
    ]
)


def _imported(tree: ast.AST, *, at_once: bool) -> Iterator[str]:
    """Packages that a module imports; with `at_once` only those imported with the module."""
    for node in ast.iter_child_nodes(tree):
        lazily = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If | ast.Try)
        if at_once and lazily:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
        else:
            yield from _imported(node, at_once=at_once)


def _foreign(path: Path, *, at_once: bool = False) -> set[str]:
    """Distributions that the module `path` imports."""
    found = set(_imported(ast.parse(path.read_text()), at_once=at_once))
    found -= {*sys.stdlib_module_names, "evalkit", ""}
    return {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in found}


MODULES = sorted((ROOT / "evalkit").rglob("*.py"))


def test_every_imported_package_is_declared() -> None:
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in MODULES
        for name in _foreign(path) - CORE - OPTIONAL
    }
    assert not undeclared


def test_optional_packages_are_imported_where_they_are_used() -> None:
    eager = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in MODULES
        for name in _foreign(path, at_once=True) - CORE
    }
    assert not eager


def test_the_version_stands_once() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", evalkit.__version__)


@pytest.mark.parametrize("extra", ["", *PROJECT["optional-dependencies"]])
def test_every_declared_package_is_pinned_to_a_version_it_allows(extra: str) -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    tested = {canonicalize_name(name): version for name, version in pins.items()}
    declared = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    for requirement in map(Requirement, declared):
        name = canonicalize_name(requirement.name)
        if name != "evalkit":
            assert name in tested, f"{name} has no line in constraints.txt"
            assert requirement.specifier.contains(tested[name]), f"{requirement}: {tested[name]}"
