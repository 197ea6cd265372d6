"""The local files behind a task's name, by content: they are part of what a run is about."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from evalkit.demo_data import demo_directory
from evalkit.errors import DataError
from evalkit.records import content_hash


def task_files_hash(name: str, data: Path | None, include_path: Path | None) -> str:
    """Hash of the data and YAML files a task name can refer to; empty where there are none.

    In the data folder those are the directories whose name begins like the task's or the other
    way round (a subject's data may lie in its group's directory). A name that ends in .yaml is
    itself a file.
    """
    found: list[Path] = []
    if data is not None:
        root = data / "tasks" if (data / "tasks").is_dir() else data
        found += [d for d in _entries(root) if name.startswith(d.stem) or d.stem.startswith(name)]
    if include_path is not None:
        found.append(include_path)
    with contextlib.suppress(DataError):
        found += [f for f in _entries(demo_directory() / "tasks") if f.stem == name]
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        found.append(Path(name))
    files = sorted(file for entry in found for file in _files(entry))
    return content_hash([_sha256(file) for file in files]) if files else ""


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _files(entry: Path) -> list[Path]:
    return [entry] if entry.is_file() else [f for f in entry.rglob("*") if f.is_file()]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
