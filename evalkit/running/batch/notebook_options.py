"""Which options of evalkit a notebook's parameters become, and whether their values can be such.

The notebook's own calls say it: `evalkit.compare(*variants, text=texts)` makes the parameter
`texts` the option `text` of compare, which is declared in evalkit.options.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evalkit.declaration import Field, checked, declared
from evalkit.errors import UsageError, unknown
from evalkit.options import COMMANDS

_OTHER_WORDS = ("progress", "store")


def check_options(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Raise UsageError for a parameter that its option cannot take, or an option there is none of.

    The notebook's own values stand for parameters that are not given.
    """
    for name, field in _passed_on(notebook):
        if name in parameters:
            try:
                checked(field, parameters[name])
            except UsageError as error:
                raise UsageError(f"parameter {name!r} of {notebook.name}: {error}") from error


def _passed_on(notebook: Path) -> Iterator[tuple[str, Field]]:
    """Names that are handed on as options of evalkit's commands, and those options."""
    for call in _calls(notebook):
        function = call.func
        assert isinstance(function, ast.Attribute)
        fields = declared(COMMANDS[function.attr])
        for keyword in call.keywords:
            if keyword.arg is None or keyword.arg in _OTHER_WORDS:
                continue
            if keyword.arg not in fields:
                raise unknown(f"option of {function.attr} in {notebook.name}", keyword.arg, fields)
            if isinstance(keyword.value, ast.Name):
                yield keyword.value.id, fields[keyword.arg]


def _calls(notebook: Path) -> Iterator[ast.Call]:
    """The calls `evalkit.COMMAND(…)` of the notebook; cells that are no plain Python are left."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell.get("cell_type") != "code":
            continue
        try:
            tree = ast.parse("".join(cell["source"]))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _is_command(node.func):
                yield node


def _is_command(function: ast.expr) -> bool:
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "evalkit"
        and function.attr in COMMANDS
    )
