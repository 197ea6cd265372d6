"""Task data from a folder instead of the hub: `DIR/tasks/TASK/SPLIT.jsonl` or `.parquet`.

One folder can serve a whole group: `tasks/mmlu/test.jsonl` with a column `subject`, or
`tasks/mmlu/anatomy/test.jsonl`. Tasks that read the same hub dataset share a folder
(`gsm8k_cot` finds `tasks/gsm8k`). The task's own code (process_docs, doc_to_text) runs unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.errors import DataError
from evalkit.paths import expanded
from evalkit.tasks.manifest import check_against_manifest
from evalkit.tasks.rows import SUFFIXES, Row, read_rows, subset_rows

VARIABLE = "EVALKIT_DATA"
EVALUATION_SPLITS = ("test", "validation", "dev", "val", "valid")
SPLIT_KEYS = ("training_split", "validation_split", "test_split", "fewshot_split")
# The hub offers these datasets in two schemas: lm-eval reads the one, files are passed around in
# the other. Missing column → (column at hand, conversion).
_OTHER_SCHEMA: dict[tuple[str, str], dict[str, tuple[str, Callable[[Any], Any]]]] = {
    ("aps/super_glue", "boolq"): {"label": ("answer", int)},
}

DatasetOf = Callable[[str], tuple[str, str] | None]


@dataclass(frozen=True)
class DataFile:
    """One file that served a split: where, its SHA-256, and the number of rows taken from it."""

    split: str
    path: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class Served:
    """A task's data from files: rows by split, the files, and settings the task needs with them.

    `overrides` set absent splits to None, as lm-eval asks; `absent` maps those settings to the
    splits the task's YAML names.
    """

    splits: dict[str, list[Row]]
    files: tuple[DataFile, ...]
    overrides: dict[str, Any] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def data_folder(data: Path | None) -> Path | None:
    """The folder of `--data` or $EVALKIT_DATA that holds a folder per task; None without either.

    Accepts the folder above `tasks` or `tasks` itself. Raises DataError if it does not exist.
    """
    named = data or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is None:
        return None
    folder = expanded(named)
    if not folder.is_dir():
        raise DataError(
            f"data folder {folder} does not exist: give --data a folder laid out "
            "tasks/TASK/SPLIT.jsonl, as `evalkit data pull TASK --out DIR` makes it"
        )
    return folder / "tasks" if (folder / "tasks").is_dir() else folder


def serve(
    root: Path,
    name: str,
    config: Mapping[str, Any],
    groups: Sequence[str],
    dataset: DatasetOf,
) -> Served | None:
    """The data of task `name` from `root`, or None if it is not there.

    `groups` are the groups it was asked through, nearest first; `dataset` tells the hub dataset
    of another task. Raises DataError for a file that cannot be read.
    """
    place = _find(root, name, config, groups, dataset)
    if place is None:
        return None
    folder, value = place
    files = _split_files(folder)
    if "class" in config:  # a task written as a Python class names its splits in its code
        return _served(files, sorted(files), config, value)
    overrides, absent = _choose_splits(config, files, folder)
    settings = {**config, **overrides}
    fewshot = settings.get("fewshot_config")
    named = [settings.get(key) for key in SPLIT_KEYS]
    named += [fewshot.get("split")] if isinstance(fewshot, Mapping) else []
    found = _served(files, sorted({str(name) for name in named} & set(files)), config, value)
    return Served(found.splits, found.files, overrides, absent)


def serve_local_files(config: Mapping[str, Any], beside: Path | None) -> Served | None:
    """The data of a task whose YAML names local files (`dataset_path: json`, `data_files`).

    Relative names are looked up beside the YAML, then in the current directory.
    """
    arguments = dict(config.get("dataset_kwargs") or {})
    named = arguments.pop("data_files", None)
    if config.get("dataset_path") not in ("json", "parquet") or not named or arguments:
        return None
    if not isinstance(named, Mapping):
        named = {"train": named}
    files = {str(split): _local_file(value, beside) for split, value in named.items()}
    return _served(files, sorted(files), config, None)


def looked_for(root: Path | None, name: str, config: Mapping[str, Any]) -> Path:
    """The file that would have served task `name`."""
    split = config.get("test_split") or config.get("validation_split") or "test"
    return (root or Path("DIR/tasks")) / name / f"{split}.jsonl"


def _find(
    root: Path, name: str, config: Mapping[str, Any], groups: Sequence[str], dataset: DatasetOf
) -> tuple[Path, str | None] | None:
    """The folder that serves `name` and, where it serves several tasks, the subset's value."""
    if _split_files(root / name):
        return root / name, None
    subset = str(config.get("dataset_name") or "")
    tail = str(config.get("dataset_path") or "").rpartition("/")[2]
    for parent in _words(*groups, tail):
        short = name.removeprefix(f"{parent}_")
        for below in _words(name, subset, short):
            if _split_files(root / parent / below):
                return root / parent / below, None
        for value in _words(subset, short):
            files = _split_files(root / parent).values()
            if any(subset_rows(read_rows(path), value) for path in files):
                return root / parent, value
    own = (str(config.get("dataset_path") or ""), subset)
    for folder in sorted(root.iterdir()) if own[0] else []:
        if _split_files(folder) and dataset(folder.name) == own:
            return folder, None
    return None


