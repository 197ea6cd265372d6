"""The quality pass over texts: windows, scoring batch by batch, folding into measurements."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from evalkit.errors import DataError
from evalkit.metrics import TokenMetric, token_metrics
from evalkit.metrics._spec import Columns
from evalkit.models.loading import Loaded, load_tokenizer
from evalkit.progress import Event, Listener
from evalkit.records import Measurement, Run
from evalkit.running.children import stop_if_asked
from evalkit.running.gather import windows_table
from evalkit.running.jobs import NOISE_VERSION, Part, VariantJob
from evalkit.scoring.endpoint_lm import ServedModel
from evalkit.scoring.engine import ScoredBatch, score_windows
from evalkit.scoring.reference import Reference, ReferenceWriter
from evalkit.store.files import write_parquet
from evalkit.store.parts import Parts
from evalkit.store.store import Store
from evalkit.suites.encoding import text_encoder
from evalkit.suites.texts import load_texts
from evalkit.suites.windows import Windows, make_windows

NOISE_TOKENS = 20_000


def load_windows(store: Store, job: VariantJob, part: Part) -> Windows:
    """The suite's windows: tokenised once, stored, and reused by every variant."""
    file = store.windows_file(job.windows)
    if file.exists():
        return Windows.load(file)
    texts = load_texts(job.sources, limit=job.limit, offline=job.settings.offline)
    expected = [text.sha256 for text in part.run.suite.texts]
    if [text.sha256 for text in texts] != expected:
        raise DataError(f"{', '.join(job.sources)} changed while evalkit ran: run again")
    suite = part.run.suite
    tokenizer = load_tokenizer(job.checkpoint.path)
    windows = make_windows(
        text_encoder(tokenizer), texts, suite.convention, suite.context, bos=suite.bos
    )
    windows.save(file)
    return windows


def measure_texts(
    store: Store,
    job: VariantJob,
    part: Part,
    run: Run,
    loaded: Loaded | ServedModel,
    send: Listener,
) -> Run:
    """Score all windows, and for the baseline record its reference and the noise floor.

    Where there are no distributions to compare (`job.divergence`), only the likelihood of the
    text itself is measured.
    """
    from evalkit.models.compute import for_scoring
    from evalkit.running.worker import add

    windows = load_windows(store, job, part)
    if isinstance(loaded, Loaded):
        loaded = for_scoring(loaded, job.device)
    run = dataclasses.replace(run, notes=tuple(dict.fromkeys((*run.notes, *loaded.notes))))
    scoring = Scoring(store, job, run, windows, loaded, send)
    convention = part.run.suite.convention
    metrics = token_metrics(convention, is_baseline=job.is_baseline or not job.divergence)
    table = scoring.table(part.baseline or "self")
    if job.is_baseline and isinstance(loaded, Loaded):
        directory = store.reference(job.reference)
        if not directory.exists():
            scoring.forget(table)
        writer = ReferenceWriter.open(directory, loaded.model, windows)
        noted = scoring.run_pass(table, metrics, record=writer)
        writer.complete()
    else:
        noted = scoring.run_pass(table, metrics, reference=scoring.reference())
    run = dataclasses.replace(run, notes=tuple(dict.fromkeys((*run.notes, *noted))))
    measured = [_measurement(store, metric, table, part) for metric in metrics]
    if job.is_baseline:
        noisy = token_metrics(convention, is_baseline=not job.divergence)
        measured.append(_noise(scoring, noisy))
    return add(store, run, measured)


