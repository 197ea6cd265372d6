"""The raw values of a damage map in the store: a folder of parts for each piece.

STORE/raw/<key>/<piece>/part-….parquet holds columns window, position, kl, nll. `<key>` identifies
baseline, variant, text and direction, `<piece>` the weights that were exchanged: maps by layer,
module and kind, over few tokens or many, share what they have in common.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.analysis.summaries import TokenTable
from evalkit.store.files import read_parquet
from evalkit.store.parts import Parts
from evalkit.texts.windows import Windows

Columns = Mapping[str, Any]


class Values:
    """Per-token values by name of a piece, of some of the `windows`."""

    def __init__(self, folder: Path, windows: Windows) -> None:
        self._folder, self.windows = folder, windows
        self._known: dict[str, Columns] = {}
        self._done: dict[str, set[int]] = {}

    def done(self, key: str) -> set[int]:
        """The windows of which the values of `key` are there."""
        if key not in self._done:
            self._done[key] = set(self._parts(key).done()) if self._place(key).exists() else set()
        return self._done[key]

    def add(self, key: str, columns: Columns) -> None:
        """Store the values of one batch; on return they survive a power loss.

        Those of windows that are `done` are left out: another map may have read them before.
        """
        new = ~np.isin(columns["window"], list(self.done(key)))
        left = {name: column[new] for name, column in columns.items()}
        self._parts(key).append(left)
        self._done[key].update(map(int, np.unique(left["window"])))
        self._known.pop(key, None)

    def table(self, key: str, chosen: Collection[int]) -> TokenTable:
        """The values of `key` for the windows `chosen`, all of which must be `done`."""
        known = self._columns(key)
        inside = np.isin(known["window"], list(chosen))
        columns = {name: column[inside] for name, column in known.items()}
        return TokenTable(self._of_windows(columns, chosen), columns.__getitem__)

    def of_windows(self, key: str, column: str, chosen: Collection[int]) -> tuple[Any, Any]:
        """A value a window of `column`, and their scored tokens, for the windows `chosen`."""
        known = self._columns(key)
        inside = np.isin(known["window"], list(chosen))
        return known[column][inside], self.windows.scored[known["window"][inside]]

    def _columns(self, key: str) -> Columns:
        if key not in self._known:
            parts = [read_parquet(file) for file in self._parts(key).files()]
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            places = [joined[name] for name in ("position", "window") if name in joined]
            order = np.lexsort(places)
            self._known[key] = {name: column[order] for name, column in joined.items()}
        return self._known[key]

    def _of_windows(self, columns: Columns, chosen: Collection[int]) -> dict[str, Any]:
        count = len(self.windows)
        found = {
            "slice": self.windows.slice,
            "document": self.windows.document,
            "scored": np.where(np.isin(np.arange(count), list(chosen)), self.windows.scored, 0),
        }
        for name in ("kl", "nll"):
            wide = columns[name].astype(np.float64)
            found[f"sum_{name}"] = np.bincount(columns["window"], wide, count)
        return found

    def _place(self, key: str) -> Path:
        return self._folder / key

    def _parts(self, key: str) -> Parts:
        return Parts(self._place(key), "window")
