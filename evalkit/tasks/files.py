"""The local files behind a task's name, by content: they are part of what a run is about.

lm-eval is not asked, so that a comparison that is already in the store is answered without it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path

import yaml

from evalkit.demo_data import demo_directory
from evalkit.errors import DataError, UsageError
from evalkit.records import content_hash
from evalkit.yaml_file import compose_yaml, nodes_of

_YAML = (".yaml", ".yml")
_FUNCTION = "!function"


def task_files_hash(name: str, data: Path | None, include_path: Path | None) -> str:
    """Hash of the data and YAML files a task name can refer to; empty where there are none.

    In the data folder those are the directories whose name begins like the task's or the other
    way round (a subject's data may lie in its group's directory), or else all, as a directory may
    be named after the hub dataset. A name that ends in .yaml is itself a file. Files that a YAML
    names (data, included YAML, Python of its functions) count with it; where any of them lies does
    not.
    """
    found: list[Path] = []
    if data is not None:
        folders = _entries(data / "tasks" if (data / "tasks").is_dir() else data)
        alike = [d for d in folders if name.startswith(d.stem) or d.stem.startswith(name)]
        found += alike or folders
    if include_path is not None:
        found.append(include_path)
    with contextlib.suppress(DataError):
        found += [f for f in _entries(demo_directory() / "tasks") if f.stem == name]
    if name.endswith(_YAML) and Path(name).is_file():
        found.append(Path(name))
    files = _with_named(file for entry in found for file in _files(entry))
    return content_hash(sorted(map(_sha256, files))) if files else ""


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _files(entry: Path) -> list[Path]:
    return [entry] if entry.is_file() else [f for f in entry.rglob("*") if f.is_file()]


def _with_named(files: Iterable[Path]) -> set[Path]:
    """`files` and those that the YAML among them name, however indirectly."""
    found: set[Path] = set()
    waiting = [file.resolve() for file in files]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += [one.resolve() for one in _named_in(file)]
    return found


def _named_in(file: Path) -> list[Path]:
    """The files that values of a YAML name, beside it or in the current directory, as lm-eval's."""
    if file.suffix not in _YAML:
        return []
    try:
        root = compose_yaml(file)
    except UsageError:  # what is no YAML is reported where the task is loaded
        return []
    values = [node for node in nodes_of(root) if isinstance(node, yaml.ScalarNode)]
    names = [
        f"{node.value.rpartition('.')[0]}.py" if node.tag == _FUNCTION else node.value
        for node in values
    ]
    places = [place for name in names for place in (file.parent / name, Path(name))]
    return [place for place in places if _is_file(place)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a value that cannot be a path
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
