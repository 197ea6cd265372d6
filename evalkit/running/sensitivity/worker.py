"""Measuring a damage map in a process of its own: load both, exchange, score, store as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from evalkit.backends import with_quantized_cache
from evalkit.errors import VariantError
from evalkit.models.loading import Loaded
from evalkit.models.plain_weights import PlainWeights
from evalkit.models.storage import tensor_bytes
from evalkit.progress import Event, Listener
from evalkit.records.sensitivity import Sensitivity
from evalkit.running.compare.texts import load_windows
from evalkit.running.process import stop_if_asked
from evalkit.running.sensitivity.gradient import measure_gradients
from evalkit.running.sensitivity.measuring import Measuring
from evalkit.running.sensitivity.passes import Passes
from evalkit.running.sensitivity.pieces import (
    WHOLE,
    Differences,
    differences,
    everything,
    pieces_of,
)
from evalkit.running.sensitivity.plan import SensitivityWork
from evalkit.running.sensitivity.result import Bytes, Found, gradient_map, sensitivity
from evalkit.running.sensitivity.values import Values
from evalkit.running.session import LoadedSession, loaded, open_variant
from evalkit.store.claims import claim
from evalkit.store.store import Store
from evalkit.texts.windows import Windows


def measure_sensitivity(work: SensitivityWork, send: Listener) -> Sensitivity:
    """The damage map, with what the store has of it; raises EvalkitError in one line."""
    started = time.monotonic()
    with _opened(work, send) as (found, differing, notes):
        if work.options["method"] == "gradient":
            measure_gradients(found, differing, send)
            return gradient_map(found, notes)
        passes = _passes(found, differing)
        measuring = Measuring(found, passes, started, send)
        measuring.run()
        noted = (*notes, *passes.notes, *measuring.notes)
        return sensitivity(found, noted, complete=measuring.complete)


def measure_share(work: SensitivityWork, send: Listener) -> None:
    """Measure the pieces of `work.share` and store their values only."""
    with _opened(work, send) as (found, differing, _):
        Measuring(found, _passes(found, differing), time.monotonic(), send, work.share).run()


@contextmanager
def _opened(
    work: SensitivityWork, send: Listener
) -> Iterator[tuple[Found, Differences, tuple[str, ...]]]:
    """Both variants loaded and compared: the pieces, what they differ in, and notes on both."""
    store, label = Store(work.baseline.store), work.variant.variant.label
    with (
        claim(store.claim_file(work.claim), lambda who: _wait(label, send, who)),
        open_variant(work.baseline, send) as first,
        open_variant(work.variant, send) as second,
    ):
        baseline, variant = loaded(first), loaded(second)
        # Before the quality pass casts the one and unpacking changes the other.
        own, theirs = _stored(baseline.loaded), _stored(variant.loaded)
        model, weights = _exchangeable(baseline, work), _weights(variant.loaded)
        differing = differences(model, weights, _advance(label, "comparing weights", send))
        pieces = pieces_of(differing, work.by, cache=work.has_cache)
        windows = load_windows(store, work.baseline, work.part)
        chosen = sample(windows, work.options["tokens"])
        values = Values(store.raw(work.key), windows)
        found = Found(work, pieces, Bytes(own, theirs, weights), values, chosen)
        yield found, differing, (*baseline.quality_notes, *variant.notes)


def _passes(found: Found, differing: Differences) -> Passes:
    work = found.work
    return Passes(
        differing,
        found.values.windows,
        everything(found.pieces, WHOLE),
        work.direction,
        work.baseline.settings.batch_tokens,
    )


def sample(windows: Windows, tokens: int) -> frozenset[int]:
    """Evenly spread windows with about `tokens` scored tokens; all of them for 0."""
    step = max(1, round(int(windows.scored.sum()) / tokens)) if tokens else 1
    return frozenset(range(0, len(windows), step))


def _stored(one: Loaded) -> dict[str, int] | None:
    """Bytes by name of tensor; None where the file holds others than what was unpacked from it."""
    return None if one.unpacked else tensor_bytes(one.model, one.formats)


def _exchangeable(baseline: LoadedSession, work: SensitivityWork) -> PreTrainedModel:
    """The baseline with the arithmetic of the quality pass, and the variant's KV cache in it."""
    held = Loaded(baseline.scoring_model, baseline.kernel)
    return with_quantized_cache(held, work.variant.variant).model


def _weights(variant: Loaded) -> PlainWeights:
    """The variant's weights, loaded once more where its kernels keep them in their own order."""
    try:
        return PlainWeights(variant.model, variant.formats)
    except VariantError:
        if variant.unpackable is None:
            raise
    variant.model = variant.unpackable()
    return PlainWeights(variant.model, variant.formats)


def _wait(label: str, send: Listener, who: str) -> None:
    send(Event(label, "", message=f"waiting for {who}, which measures it now"))


def _advance(label: str, stage: str, send: Listener) -> Callable[[int, int], None]:
    def advance(done: int, total: int) -> None:
        send(Event(label, stage, done, total, "weights"))
        stop_if_asked()

    return advance
