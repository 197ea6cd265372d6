"""GRID.yaml: which parameters a notebook is run with, one cell for each combination.

    notebook: 02_compare.ipynb            # in the grid's folder, or one that evalkit ships
    grid:
      model: [demo, ../models/mine]
      variants: [[fp16, int8], [fp16, int4]]
    parameters: {limit: 50}               # the same in every cell
    exclude: [{model: demo, variants: [fp16, int8]}]
    include: [{model: demo, variants: [fp16, bf16]}]

Everything is checked before anything runs: papermill itself only warns of an unknown parameter.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.backends import parse_variant
from evalkit.errors import EvalkitError, UsageError, unknown
from evalkit.paths import is_file
from evalkit.records import content_hash
from evalkit.running.batch.notebook_options import check_options
from evalkit.yaml_file import read_yaml

KEYS = ("notebook", "grid", "parameters", "include", "exclude")
MOST_CELLS = 10_000
NAME_LENGTH = 60
OUT_PARAMETER = "out"

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of the notebook: its parameters and a name fit for a file."""

    name: str
    parameters: Parameters


@dataclass(frozen=True)
class Grid:
    """A notebook and the cells to run it with; `takes_out` says it has a parameter `out`."""

    notebook: Path
    cells: tuple[Cell, ...]
    takes_out: bool


def read_grid(file: Path) -> Grid:
    """Read and check a grid; raises UsageError in one line for whatever could fail later."""
    content = _mapping(read_yaml(file), f"{file}")
    for key in content:
        if key not in KEYS:
            raise unknown(f"key of {file.name}", str(key), KEYS)
    notebook = _notebook(content.get("notebook"), file)
    names = notebook_parameters(notebook)
    axes = {
        _checked(name, names, notebook): [_value(name, value) for value in _list(values, name)]
        for name, values in _mapping(content.get("grid") or {}, "grid").items()
    }
    common = _parameters(content.get("parameters") or {}, names, notebook)
    excluded = [_parameters(e, names, notebook) for e in _list(content.get("exclude"), "exclude")]
    included = [_parameters(e, names, notebook) for e in _list(content.get("include"), "include")]
    count = len(included)
    for values in axes.values():
        count = max(count, 1) * len(values)
    if count > MOST_CELLS:
        raise UsageError(f"{file.name} has {count} cells: at most {MOST_CELLS}; split the grid")
    products = [
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    ]
    kept = [p for p in products if p or not included]
    kept = [
        {**common, **p} for p in kept if not any(_matches({**common, **p}, e) for e in excluded)
    ]
    kept += [{**common, **parameters} for parameters in included]
    cells = tuple({cell.name: cell for cell in (_cell(p, axes) for p in kept)}.values())
    if not cells:
        raise UsageError(f"{file.name} has no cell: exclude leaves none; remove an exclude line")
    for cell in cells:
        _check_variants(cell)
        check_options(notebook, cell.parameters)
    return Grid(notebook, cells, OUT_PARAMETER in names)


def notebook_parameters(notebook: Path) -> tuple[str, ...]:
    """Names that the notebook's cell tagged `parameters` assigns.

    Raises UsageError where the file is no notebook or has no such cell.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tagged = [
            "".join(cell["source"])
            for cell in cells
            if "parameters" in cell.get("metadata", {}).get("tags", ())
        ]
        tree = ast.parse(tagged[0]) if tagged else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
        raise UsageError(f"{notebook} is not a notebook that can be run: {error}") from error
    if tree is None:
        raise UsageError(
            f"{notebook} has no parameters cell: tag the cell that sets its parameters with"
            " `parameters`"
        )
    targets: list[ast.expr] = []
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets.append(statement.target)
    return tuple(target.id for target in targets if isinstance(target, ast.Name))


def shipped_notebooks() -> Path:
    """The folder of evalkit's own notebooks, of a checkout or of a wheel."""
    package = Path(__file__).resolve().parents[2]
    checkout = package.parent / "notebooks"
    return checkout if checkout.is_dir() else package / "_notebooks"


def _notebook(asked: Any, file: Path) -> Path:
    """The notebook: a path from the grid's folder, or the name of a shipped one."""
    if not isinstance(asked, str) or not asked.strip():
        raise UsageError(f"{file.name} names no notebook: write `notebook: 02_compare.ipynb`")
    name = asked if asked.endswith(".ipynb") else f"{asked}.ipynb"
    folder = file.resolve().parent
    own = _resolved(folder / name)
    if own is not None and is_file(own):
        return own
    shipped = {path.name: path for path in shipped_notebooks().glob("*.ipynb")}
    if name in shipped:
        return shipped[name]
    raise UsageError(f"{unknown('notebook', name, shipped)} or a path from {folder}")


def _resolved(path: Path) -> Path | None:
    """`path` without links, or None where no file can have such a name."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):
        return None


def _parameters(found: Any, names: tuple[str, ...], notebook: Path) -> Parameters:
    return {
        _checked(name, names, notebook): _value(name, value)
        for name, value in _mapping(found, "parameters").items()
    }


def _checked(name: Any, names: tuple[str, ...], notebook: Path) -> str:
    if name == OUT_PARAMETER:
        raise UsageError("parameter 'out' is not the grid's: give the folder with --out")
    if name not in names:
        raise unknown(f"parameter of {notebook.name}", str(name), set(names) - {OUT_PARAMETER})
    return str(name)


def _value(name: Any, value: Any) -> Any:
    """A scalar or a flat list of scalars; what papermill can write into a notebook."""
    plain = (str, int, float, bool, type(None))
    if isinstance(value, plain) or (
        isinstance(value, list) and all(isinstance(item, plain) for item in value)
    ):
        return value
    raise UsageError(f"parameter {name!r} is neither a plain value nor a list of plain values")


def _check_variants(cell: Cell) -> None:
    variants = cell.parameters.get("variants")
    for variant in variants if isinstance(variants, list) else ():
        try:
            parse_variant(str(variant))
        except EvalkitError as error:
            raise UsageError(f"cell {cell.name}: {error}") from error


def _cell(parameters: Parameters, axes: Mapping[str, Any]) -> Cell:
    shown = {name: value for name, value in parameters.items() if name in axes} or parameters
    words = [_word(value) for value in shown.values()]
    readable = re.sub(r"[^A-Za-z0-9=.+@_-]+", "-", "_".join(words)).strip("-.")[:NAME_LENGTH]
    return Cell(f"{readable or 'cell'}-{content_hash(parameters, 8)}", parameters)


def _word(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(_word(item) for item in value)
    return str(value).rstrip("/").rpartition("/")[2]


def _matches(parameters: Parameters, wanted: Parameters) -> bool:
    return all(name in parameters and parameters[name] == v for name, v in wanted.items())


def _mapping(content: Any, what: str) -> Parameters:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{what} is not a mapping of names to values: see evalkit batch --help")
    return content


def _list(content: Any, name: Any) -> list[Any]:
    if content is None:
        return []
    if not isinstance(content, list) or not content:
        raise UsageError(f"{name!r} of the grid is not a list of values: write it as [a, b]")
    return content
