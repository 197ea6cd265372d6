"""Raw values as they come: one small Parquet file a batch, merged into one when all are there.

A part is written whole or not at all, so a kill costs at most the batch in flight. `done` tells
which windows (or items) need not be measured again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evalkit.errors import StoreError
from evalkit.store.files import make_directory, read_parquet, replacing, write_parquet

Columns = dict[str, np.ndarray[Any, Any]]


class Parts:
    """The parts of one raw table, in the directory `folder`; `key` names the column of units.

    Processes that fill it together each write into a folder of their own in it, called `writer`.
    """

    def __init__(self, folder: Path, key: str, writer: str = "") -> None:
        self.folder = folder
        self._own = make_directory(folder / writer)
        self.key = key
        for leftover in self._own.glob(".tmp-*"):
            leftover.unlink(missing_ok=True)
        numbers = [int(file.stem.removeprefix("part-")) for file in self._own.glob("part-*")]
        self._next = max(numbers, default=-1) + 1

    def files(self) -> list[Path]:
        """The parts written so far, in the order of writing."""
        return sorted(self.folder.rglob("part-*.parquet"))

    def append(self, columns: Mapping[str, Any]) -> None:
        """Write one batch of equally long columns; on return it survives a power loss."""
        write_parquet(self._own / f"part-{self._next:06d}.parquet", columns)
        self._next += 1

    def done(self) -> frozenset[int]:
        """Units that stand in a readable part; an unreadable part is removed and measured again."""
        found: set[int] = set()
        for file in self.files():
            try:
                found.update(int(unit) for unit in read_parquet(file, [self.key])[self.key])
            except StoreError:
                file.unlink(missing_ok=True)
        return frozenset(found)

    def merge(self, target: Path) -> None:
        """Write all parts as the single Parquet file `target` and remove them.

        Reads one part at a time, so memory does not grow with the number of parts.
        """
        files = self.files()
        if not files:
            raise StoreError(f"{self.folder} holds no measured batch; run again with --fresh")
        schema = pq.read_schema(files[0])
        with (
            replacing(target) as temporary,
            pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            for file in files:
                writer.write_table(pq.read_table(file).cast(pa.schema(schema)))
        self.clear()

    def clear(self) -> None:
        """Remove all parts and their directory."""
        for file in self.files():
            file.unlink(missing_ok=True)
        for folder in (*self.folder.glob("*/"), self.folder):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
