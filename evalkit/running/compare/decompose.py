"""`--decompose`: a variant's weights without its kernel, and its kernel against its own weights.

Three passes over a sample of the windows: the unpacked weights in the baseline's arithmetic and the
variant's own kernels, each against the baseline, and the own kernels against the unpacked weights.
On a CPU the quality pass itself computes with unpacked weights in float32, so the kernels that
serve are seen here alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from evalkit.analysis.decompose import DIRECT, PASSES, SERVED, WEIGHTS
from evalkit.metrics import token_metrics
from evalkit.models.compute import weights_only
from evalkit.records import Measurement
from evalkit.running.compare.text_pass import Scoring
from evalkit.running.job import DECOMPOSED_VERSION, Part
from evalkit.running.session import loaded
from evalkit.scoring.reference import Reference, ReferenceWriter

_KL = "kl_divergence_mean"


def decompose(scoring: Scoring, part: Part, sample: frozenset[int]) -> list[Measurement]:
    """The three passes over the windows of `sample`; measurements with a reason where none can be.

    It comes before the quality pass, which on a CPU replaces the variant's layers.
    """
    session = loaded(scoring.session).as_served()
    scoring = dataclasses.replace(scoring, session=session)
    tables = {name: scoring.table(name.replace("_", "-")) for name in PASSES}
    for table in tables.values():
        # Unpacked rows are kept in memory: an interrupted pass begins anew.
        scoring.forget(table)
    model = session.scoring_model
    reference = scoring.reference()
    assert reference is not None
    dtype = reference.layout.dtype
    metrics = [m for m in token_metrics("", is_baseline=False) if m.name == _KL]
    with weights_only(session.loaded, getattr(torch, dtype), activations=True) as possible:
        if not possible:
            reason = "it holds no layers that can be unpacked"
            return [_measurement(name, part, {"reason": reason}) for name in PASSES]
        kept = ReferenceWriter.in_memory(model, scoring.windows)
        # Opened here, in the baseline's arithmetic.
        scoring.score(
            tables[WEIGHTS], metrics, reference=scoring.reference(), record=kept, only=sample,
            stage="scoring its weights alone",
        )  # fmt: skip
    against = {SERVED: scoring.reference(), DIRECT: Reference.kept(kept, model, scoring.windows)}
    for name, one in against.items():
        scoring.score(
            tables[name], metrics, reference=one, only=sample, stage="scoring its own kernels"
        )
    found = []
    for name, table in tables.items():
        scoring.put_together(table)
        details = {"dtype": dtype, "kernel": session.kernel}
        path = str(table.relative_to(scoring.store.root))
        found.append(_measurement(name, part, details, path))
    return found


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
