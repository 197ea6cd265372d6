"""Rows of task data: JSONL, JSON and Parquet files, and the rows of one subject in them."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from evalkit.errors import DataError

SUFFIXES = (".jsonl", ".json", ".parquet")
SUBSET_COLUMNS = ("subject", "subset", "config", "category", "task", "language")

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Rows of a JSONL, JSON (a list) or Parquet file; raises DataError naming file and line."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return _read_rows(path, status.st_size, status.st_mtime_ns)


def subset_rows(rows: list[Row], value: str) -> list[Row]:
    """Rows whose subset column equals `value`; spaces, hyphens and capitals do not matter."""
    wanted = _plain(value)
    for column in [name for name in SUBSET_COLUMNS if rows and name in rows[0]]:
        found = [row for row in rows if _plain(row.get(column)) == wanted]
        if found:
            return found
    return []


def as_dataset(rows: list[Row], source: str) -> Any:
    """`rows` as a datasets.Dataset in memory (nothing is written to a cache)."""
    import datasets
    import pyarrow as pa

    try:
        return datasets.Dataset.from_list(rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError, TypeError) as error:
        line = str(error).splitlines()[0]
        raise DataError(f"{source}: a column holds values of several types ({line})") from error


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=8)
def _read_rows(path: Path, size: int, modified: int) -> list[Row]:
    """`size` and `modified` are the key: a file of a group is read once for all its tasks."""
    try:
        numbered = _numbered(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason})") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    for number, row in numbered:
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: a row must be an object, not {type(row).__name__}")
    return [row for _, row in numbered]


def _numbered(path: Path) -> list[tuple[int, Any]]:
    if path.suffix == ".parquet":
        return list(enumerate(_parquet_rows(path), 1))
    if path.suffix == ".json":
        rows = _parsed(path, 1, path.read_text(encoding="utf-8"))
        return list(enumerate(rows if isinstance(rows, list) else [rows], 1))
    with path.open(encoding="utf-8") as lines:
        return [
            (n, _parsed(path, n, line.strip())) for n, line in enumerate(lines, 1) if line.strip()
        ]


def _parsed(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = number + error.lineno - 1
        raise DataError(f"{path}:{line}: not JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise DataError(f"{path}:{number}: JSON nested too deeply") from error


def _parquet_rows(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_table(path).to_pylist())
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise DataError(f"{path} is not Parquet ({str(error).splitlines()[0]})") from error


def _plain(value: object) -> str:
    return str(value).strip().lower().replace(" ", "_").replace("-", "_")
