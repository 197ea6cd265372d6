"""Every option that a message of evalkit names is one that the command line has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from evalkit.cli import app

ROOT = Path(__file__).resolve().parents[1]
OPTION = re.compile(r"(?<![\w-])(?<!var\()--[a-z][a-z0-9-]*[a-z0-9]")
# Of pip, of the hub's own command, of papermill and of llama.cpp's gguf-split.
FOREIGN = {
    "--upgrade", "--force-reinstall", "--no-cache-dir", "--local-dir", "--no-progress-bar",
    "--kernel", "--cwd", "--merge",
}  # fmt: skip


def _options(command: Any) -> Iterator[str]:
    yield from (name for parameter in command.params for name in parameter.opts)
    for below in getattr(command, "commands", {}).values():
        yield from _options(below)


def _named(path: Path) -> Iterator[tuple[str, str]]:
    """Options in the strings of a module, with the place."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for name in OPTION.findall(node.value):
                yield name, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_option_that_is_named_exists() -> None:
    known = {"--help", *_options(typer.main.get_command(app))}
    named = [found for path in sorted((ROOT / "evalkit").rglob("*.py")) for found in _named(path)]
    assert {name for name, _ in named} >= {"--model", "--batch-tokens", *FOREIGN}
    unknown = [f"{place} names {name}" for name, place in named if name not in known | FOREIGN]
    assert not unknown