@dataclasses.dataclass(frozen=True)
class Scoring:
    """One loaded variant and the windows it scores; a pass fills one per-token table."""

    store: Store
    job: VariantJob
    run: Run
    windows: Windows
    loaded: Loaded | ServedModel
    send: Listener

    def table(self, name: str) -> Path:
        """Where the per-token values of pass `name` are stored."""
        return self.store.raw(self.run.id) / f"tokens-{name}.parquet"

    def reference(self) -> Reference | None:
        """The baseline's logits, rebuilt from its stored hidden states; None where it has none."""
        if not self.job.divergence or isinstance(self.loaded, ServedModel):
            return None
        folder = self.store.reference(self.job.reference)
        return Reference.open(folder, self.loaded.model, self.windows)

    def forget(self, table: Path) -> None:
        """Remove a pass, so that it is measured again."""
        self._parts(table).clear()
        table.unlink(missing_ok=True)
        windows_table(table).unlink(missing_ok=True)

    def run_pass(
        self,
        table: Path,
        metrics: list[TokenMetric],
        *,
        reference: Reference | None = None,
        record: ReferenceWriter | None = None,
        only: frozenset[int] | None = None,
        batch_tokens: int | None = None,
    ) -> tuple[str, ...]:
        """Score what `table` lacks, batch by batch, then fold it into per-window sums.

        Returns what is worth noting: halved batches, a reference of whole logits.
        """
        notes: dict[str, None] = {}
        if not table.exists():
            parts = self._parts(table)
            skipped = (
                frozenset(range(len(self.windows))) - only if only is not None else frozenset()
            )
            done = parts.done()
            needs = frozenset(name for metric in metrics for name in metric.needs)
            batches = self._batches(
                batch_tokens=batch_tokens or self.job.settings.batch_tokens,
                statistics=needs,
                reference=reference,
                record=record,
                done=done | skipped,
            )
            scored = self.windows.scored.astype(np.float64)
            total = scored.sum() - scored[list(skipped)].sum()
            event = Event(
                self.job.variant.label, "scoring", scored[list(done)].sum(), total, "tokens"
            )
            self.send(event)
            for batch in batches:
                parts.append(_columns(batch.columns, metrics))
                event = dataclasses.replace(event, done=event.done + scored[batch.windows].sum())
                self.send(event)
                notes |= dict.fromkeys(batch.notes)
                stop_if_asked()
            parts.merge(table)
        if not windows_table(table).exists():
            write_parquet(windows_table(table), _fold(table, self.windows))
        return tuple(notes)

    def _batches(self, **how: Any) -> Iterator[ScoredBatch]:
        if isinstance(self.loaded, ServedModel):
            return self.loaded.scored(self.windows, how["done"])
        return score_windows(self.loaded.model, self.windows, **how)

    def _parts(self, table: Path) -> Parts:
        return Parts(table.with_name(table.stem.replace("tokens", "parts", 1)), "window")


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


def _measurement(store: Store, metric: TokenMetric, table: Path, part: Part) -> Measurement:
    suite = part.run.suite
    return Measurement(
        metric=metric.name,
        version=metric.version,
        unit=metric.unit,
        direction=metric.direction,
        table=str(table.relative_to(store.root)),
        convention=f"{suite.convention}, context {suite.context}, BOS {suite.bos}",
        baseline=part.baseline,
        details={"column": metric.column, "summary": metric.summary},
    )


def _noise(scoring: Scoring, metrics: list[TokenMetric]) -> Measurement:
    """Score the baseline again, with half the batch, against its own reference."""
    table = scoring.table("noise")
    scoring.run_pass(
        table,
        metrics,
        reference=scoring.reference(),
        only=_noise_sample(scoring.windows),
        batch_tokens=max(1, scoring.job.settings.batch_tokens // 2),
    )
    folds = {
        m.name: {"column": m.column, "summary": m.summary, "direction": m.direction}
        for m in metrics
    }
    return Measurement(
        metric="noise",
        version=NOISE_VERSION,
        unit="",
        direction="none",
        table=str(table.relative_to(scoring.store.root)),
        convention="the baseline scored again with half the batch",
        details={"metrics": folds},
    )


def _noise_sample(windows: Windows) -> frozenset[int]:
    """Evenly spread windows of about NOISE_TOKENS scored tokens."""
    step = max(1, int(windows.scored.sum()) // NOISE_TOKENS)
    return frozenset(range(0, len(windows), step))
