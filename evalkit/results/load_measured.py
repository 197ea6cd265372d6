"""From stored runs to what a comparison needs: records and raw tables, without torch."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalkit.analysis.asked import Asked
from evalkit.analysis.compare import Measured
from evalkit.analysis.decompose import PASSES
from evalkit.analysis.stopping import Drawn
from evalkit.analysis.summaries import TokenTable
from evalkit.analysis.task_groups import ScoreGroup
from evalkit.analysis.task_values import ItemScores
from evalkit.records import Comparison, Measurement, Run, Variant
from evalkit.store.files import read_parquet
from evalkit.store.samples import JOINED, STATISTICS, SampleRecords
from evalkit.store.store import Store

# The detail of a task's run that lists the scores of its groups.
GROUPS = "score_groups"
# The detail of a score that says how its items were drawn where a task stopped when decided.
DRAWN = "drawn"


def load_measured(
    store: Store,
    variant: Variant,
    runs: tuple[Run, ...],
    machine: str | None,
    baseline: str,
    *,
    items: bool = True,
    label: str = "",
) -> Measured:
    """One variant's runs with their raw tables.

    `baseline` is the run its divergences refer to, empty for the baseline itself; measurements
    against another baseline or of another machine are left out. Values of task items are read
    where `items` are wanted; `label` is what the row is called.
    """
    chosen = tuple(_chosen(run, machine, baseline) for run in runs)
    tables = {m.metric: m.table for run in chosen for m in run.measurements if m.table}
    return Measured(
        variant=variant,
        runs=chosen,
        tokens=_token_table(store, tables.get("perplexity")),
        noise=_token_table(store, tables.get("noise")),
        weights=_token_table(store, tables.get("weights_only")),
        decomposed={
            name: table
            for name in PASSES
            if (table := _token_table(store, tables.get(name))) is not None
        },
        tasks=_task_scores(store, chosen) if items else {},
        groups=_score_groups(chosen) if items else (),
        label=label,
    )


def reopen(comparison: Comparison, store: Store) -> dict[str, Measured]:
    """Raw values of speed and tokens behind a stored comparison by the label of their variant."""
    machine = comparison.environment.machine if comparison.environment else None
    first = comparison.rows[0] if comparison.rows else None
    runs = {row.variant.label: _load_all(store, row.runs) for row in comparison.rows}
    texts = [run.id for run in runs[first.variant.label] if run.suite.texts] if first else []
    reference = texts[0] if texts else ""
    return {
        row.variant.label: load_measured(
            store,
            row.variant,
            runs[row.variant.label],
            machine,
            "" if row is first else reference,
            items=False,
        )
        for row in comparison.rows
    }


def _load_all(store: Store, run_ids: tuple[str, ...]) -> tuple[Run, ...]:
    return tuple(run for run_id in run_ids if (run := store.load(run_id)) is not None)


def windows_table(table: Path) -> Path:
    """The per-window sums beside a per-token table."""
    return table.with_name(table.name.replace("tokens", "windows", 1))


def _chosen(run: Run, machine: str | None, baseline: str) -> Run:
    kept = tuple(
        m
        for m in run.measurements
        if (machine is None or m.machine in (None, machine))
        and (m.table is None or "aggregation" in m.details or m.baseline == baseline)
    )
    return dataclasses.replace(run, measurements=kept)


def _task_scores(store: Store, runs: tuple[Run, ...]) -> dict[str, ItemScores]:
    scored = [m for run in runs for m in run.measurements if "aggregation" in m.details and m.table]
    files = {m.table: SampleRecords.load(store.root / m.table) for m in scored if m.table}
    return {
        m.metric: _item_scores(files[m.table], m, drawn_items(store, m.details))
        for m in scored
        if m.table and m.details["aggregation"] in STATISTICS
    }


def _score_groups(runs: tuple[Run, ...]) -> tuple[ScoreGroup, ...]:
    stored = [one for run in runs for m in run.measurements for one in m.details.get(GROUPS, ())]
    return tuple(ScoreGroup(g["key"], tuple(g["members"]), g["by_items"]) for g in stored)


def _item_scores(
    records: SampleRecords, measurement: Measurement, drawn: Drawn | None
) -> ItemScores:
    details = measurement.details
    items = records.items(details["score"], details["filter"])
    return ItemScores(
        task=details["task"],
        key=measurement.metric,
        statistic=items.statistic,
        higher_is_better=details["higher_is_better"],
        primary=details["primary"],
        asked=asked_of(records, details["filter"]),
        values=items.values,
        weights=items.weights,
        clusters=items.clusters,
        noise=_score_noise(records, details),
        notes=records.head.notes,
        drawn=drawn,
    )


def drawn_items(store: Store, details: dict[str, Any]) -> Drawn | None:
    """How the items of a score were drawn that stopped when decided; None where all were asked."""
    told = details.get(DRAWN)
    if told is None:
        return None
    order = read_parquet(store.root / told["order"])["item"][: told["items"]]
    return Drawn(order.astype(np.int64), told["of"], told["largest"], told["whole"])


def asked_of(records: SampleRecords, name: str) -> Asked:
    """What the items of `records` were asked, in the order of their rows of filter `name`."""
    rows, head = records.rows(name), records.head
    documents, prompts, targets = (tuple(map(str, rows[c].to_pylist())) for c in JOINED)
    settings = {
        "version": head.version,
        "shots": str(head.shots),
        "chat": head.chat,
        "split": head.split,
    }
    return Asked(settings, documents, prompts, targets, head.requests, head.lm_eval)


def _score_noise(records: SampleRecords, details: dict[str, Any]) -> float:
    """Share of items that rounding alone can turn: their margin is within the noise in nats.

    For acc_norm, margins are per character, and so is the noise over the mean length.
    """
    nats = details.get("noise_nats")
    if nats is None or details["score"] not in ("acc", "acc_norm"):
        return 0.0
    margins = records.margins(details["score"], details["filter"])
    if details["score"] == "acc_norm":
        lengths = np.concatenate([*records.rows(details["filter"])["choice_lengths"].to_pylist()])
        nats /= max(1.0, float(np.mean(lengths)))
    return float(np.mean(np.abs(margins) <= 2 * nats))


def _token_table(store: Store, table: str | None) -> TokenTable | None:
    if table is None:
        return None
    path = store.root / table
    return TokenTable(read_parquet(windows_table(path)), SortedColumns(path))


class SortedColumns:
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
