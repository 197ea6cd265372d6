"""From stored runs to what a comparison needs: records and raw tables, without torch."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalkit.analysis.compare import Measured
from evalkit.analysis.summaries import TokenTable
from evalkit.records import Run, Variant
from evalkit.store.files import read_parquet
from evalkit.store.store import Store


def gather(
    store: Store, variant: Variant, runs: tuple[Run, ...], machine: str | None, baseline: str
) -> Measured:
    """One variant's runs with their raw tables.

    `baseline` is the run its divergences refer to, empty for the baseline itself; measurements
    against another baseline or of another machine are left out.
    """
    chosen = tuple(_chosen(run, machine, baseline) for run in runs)
    tables = {m.metric: m.table for run in chosen for m in run.measurements if m.table}
    return Measured(
        variant=variant,
        runs=chosen,
        tokens=_token_table(store, tables.get("perplexity")),
        noise=_token_table(store, tables.get("noise")),
    )


def windows_table(table: Path) -> Path:
    """The per-window sums beside a per-token table."""
    return table.with_name(table.name.replace("tokens", "windows", 1))


def _chosen(run: Run, machine: str | None, baseline: str) -> Run:
    kept = tuple(
        m
        for m in run.measurements
        if (machine is None or m.machine in (None, machine))
        and (m.table is None or m.baseline == baseline)
    )
    return dataclasses.replace(run, measurements=kept)


def _token_table(store: Store, table: str | None) -> TokenTable | None:
    if table is None:
        return None
    path = store.root / table
    return TokenTable(read_parquet(windows_table(path)), _SortedColumns(path))


class _SortedColumns:
    """Columns of a per-token table in text order, whatever the order of the batches was."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Row numbers sorted by window and position."""
        keys = read_parquet(self.path, ["window", "position"])
        order: NDArray[np.int64] = np.lexsort((keys["position"], keys["window"]))
        return order

    def __call__(self, name: str) -> NDArray[Any]:
        """Column `name`, shape (tokens,)."""
        return read_parquet(self.path, [name])[name][self.order]
