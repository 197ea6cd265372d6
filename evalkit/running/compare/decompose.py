"""`--decompose`: a variant's weights without its kernel, and its kernel against its own weights.

Three passes over a sample of the windows: the unpacked weights in the baseline's arithmetic and the
variant's own kernels, each against the baseline, and the own kernels against the unpacked weights.
On a CPU the quality pass itself computes with unpacked weights in float32, so the kernels that
serve are seen here alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from evalkit.analysis.decompose import DIRECT, PASSES, SERVED, WEIGHTS
from evalkit.metrics import TokenMetric, token_metrics
from evalkit.models.compute import fresh, weights_only
from evalkit.models.loading import Loaded
from evalkit.records import Measurement
from evalkit.running.compare.text_pass import Scoring
from evalkit.running.job import DECOMPOSED_VERSION, Part
from evalkit.running.session import loaded
from evalkit.scoring.reference import Reference, ReferenceWriter


def decompose(scoring: Scoring, part: Part, sample: frozenset[int]) -> list[Measurement]:
    """The three passes over the windows of `sample`; measurements with a reason where none can be.

    It comes before the quality pass, which on a CPU replaces the variant's layers.
    """
    session = loaded(scoring.session)
    session.loaded.model = fresh(session.loaded)
    served = dataclasses.replace(scoring, session=session.scored_as(session.loaded))
    tables = {name: scoring.table(name.replace("_", "-")) for name in PASSES}
    for table in tables.values():
        # Rows of the weights are kept in memory: an interrupted pass begins anew.
        scoring.forget(table)
    baseline = served.reference()
    assert baseline is not None
    dtype = baseline.layout.dtype
    kept = _score_weights(scoring, getattr(torch, dtype), tables[WEIGHTS], sample)
    if kept is None:
        reason = "it holds no layers that can be unpacked"
        return [_measurement(name, part, {"reason": reason}) for name in PASSES]
    own = Reference.kept(kept, session.loaded.model, scoring.windows)
    for name, reference in ((SERVED, baseline), (DIRECT, own)):
        stage = "scoring its own kernels"
        served.score(tables[name], _metrics(), reference=reference, only=sample, stage=stage)
    details = {"dtype": dtype, "kernel": session.kernel}
    for table in tables.values():
        scoring.put_together(table)
    return [
        _measurement(name, part, details, str(table.relative_to(scoring.store.root)))
        for name, table in tables.items()
    ]


def _score_weights(
    scoring: Scoring, dtype: torch.dtype, table: Path, sample: frozenset[int]
) -> ReferenceWriter | None:
    """Score the unpacked weights in `dtype`; their rows, or None where there are none to unpack."""
    session = loaded(scoring.session)
    with _weights(session.loaded, dtype) as alone:
        if alone is None:
            return None
        scoring = dataclasses.replace(scoring, session=session.scored_as(alone))
        kept = ReferenceWriter.in_memory(alone.model, scoring.windows)
        scoring.score(
            table, _metrics(), reference=scoring.reference(), record=kept, only=sample,
            stage="scoring its weights alone",
        )  # fmt: skip
        return kept


@contextlib.contextmanager
def _weights(variant: Loaded, dtype: torch.dtype) -> Iterator[Loaded | None]:
    """The variant while it computes with its unpacked weights in `dtype`; None where it cannot.

    Where its kernels keep their weights in an order of their own, these are loaded once more.
    """
    with weights_only(variant, dtype, activations=True) as possible:
        if possible or variant.unpackable is None:
            yield variant if possible else None
            return
    other = dataclasses.replace(variant, model=variant.unpackable())
    with weights_only(other, dtype, activations=True) as possible:
        yield other if possible else None


def _metrics() -> list[TokenMetric]:
    return [m for m in token_metrics("", is_baseline=False) if m.name == "kl_divergence_mean"]


def _measurement(
    name: str, part: Part, details: Mapping[str, Any], table: str | None = None
) -> Measurement:
    return Measurement(
        metric=name,
        version=DECOMPOSED_VERSION,
        unit="nats",
        direction="none",
        table=table,
        baseline=part.baseline,
        convention="a sample of the windows",
        details=dict(details),
    )