def _words(*words: str) -> list[str]:
    """The non-empty words, each once, in order."""
    return list(dict.fromkeys(word for word in words if word))


def _split_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    files = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix in SUFFIXES and p.is_file()}
    files.pop("manifest", None)
    return files


def _served(
    files: Mapping[str, Path], splits: Sequence[str], config: Mapping[str, Any], value: str | None
) -> Served:
    rows = {split: _rows(files[split], config, value) for split in splits}
    served = tuple(
        DataFile(split, str(files[split]), check_against_manifest(files[split]), len(rows[split]))
        for split in splits
    )
    return Served(rows, served)


def _rows(path: Path, config: Mapping[str, Any], value: str | None) -> list[Row]:
    rows = read_rows(path)
    if value is not None:
        rows = subset_rows(rows, value)
    if not rows:
        of = f" of {value!r}" if value else ""
        raise DataError(f"{path} has no rows{of}; pull it again or remove the file")
    key = (str(config.get("dataset_path") or ""), str(config.get("dataset_name") or ""))
    for column, (source, convert) in _OTHER_SCHEMA.get(key, {}).items():
        if column not in rows[0] and source in rows[0]:
            rows = [{**row, column: convert(row[source])} for row in rows]
    return rows


def _choose_splits(
    config: Mapping[str, Any], files: Mapping[str, Path], folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings for the splits at hand, and the splits that are named but absent."""
    absent = {
        key: str(config[key]) for key in SPLIT_KEYS if config.get(key) and config[key] not in files
    }
    overrides: dict[str, Any] = dict.fromkeys(absent)
    evaluated = [config.get(key) for key in ("test_split", "validation_split") if key not in absent]
    if not any(evaluated):
        other = next((split for split in EVALUATION_SPLITS if split in files), None)
        if other is None:
            asked = config.get("test_split") or config.get("validation_split") or "test"
            raise DataError(
                f"{folder} holds {', '.join(files)} but no split to evaluate on: "
                f"{asked}.jsonl is looked for"
            )
        overrides["test_split"] = other
    return overrides, absent


def _local_file(value: Any, beside: Path | None) -> Path:
    names = value if isinstance(value, (list, tuple)) else [value]
    if len(names) != 1:
        raise DataError(f"data_files names {len(names)} files for one split; join them into one")
    path = expanded(str(names[0]))
    places = [path] if path.is_absolute() or beside is None else [beside / path, path]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataError(f"data file {path} does not exist; looked for {places[0]}")
    return found
