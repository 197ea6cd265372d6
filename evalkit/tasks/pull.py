"""`evalkit data pull`: keep the splits of tasks as files with a manifest, to work offline."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import DataError, EvalkitError, UsageError
from evalkit.store.files import TEMPORARY, explained, make_directory
from evalkit.tasks import lm_eval_task
from evalkit.tasks.code import refuse_code
from evalkit.tasks.data import SPLIT_KEYS
from evalkit.tasks.lm_eval_errors import explain
from evalkit.tasks.lm_eval_index import Leaf, build_task, dataset_of, open_registry
from evalkit.tasks.loading import TaskFailure
from evalkit.tasks.manifest import Manifest, SplitFile, read_manifest, write_manifest
from evalkit.tasks.rows import sha256_of

Format = Literal["jsonl", "parquet"]
LOCAL = "local"


@dataclass(frozen=True)
class Pulled:
    """What was stored: a manifest per task, its folder, and the tasks that failed."""

    manifests: tuple[Manifest, ...]
    folders: tuple[Path, ...]
    failures: tuple[TaskFailure, ...]


def pull_tasks(
    names: Sequence[str],
    out: Path,
    *,
    include_path: Sequence[Path] = (),
    file_format: Format = "jsonl",
    allow_code: bool = False,
) -> Pulled:
    """Store the splits that tasks, groups or tags use as `out`/tasks/TASK/SPLIT.jsonl or .parquet.

    Each folder gets a manifest with source, revision, SHA-256 and rows, and is replaced as a
    whole or not at all. A task that cannot be had becomes a failure; the others go on.
    """
    if file_format not in ("jsonl", "parquet"):
        raise UsageError(f"unknown format {file_format!r}: allowed are jsonl, parquet")
    registry = open_registry(names, include_path, allow_code=allow_code)
    manifests, folders, failures = [], [], []
    for name in names:
        try:
            leaves, _ = registry.expand(name)
        except EvalkitError as error:
            failures.append(TaskFailure(name, str(error)))
            continue
        for leaf in leaves:
            folder = out / "tasks" / leaf.task_name
            try:
                if not allow_code:
                    refuse_code(leaf.task_name, leaf.path)
                manifests.append(_pull(leaf, folder, file_format))
                folders.append(folder)
            except EvalkitError as error:
                failures.append(TaskFailure(leaf.task_name, str(error)))
    return Pulled(tuple(manifests), tuple(folders), tuple(failures))


def _pull(leaf: Leaf, folder: Path, file_format: Format) -> Manifest:
    config = _config(leaf)
    source, subset = dataset_of(config) or ("the task's own code", "")
    revision = _revision(leaf.task_name, source, config)
    splits = _download(leaf, config, revision)
    new = make_directory(folder.parent) / f"{TEMPORARY}{uuid.uuid4().hex}"
    make_directory(new)
    try:
        files = []
        for split, rows in splits.items():
            path = new / f"{split}.{file_format}"
            _write(path, rows, file_format)
            files.append(SplitFile(split, path.name, sha256_of(path), len(rows)))
        manifest = Manifest(leaf.task_name, source, subset, revision, tuple(files))
        write_manifest(new, manifest)
        _replace(folder, new)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return read_manifest(folder)


def _config(leaf: Leaf) -> dict[str, Any]:
    try:
        return leaf.config()
    except Exception as error:  # the YAML is the user's: anything may be wrong with it
        raise DataError(explain(leaf.task_name, leaf.path, error)) from error


def _download(leaf: Leaf, config: Mapping[str, Any], revision: str) -> dict[str, Any]:
    """The splits the task names, loaded by the task itself from the pinned revision."""
    overrides = {}
    if revision != LOCAL:
        arguments = dict(config.get("dataset_kwargs") or {})
        overrides["dataset_kwargs"] = {**arguments, "revision": revision}
    try:
        with lm_eval_task.settled(seed=0):
            task = build_task(leaf, overrides, None)
    except Exception as error:  # YAML, its Python and the hub: anything may be wrong with them
        raise DataError(explain(leaf.task_name, leaf.path, error)) from error
    fewshot = lm_eval_task.fewshot_split(task)
    named = {*(str(config[key]) for key in SPLIT_KEYS if config.get(key)), str(fewshot)}
    everything = dict(task.dataset)
    return {name: rows for name, rows in everything.items() if name in named} or everything


def _revision(name: str, source: str, config: Mapping[str, Any]) -> str:
    """Commit of a hub dataset, so that the files say exactly what they are; else "local"."""
    if "/" not in source or Path(source).exists() or "class" in config:
        return LOCAL
    from huggingface_hub import HfApi

    asked = (config.get("dataset_kwargs") or {}).get("revision")
    try:
        return str(HfApi().dataset_info(source, revision=asked).sha)
    except Exception as error:  # no network, no such dataset, no permission
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"task {name!r}: the hub gives no dataset {source!r} ({line})") from error


def _write(path: Path, rows: Any, file_format: Format) -> None:
    with explained(path):
        if file_format == "parquet":
            rows.to_parquet(str(path))
            return
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(_line(row, path.stem) + "\n")


def _line(row: Mapping[str, Any], split: str) -> str:
    try:
        return json.dumps(row, ensure_ascii=False)
    except TypeError as error:
        raise DataError(f"split {split} holds {error}: pull it with --format parquet") from error


def _replace(folder: Path, new: Path) -> None:
    """Put `new` in the place of `folder`; an interruption leaves the old or the new."""
    with explained(folder):
        if folder.exists():
            old = folder.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
            folder.rename(old)
            new.rename(folder)
            shutil.rmtree(old)
        else:
            new.rename(folder)
