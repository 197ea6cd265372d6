"""The manifest of pulled task data: where each file came from and what it must contain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, StoreError
from evalkit.paths import is_file
from evalkit.records import from_json, to_json
from evalkit.store.files import read_json, write_json
from evalkit.tasks.rows import sha256_of

MANIFEST = "manifest.json"
SCHEMA = "evalkit.data/1"


@dataclass(frozen=True)
class SplitFile:
    """One split of a pulled task: file name, SHA-256 and number of rows."""

    split: str
    file: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class Manifest:
    """A pulled task: hub path (`source`) and configuration (`subset`), revision, files."""

    task: str
    source: str
    subset: str
    revision: str
    splits: tuple[SplitFile, ...]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` into the task's folder."""
    write_json(folder / MANIFEST, {"schema": SCHEMA, **to_json(manifest)})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a task's folder, after checking that every file is what it says.

    Raises DataError for a missing or damaged manifest, and for a missing or changed file.
    """
    manifest = _parse(folder / MANIFEST)
    for split in manifest.splits:
        path = folder / split.file
        if not is_file(path):
            raise DataError(f"{path} is missing: {_pull(manifest, folder)}")
        _compare(path, split, sha256_of(path), manifest)
    return manifest


def check_against_manifest(path: Path) -> str:
    """SHA-256 of a data file; raises DataError where the manifest beside it says another."""
    digest = sha256_of(path)
    if (path.parent / MANIFEST).is_file():
        manifest = _parse(path.parent / MANIFEST)
        for split in manifest.splits:
            if split.file == path.name:
                _compare(path, split, digest, manifest)
    return digest


def _compare(path: Path, split: SplitFile, digest: str, manifest: Manifest) -> None:
    if digest != split.sha256:
        raise DataError(
            f"{path} has SHA-256 {digest[:12]}…, its manifest says {split.sha256[:12]}…: "
            f"{_pull(manifest, path.parent)}"
        )


def _pull(manifest: Manifest, folder: Path) -> str:
    out = folder.parent.parent if folder.parent.name == "tasks" else folder.parent
    return f"run `evalkit data pull {manifest.task} --out {out}` again"


def _parse(path: Path) -> Manifest:
    try:
        content: Any = read_json(path)
    except StoreError as error:
        raise DataError(str(error)) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f"{path} is no manifest of the schema {SCHEMA}: pull the task again")
    try:
        manifest = from_json(Manifest, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}): pull the task again") from error
    for split in manifest.splits:
        if Path(split.file).name != split.file or "\0" in split.file:
            raise DataError(f"{path} names {split.file!r}, which is no file beside it")
    return manifest
