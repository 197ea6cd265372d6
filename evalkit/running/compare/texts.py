"""The quality pass over texts: windows, scoring batch by batch, folding into measurements."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from evalkit.analysis.decompose import PASSES
from evalkit.backends import spec_of
from evalkit.errors import DataError
from evalkit.metrics import TokenMetric, token_metrics
from evalkit.models.compute import weights_only
from evalkit.models.loading import load_tokenizer
from evalkit.models.vocabulary import require_embedded
from evalkit.progress import Listener
from evalkit.records import Measurement, Run, Suite
from evalkit.running.compare.decompose import decompose
from evalkit.running.compare.text_pass import Scoring
from evalkit.running.compare.worst_tokens import save_worst_tokens
from evalkit.running.job import NOISE_VERSION, Job, Part
from evalkit.running.remaining import add
from evalkit.running.session import Session, loaded
from evalkit.scoring.batching import plan_batches, short_rope_length
from evalkit.store.store import Store
from evalkit.texts.documents import load_texts
from evalkit.texts.encoding import text_encoder
from evalkit.texts.windows import Windows, make_windows

NOISE_TOKENS = 20_000
WEIGHTS_ONLY_VERSION = 1
_LEFT_OUT_SHARE = 0.05


def load_windows(store: Store, job: Job, part: Part) -> Windows:
    """The suite's windows: tokenised once, stored, and reused by every variant.

    Raises ModelError for a token that the model's embedding does not have.
    """
    file = store.windows_file(job.windows)
    windows = Windows.load(file) if file.exists() else _made_windows(job, part)
    rows = job.checkpoint.embedding_rows
    if rows is not None and int(windows.tokens.max()) >= rows:
        beyond = int(np.argmax(windows.tokens >= rows))
        text = int(windows.slice[np.searchsorted(windows.offsets, beyond, side="right") - 1])
        where = f"text {windows.slice_names[text]}"
        require_embedded(windows.tokens, _tokenizer(job), rows, where)
    if not file.exists():
        windows.save(file)
    return windows


def _made_windows(job: Job, part: Part) -> Windows:
    texts = load_texts(job.sources, limit=job.limit, offline=job.settings.offline)
    suite = part.run.suite
    if [text.sha256 for text in texts] != [text.sha256 for text in suite.texts]:
        raise DataError(f"{', '.join(job.sources)} changed while evalkit ran: run again")
    encoder = text_encoder(_tokenizer(job))
    return make_windows(encoder, texts, suite.convention, suite.context, bos=suite.bos)


def _tokenizer(job: Job) -> PreTrainedTokenizerBase:
    return load_tokenizer(job.checkpoint.path, trust_remote_code=job.settings.trust_remote_code)


def measure_texts(store: Store, part: Part, run: Run, session: Session, send: Listener) -> Run:
    """Score all windows, and for the baseline record its reference and the noise floor.

    Where there are no distributions to compare (`job.divergence`), only the likelihood of the
    text itself is measured.
    """
    job = session.job
    windows = load_windows(store, job, part)
    if not set(PASSES).isdisjoint(part.missing(run, job.environment.machine)):
        apart = Scoring(store, run, windows, session, send)
        run = add(store, run, decompose(apart, part, _noise_sample(windows)))
    told = (*run.notes, *session.quality_notes, *_left_out(windows, part.run.suite))
    run = dataclasses.replace(run, notes=tuple(dict.fromkeys(told)))
    again = float(windows.scored[list(_noise_sample(windows))].sum()) * job.is_baseline
    scoring = Scoring(store, run, windows, session, send, again)
    convention = part.run.suite.convention
    metrics = token_metrics(convention, is_baseline=job.is_baseline, divergence=job.divergence)
    table = scoring.table(part.baseline or "self")
    record = scoring.record(table)
    reference = scoring.reference() if record is None else None
    noted = scoring.score(table, metrics, reference=reference, record=record)
    scoring.put_together(table)
    if record is not None:
        record.complete()
    elif not job.is_baseline:
        _save_worst_tokens(scoring, table)
    run = dataclasses.replace(run, notes=tuple(dict.fromkeys((*run.notes, *noted))))
    measured = [_measurement(store, metric, table, part) for metric in metrics]
    if reference is not None and reference.layout.dtype != _dtype(session):
        alone = _weights_only(scoring, metrics, reference.layout.dtype, part.baseline)
        measured += alone
        if not alone and spec_of(job.variant).quantizes:
            note = f"the divergence holds {_dtype(session)}'s rounding: its weights alone, in the"
            note = f"{note} baseline's {reference.layout.dtype}, cannot be scored"
            run = dataclasses.replace(run, notes=(*run.notes, note))
    if job.is_baseline:
        noisy = token_metrics(convention, is_baseline=False, divergence=job.divergence)
        measured.append(_noise(scoring, noisy))
    return add(store, run, measured)


def _left_out(windows: Windows, suite: Suite) -> tuple[str, ...]:
    """A note where more of the texts stands in no window than ends of texts commonly do."""
    left_out, held = int(windows.left_out.sum()), int(windows.lengths.sum())
    if left_out <= _LEFT_OUT_SHARE * (left_out + held):
        return ()
    cut = "documents are cut" if suite.convention == "document" else "the last window is not full"
    return (
        f"{left_out:,} of {left_out + held:,} tokens of the texts are not scored: {cut} at"
        f" {suite.context} tokens (convention {suite.convention}); lm-eval scores all",
    )


def _save_worst_tokens(scoring: Scoring, table: Path) -> None:
    """Write the worst tokens beside `table`, where the baseline's values are at hand."""
    baseline = scoring.store.raw(scoring.job.reference) / "tokens-self.parquet"
    if baseline.exists():
        save_worst_tokens(table, baseline, scoring.windows, scoring.session.tokenizer)


