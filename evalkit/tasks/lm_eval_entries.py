"""lm-eval's registry of tasks, groups and tags: names and files, kept on disk between starts.

Uses `TaskIndex` and `load_yaml`, which lm-eval 0.4.13 does not promise to keep.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks._index import Entry, Kind, TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml

from evalkit.demo_data import demo_directory
from evalkit.errors import DataError, StoreError, UsageError
from evalkit.store.files import read_json, write_json
from evalkit.store.store import default_root
from evalkit.yaml_file import checked_text

__all__ = [
    "Entries",
    "Entry",
    "Kind",
    "default_entries",
    "demo_paths",
    "entries_below",
    "entry_from_file",
    "kept_entries",
]

_ROOT = Path(lm_eval.tasks.__file__).parent
_CACHE = "lm-eval-index.json"
_CODE = (".py", ".pyc", ".md")

Entries = dict[str, Entry]


def entry_from_file(path: Path) -> Entry | None:
    """The task or group a YAML file defines; None if it names none."""
    checked_text(path)
    return TaskIndex.entry_from_path(path)


def entries_below(paths: Iterable[Path]) -> Entries:
    """Tasks, groups and tags in YAML folders or files; later paths win."""
    entries: Entries = {}
    for path in paths:
        if not path.exists():
            raise DataError(f"task folder {path} does not exist; check --include-path")
        folder = path.parent if path.is_file() else path
        _refuse_bombs(folder)
        found = TaskIndex.build([folder])
        if path.is_file():
            found = {name: e for name, e in found.items() if e.yaml_path in (path, None)}
        entries |= found
    return entries


def _refuse_bombs(folder: Path) -> None:
    """Raise for a YAML below `folder` that would crash lm-eval's parser or fill the memory.

    Files that are merely no YAML are left to lm-eval, which skips them.
    """
    for file in folder.rglob("*.yaml"):
        try:
            checked_text(file)
        except UsageError as error:
            if error.__cause__ is None:
                raise


def demo_paths() -> list[Path]:
    """The folder of the demo's own tasks, where the demo data is there."""
    try:
        tasks = demo_directory() / "tasks"
    except DataError:  # an installation without the demo still has lm-eval's tasks
        return []
    return [tasks] if tasks.is_dir() else []


@cache
def default_entries() -> Entries:
    """lm-eval's own tasks; the index is kept in the store and renewed when a file changes."""
    return kept_entries(_ROOT, default_root() / _CACHE)


def kept_entries(root: Path, file: Path) -> Entries:
    """Tasks, groups and tags below `root`, from the index in `file` while it holds."""
    key = _fingerprint(root)
    try:
        kept = read_json(file)
        if kept["key"] == key:
            return {name: _entry(name, *row) for name, row in kept["entries"].items()}
    except (StoreError, KeyError, TypeError, ValueError):
        pass  # absent or of another shape: it is only a cache and is written anew
    entries = _entries_of(root)
    rows = {
        name: [e.kind.name, str(e.yaml_path) if e.yaml_path else None, sorted(e.tags)]
        for name, e in entries.items()
    }
    # A store that cannot be written costs time only here; it is reported where results are kept.
    with contextlib.suppress(StoreError):
        write_json(file, {"key": key, "entries": rows})
    return entries


def _entries_of(root: Path) -> Entries:
    """What `TaskIndex.build` finds below `root`, in half its time: each file is read once.

    Most of lm-eval's files include one of a few others, which it reads anew for each.
    """
    read = cache(_settings)
    entries: Entries = {}
    for path in TaskIndex._iter_yaml_files(root):
        # A file that is no task is skipped here as by lm-eval; asked for by name, it is explained.
        with contextlib.suppress(Exception):
            TaskIndex.process_cfg(_with_includes(path, read), path, entries)
    return entries


def _settings(path: str) -> dict[str, Any]:
    return dict(load_yaml(path, resolve_func=False, recursive=False))


def _with_includes(path: Path, read: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """The settings of a file over those of the files that it includes, as lm-eval merges them."""
    written = dict(read(os.path.normpath(path)))
    includes = written.pop("include", [])
    merged: dict[str, Any] = {}
    for include in includes if isinstance(includes, list) else [includes]:
        merged |= _with_includes(path.parent / include, read)
        merged.pop("task_list", None)
    return merged | written


def _entry(name: str, kind: str, path: str | None, tags: list[str]) -> Entry:
    # lm-eval makes a Path of the string where it opens the file; 14,000 now would cost a second.
    return Entry(name, Kind[kind], path, tags=set(tags))


def _fingerprint(root: Path) -> str:
    """Hash of path, size and time of every file that may name a task (about 0.4 s)."""
    digest = hashlib.sha256(str(root).encode())
    for folder, below, _ in os.walk(root):
        below.sort()
        with os.scandir(folder) as files:
            for file in sorted(files, key=lambda file: file.name):
                if file.is_file() and not file.name.endswith(_CODE):
                    status = file.stat()
                    digest.update(f"{file.path}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()
