"""The file of a reference's rows: allocated before the work, written and read window by window.

It holds one byte a window (1: written), then all rows in the order of the windows. Rows are read
and written at their offsets rather than mapped into memory: mapped pages count as resident memory
and would grow with the text.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalkit.errors import StoreError
from evalkit.store.files import explained, read_json
from evalkit.texts.windows import Windows

SCHEMA = "evalkit.reference/1"

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}


@dataclass(frozen=True)
class Layout:
    """What the rows are: `kind` "hidden" or "logits", of `width` values of `dtype` each.

    `content` is the hash of the windows; `note` says why logits are stored, where they are.
    """

    kind: str
    dtype: str
    width: int
    vocabulary: int
    windows: int
    tokens: int
    content: str
    architecture: str
    note: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one scored token."""
        return self.width * _DTYPES[self.dtype].itemsize

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return self.windows + self.tokens * self.row_bytes


class RowFile:
    """Rows of all scored tokens of all windows, in one file."""

    def __init__(self, path: Path, windows: Windows, layout: Layout, file: FileIO) -> None:
        self.path = path
        self.layout = layout
        self._file = file
        self._tokens = windows.scored
        self._starts = np.concatenate(([0], np.cumsum(self._tokens)))

    @classmethod
    def create(cls, path: Path, windows: Windows, layout: Layout) -> RowFile:
        """Allocate the file; raises StoreError where the disk cannot hold it."""
        with explained(path):
            file = path.open("w+b", buffering=0)
        try:
            _allocate(path, file.fileno(), layout.file_bytes)
        except OSError as error:
            file.close()
            path.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
            raise StoreError(
                f"cannot write {path}: the baseline's reference takes {layout.file_bytes:,} bytes "
                f"and {shutil.disk_usage(path.parent).free:,} are free; free some space, use less "
                "text, or choose another --out"
            ) from error
        return cls(path, windows, layout, file)

    @classmethod
    def open(cls, path: Path, windows: Windows, layout: Layout) -> RowFile:
        """Open an existing file; raises StoreError where it is absent or cut."""
        try:
            file = path.open("r+b", buffering=0)
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"cannot open {path}: {reason}; run again with --fresh") from error
        size = os.fstat(file.fileno()).st_size
        if size != layout.file_bytes:
            file.close()
            raise StoreError(
                f"{path} has {size:,} bytes, not {layout.file_bytes:,}: run again with --fresh"
            )
        return cls(path, windows, layout, file)

    def write(self, batch: NDArray[np.int64], rows: Tensor) -> None:
        """Write `rows`, the scored tokens of the windows of `batch` one after the other."""
        content = rows.contiguous().cpu().view(torch.uint8).flatten().numpy().data
        start = 0
        with explained(self.path):
            for window in batch:
                end = start + self._bytes(window)
                self._write_at(content[start:end], self._offset(window))
                self._write_at(memoryview(b"\1"), int(window))
                start = end

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        with explained(self.path):
            os.fsync(self._file.fileno())

    def written(self) -> int:
        """Number of windows that were written."""
        self._file.seek(0)
        return (self._file.read(self.layout.windows) or b"").count(1)

    def read(self, batch: NDArray[np.int64]) -> Tensor:
        """Rows (scored tokens, width) of the windows of `batch`; raises StoreError if cut."""
        sizes = [self._bytes(window) for window in batch]
        content = np.empty(sum(sizes), dtype=np.uint8)
        start = 0
        for window, size in zip(batch, sizes, strict=True):
            part = content.data[start : start + size]
            self._file.seek(self._offset(window))
            if self._file.readinto(part) != size:
                raise StoreError(f"{self.path} is cut: run again with --fresh")
            start += size
        rows = torch.from_numpy(content).view(_DTYPES[self.layout.dtype])
        return rows.view(-1, self.layout.width)

    def _bytes(self, window: np.int64) -> int:
        return int(self._tokens[window]) * self.layout.row_bytes

    def _offset(self, window: np.int64) -> int:
        return self.layout.windows + int(self._starts[window]) * self.layout.row_bytes

    def _write_at(self, content: memoryview, offset: int) -> None:
        self._file.seek(offset)
        while content:
            content = content[self._file.write(content) or 0 :]


class KeptRows:
    """Rows of scored tokens in memory, which is enough for a sample of the windows."""

    def __init__(self, windows: Windows) -> None:
        self._tokens = windows.scored
        self._rows: dict[int, Tensor] = {}

    def write(self, batch: NDArray[np.int64], rows: Tensor) -> None:
        """Keep `rows`, the scored tokens of the windows of `batch` one after the other."""
        split = rows.cpu().split([int(count) for count in self._tokens[batch]])
        self._rows |= dict(zip(map(int, batch), split, strict=True))

    def sync(self) -> None:
        """Nothing is written to a disk."""

    def written(self) -> int:
        """Number of windows that were written."""
        return len(self._rows)

    def read(self, batch: NDArray[np.int64]) -> Tensor:
        """Rows (scored tokens, width) of the windows of `batch`."""
        return torch.cat([self._rows[int(window)] for window in batch])


def windows_hash(windows: Windows) -> str:
    """Hash of what is read and scored."""
    digest = hashlib.sha256()
    for array in (windows.tokens, windows.offsets, windows.score_from):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_layout(path: Path) -> Layout:
    """Read reference.json; raises StoreError where it is of another schema or broken."""
    content = read_json(path)
    schema = content.pop("schema", None) if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise StoreError(f"{path} has schema {schema!r}, not {SCHEMA!r}: run again with --fresh")
    try:
        layout = Layout(**content)
        layout.file_bytes  # noqa: B018  a wrong type or dtype shows here
    except (TypeError, KeyError) as error:
        raise StoreError(f"{path} is damaged ({error}): run again with --fresh") from error
    return layout


def _allocate(path: Path, descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(descriptor, size)
