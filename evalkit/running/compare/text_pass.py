"""One pass of a loaded variant over windows: batch by batch into a raw table, then folded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from evalkit.metrics import TokenMetric
from evalkit.metrics._spec import Columns
from evalkit.progress import Event, Listener
from evalkit.records import Run
from evalkit.results.load_measured import windows_table
from evalkit.running.compare.token_bar import TokenBar
from evalkit.running.job import Job
from evalkit.running.process import stop_if_asked
from evalkit.running.session import Session, loaded
from evalkit.scoring.reference import Reference, ReferenceWriter
from evalkit.store.claims import claim
from evalkit.store.files import read_json, write_json, write_parquet
from evalkit.store.parts import Parts
from evalkit.store.store import Store
from evalkit.texts.windows import Windows


@dataclasses.dataclass(frozen=True)
class Scoring:
    """One loaded variant and the windows it scores; a pass fills one per-token table.

    `later` is how many tokens further passes will score, so that progress counts all of them.
    """

    store: Store
    run: Run
    windows: Windows
    session: Session
    send: Listener
    later: float = 0.0

    @property
    def job(self) -> Job:
        """The job of the session."""
        return self.session.job

    def table(self, name: str) -> Path:
        """Where the per-token values of pass `name` are stored."""
        return self.store.raw(self.run.id) / f"tokens-{name}.parquet"

    def reference(self) -> Reference | None:
        """The baseline's logits, rebuilt from its stored hidden states; None where it has none."""
        if not self.job.divergence or not self.session.can("distributions"):
            return None
        folder = self.store.reference(self.job.reference)
        return Reference.open(folder, loaded(self.session).scoring_model, self.windows)

    def record(self, table: Path) -> ReferenceWriter | None:
        """Where the baseline's hidden states are written; None for variants and servers.

        Where they are gone, so is the use of the values that were measured with them.
        """
        if not self.job.is_baseline or not self.session.can("distributions"):
            return None
        directory = self.store.reference(self.job.reference)
        # Shares of the baseline's windows begin at once.
        with claim(self.store.claim_file(f"reference-{self.job.reference}")):
            if not directory.exists():
                self.forget(table)
            model = loaded(self.session).scoring_model
            return ReferenceWriter.open(directory, model, self.windows)

    def forget(self, table: Path) -> None:
        """Remove a pass, so that it is measured again."""
        self._parts(table).clear()
        table.unlink(missing_ok=True)
        windows_table(table).unlink(missing_ok=True)

    def score(
        self,
        table: Path,
        metrics: list[TokenMetric],
        *,
        reference: Reference | None = None,
        record: ReferenceWriter | None = None,
        only: frozenset[int] | None = None,
        batch_tokens: int | None = None,
        writer: str = "",
        stage: str = "scoring",
        before: float = 0.0,
    ) -> tuple[str, ...]:
        """Score the windows (of `only`) that `table` or its parts lack, batch by batch.

        Processes that share the windows each have a name as `writer`; `stage` is what is shown, and
        `before` the tokens that passes before this one have scored.
        Returns what is worth noting: halved batches, a reference of whole logits.
        """
        self._renew(table, metrics)
        if table.exists():
            return ()
        notes: dict[str, None] = {}
        parts = self._parts(table, writer)
        skipped = frozenset(range(len(self.windows))) - only if only is not None else frozenset()
        done = parts.done() - skipped
        batches = self.session.score(
            self.windows,
            frozenset(name for metric in metrics for name in metric.needs),
            reference,
            record=record,
            done=done | skipped,
            batch_tokens=batch_tokens,
        )
        scored = self.windows.scored.astype(np.float64)
        total = before + scored.sum() - scored[list(skipped)].sum()
        bar = TokenBar(
            Event(
                self.job.variant.label,
                stage,
                before + scored[list(done)].sum(),
                total if before else total + self.later,
                "tokens",
            ),
            self.send,
            batch_tokens or self.job.settings.batch_tokens,
        )
        with bar.inside(self.session):
            for batch in batches:
                parts.append(_columns(batch.columns, metrics))
                bar.advance(scored[batch.windows].sum())
                notes |= dict.fromkeys(batch.notes)
                stop_if_asked()
        return tuple(notes)

    def put_together(self, table: Path) -> None:
        """Merge the parts of a whole pass into `table`, and fold it into per-window sums."""
        if not table.exists():
            self._parts(table).merge(table)
        if not windows_table(table).exists():
            write_parquet(windows_table(table), _fold(table, self.windows))

    def _renew(self, table: Path, metrics: list[TokenMetric]) -> None:
        """Forget a pass that lacks one of `metrics`, or holds the values of another version.

        What a pass measures is written beside it before its first value.
        """
        file = table.with_name(f"{table.stem}-metrics.json")
        wanted = {metric.name: metric.version for metric in metrics}
        # Processes that share the windows begin at once.
        with claim(self.store.claim_file(f"{self.run.id}-{table.stem}")):
            known = read_json(file) if file.exists() else {}
            if any(known.get(name) != version for name, version in wanted.items()):
                self.forget(table)
                write_json(file, wanted)

    def _parts(self, table: Path, writer: str = "") -> Parts:
        folder = table.with_name(table.stem.replace("tokens", "parts", 1))
        return Parts(folder, "window", writer)


def _columns(statistics: Columns, metrics: list[TokenMetric]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "window": statistics["window"].astype(np.int32),
        "position": statistics["position"].astype(np.int32),
    }
    for metric in metrics:
        if metric.column not in found:
            found[metric.column] = metric.values(statistics)
    return found


def _fold(table: Path, windows: Windows) -> dict[str, Any]:
    """Per-window sums and sums of squares of every column, one row group at a time."""
    count = len(windows)
    found: dict[str, Any] = {
        "slice": windows.slice,
        "document": windows.document,
        "words": windows.words,
        "bytes": windows.bytes,
        "scored": np.zeros(count, np.int64),
    }
    for group in _row_groups(table):
        window = group.pop("window")
        group.pop("position")
        found["scored"] += np.bincount(window, minlength=count)
        for name, values in group.items():
            wide = values.astype(np.float64)
            for prefix, weights in (("sum", wide), ("square", wide * wide)):
                key = f"{prefix}_{name}"
                sums = np.bincount(window, weights, minlength=count)
                found[key] = found.get(key, 0.0) + sums
    return found


def _row_groups(table: Path) -> Iterator[dict[str, Any]]:
    file = pq.ParquetFile(table)
    for index in range(file.num_row_groups):
        group = file.read_row_group(index)
        yield {name: group[name].to_numpy() for name in group.column_names}
