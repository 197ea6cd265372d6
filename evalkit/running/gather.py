"""From stored runs to what a comparison needs: records and raw tables, without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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
    return TokenTable(read_parquet(windows_table(path)), _reader(path))


def _reader(path: Path) -> Callable[[str], NDArray[Any]]:
    return partial(_column, path)


def _column(path: Path, name: str) -> NDArray[Any]:
    return read_parquet(path, [name])[name]
