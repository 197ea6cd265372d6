"""Refusing in seconds what would fail after an hour: the cheap checks of `evalkit doctor`.

They run twice: before a model is fetched, and before anything is quantized or measured. What the
store holds already is answered by any machine, so that nothing is checked for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evalkit.backends import needs_memory
from evalkit.errors import ModelError
from evalkit.models import hub
from evalkit.models.resolve import is_here, repository
from evalkit.running.disk import bytes_written
from evalkit.running.doctor.machine import refuse_unready
from evalkit.running.job import Job

# INT4 takes at least a quarter of 16 bits.
_SMALLEST_CHECKPOINT = 0.25


def refuse_fetching(
    model: str, card: str, store: Path, *, offline: bool, card_holds_model: bool = True
) -> None:
    """Raise UsageError before `model` is fetched where this machine could do nothing with it.

    `card` is the word of the card to be used, "" for a CPU. Nothing is said of a model that is here
    or that the hub says nothing of: to fetch it tells why. Without `card_holds_model` the card need
    not have room for a whole variant.
    """
    found = repository(model)
    if found is None or offline or is_here(model):
        return
    try:
        size = hub.download_bytes(found)
    except ModelError:
        return
    left = max(0, size - hub.cached_bytes(found))
    refuse_unready(card or "cpu", size if card_holds_model else 0.0, store, 0.0, fetched=left)


def refuse_measuring(jobs: Sequence[Job], text_bytes: float = 0.0) -> None:
    """Raise UsageError where this machine cannot measure `jobs`, which are left to be done.

    `text_bytes` is the size of the texts that they score.
    """
    if not jobs:
        return
    weights = jobs[0].checkpoint.weight_bytes
    on_card = weights if any(needs_memory(job.variant) for job in jobs) else 0.0
    written = bytes_written(jobs, text_bytes)
    refuse_unready(jobs[0].gpu or "cpu", on_card, jobs[0].store, written)


def refuse_quantizing(card: str, weights: float, out: Path) -> None:
    """Raise UsageError where a model of `weights` bytes cannot be quantized into `out` here.

    Its layers go to the card one at a time, so that the card need not hold the model.
    """
    refuse_unready(card or "cpu", 0.0, out, weights * _SMALLEST_CHECKPOINT)