def measure_share(store: Store, part: Part, session: Session, send: Listener) -> None:
    """Score the windows of `part.share`, and write their raw values only.

    Share i of n has every nth batch of the plan of all windows, from the ith on: batches are those
    of one process, and so are the values.
    """
    assert part.share is not None
    number, count = part.share
    job = session.job
    windows = load_windows(store, job, part)
    scoring = Scoring(store, part.run, windows, session, send)
    batches = plan_batches(
        windows.lengths - 1,
        job.settings.batch_tokens,
        boundary=short_rope_length(loaded(session).scoring_model.config),
    )[number::count]
    if not batches:
        return
    metrics = token_metrics(
        part.run.suite.convention, is_baseline=job.is_baseline, divergence=job.divergence
    )
    table = scoring.table(part.baseline or "self")
    record = scoring.record(table)
    scoring.score(
        table,
        metrics,
        reference=scoring.reference() if record is None else None,
        record=record,
        only=frozenset(map(int, np.concatenate(batches))),
        writer=f"share-{number:04d}",
    )


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
    scoring.score(
        table,
        metrics,
        reference=scoring.reference(),
        only=_noise_sample(scoring.windows),
        batch_tokens=max(1, scoring.job.settings.batch_tokens // 2),
        stage="scoring again",
        before=float(scoring.windows.scored.sum()),
    )
    scoring.put_together(table)
    return Measurement(
        metric="noise",
        version=NOISE_VERSION,
        unit="",
        direction="none",
        table=str(table.relative_to(scoring.store.root)),
        convention="the baseline scored again with half the batch",
        details={"metrics": _folds(metrics)},
    )


def _folds(metrics: list[TokenMetric]) -> dict[str, dict[str, str]]:
    """How the table of a further pass becomes the value of each metric."""
    return {
        m.name: {
            "column": m.column,
            "summary": m.summary,
            "direction": m.direction,
            "unit": m.unit,
        }
        for m in metrics
    }


def _dtype(session: Session) -> str:
    return str(loaded(session).scoring_model.dtype).removeprefix("torch.")


def _weights_only(
    scoring: Scoring, metrics: list[TokenMetric], dtype: str, baseline: str
) -> list[Measurement]:
    """Score a sample with the variant's weights in the baseline's arithmetic, if it can be.

    A variant in bfloat16 beside a baseline in float16 would have bfloat16's rounding counted as
    what quantizing did.
    """
    own, table = _dtype(scoring.session), scoring.table("weights")
    with weights_only(loaded(scoring.session).loaded, getattr(torch, dtype)) as possible:
        if not possible:
            return []
        scoring.score(
            table,
            metrics,
            reference=scoring.reference(),
            only=_noise_sample(scoring.windows),
            stage="scoring its weights alone",
        )
    scoring.put_together(table)
    return [
        Measurement(
            metric="weights_only",
            version=WEIGHTS_ONLY_VERSION,
            unit="",
            direction="none",
            table=str(table.relative_to(scoring.store.root)),
            convention=f"weights unpacked, in the baseline's {dtype}",
            baseline=baseline,
            details={"metrics": _folds(metrics), "dtype": dtype, "own_dtype": own},
        )
    ]


def _noise_sample(windows: Windows) -> frozenset[int]:
    """Evenly spread windows of about NOISE_TOKENS scored tokens."""
    step = max(1, int(windows.scored.sum()) // NOISE_TOKENS)
    return frozenset(range(0, len(windows), step))
