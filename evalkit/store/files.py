"""Writing that is whole or absent, and reading that explains itself in one line.

Every file of the store is written to a temporary neighbour, flushed to the disk and renamed, so
a kill or power loss at any moment leaves the old content or the new, never half of one.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evalkit.errors import StoreError

TEMPORARY = ".tmp-"
MAX_JSON_BYTES = 256 * 2**20

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another --out",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another --out",
    errno.EFBIG: "the file would pass the size limit; raise it or choose another --out",
    errno.EROFS: "the file system is read-only; choose another --out",
    errno.EACCES: "permission is denied; choose another --out",
    errno.EPERM: "permission is denied; choose another --out",
    errno.ENOTDIR: "a file stands where a directory is needed; choose another --out",
    errno.EEXIST: "a file stands where a directory is needed; choose another --out",
}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError about `path` into a one-line StoreError with what to do."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, os.strerror(error.errno) if error.errno else "")
        raise StoreError(f"cannot write {path}: {reason or error}") from error


def make_directory(path: Path) -> Path:
    """Create `path` and its parents; raises StoreError where that is impossible."""
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block succeeds it is flushed and renamed."""
    make_directory(path.parent)
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}")
    try:
        with explained(path):
            yield temporary
            flush(temporary)
            temporary.replace(path)
            flush(path.parent)
    finally:
        # Where nothing can be written there is nothing to remove.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Ask the operating system to put `path` (file or directory) on the disk now.

    Windows cannot open a directory, and writes its entries by itself.
    """
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file of at most 256 MiB; raises StoreError naming the file and the fix."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise StoreError(f"{path} has {size} bytes: at most {MAX_JSON_BYTES}; delete the file")
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error) or "nested too deeply"
        raise StoreError(f"{path} is not JSON ({reason}); delete it to measure again") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error


def write_parquet(path: Path, columns: Mapping[str, Any]) -> None:
    """Write equally long columns as one Parquet file, whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(pa.table(dict(columns)), temporary, compression="zstd")


def read_parquet(path: Path, columns: list[str] | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """Read columns of a Parquet file as NumPy arrays; raises StoreError if it is not one."""
    try:
        table = pq.read_table(path, columns=columns, memory_map=True)
    except (pa.ArrowInvalid, pa.ArrowIOError, OSError, KeyError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(f"{path} cannot be read ({line}); run again with --fresh") from error
    return {name: table[name].to_numpy() for name in table.column_names}
