"""What fits on a card and how fast it could be, before anything is loaded. Pure: no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evalkit.analysis.architecture import ModelShape
from evalkit.analysis.cards import Card
from evalkit.analysis.footprint import (
    CUDA,
    Runtime,
    Scheme,
    WeightBytes,
    decode_bytes,
    kv_bytes_per_token,
    kv_cache_bytes,
    prefill_bytes,
    weight_bytes,
)
from evalkit.analysis.roofline import decode_expected, decode_roofline, prefill_roofline
from evalkit.displayable import Displayable
from evalkit.errors import UsageError

SCHEMA = "evalkit.plan/1"
# Beyond it no card of today is asked for; it ends the search for the largest batch.
MOST_SEQUENCES = 2**16


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of one batch and context; `runtime` is what is around the tensors.

    `loading` is what stands beside the weights only while they are loaded.
    """

    weights: WeightBytes
    kv_cache: float
    prefill: float
    decode: float
    runtime: float
    loading: float = 0.0

    @property
    def activations(self) -> float:
        """The larger of the activations of prefill and of decode."""
        return max(self.prefill, self.decode)

    @property
    def total(self) -> float:
        """The most there is at once: while running, or while loading."""
        running = self.kv_cache + self.activations + self.runtime
        return self.weights.total + max(running, self.loading)


@dataclass(frozen=True)
class PlanRow:
    """One variant: its memory, what fits beside it, and tokens/s of all sequences together.

    `max_batch` holds at the plan's context, `max_context` at its batch; 0 where nothing fits.
    """

    variant: str
    scheme: Scheme
    memory: Memory
    kv_cache_bytes_per_token: float
    headroom_bytes: float
    max_batch: int
    max_context: int
    decode_roofline: float
    decode_expected: float
    prefill_roofline: float

    def bits_per_weight(self, shape: ModelShape) -> float:
        """Bits of all weights over the parameters of the unquantized model."""
        return 8 * self.memory.weights.total / shape.parameters

    def bits_per_quantized_weight(self, shape: ModelShape) -> float | None:
        """Bits of the quantized matrices, scales and zeros, over their weights; None for none."""
        if not self.scheme.quantized:
            return None
        return 8 * self.memory.weights.quantized / shape.linear_elements

    @property
    def fits(self) -> bool:
        """Whether the total is within the card's memory."""
        return self.headroom_bytes >= 0


@dataclass(frozen=True, repr=False)
class Plan(Displayable):
    """Rows of one model on one card at one context and batch.

    `prefill_chunk` is tokens of a prompt pass at most, 0 for all prompts in one pass. `refused`
    are variants that cannot be made of the model, with the reason; `notes` say how names that
    were left out were chosen.
    """

    shape: ModelShape
    card: Card
    context: int
    batch: int
    prefill_chunk: int
    runtime: Runtime
    rows: tuple[PlanRow, ...]
    refused: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def plan(
    shape: ModelShape,
    schemes: Sequence[tuple[str, Scheme]],
    card: Card,
    context: int,
    batch: int = 1,
    *,
    prefill_chunk: int = 0,
    runtime: Runtime = CUDA,
    refused: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Plan:
    """Plan every variant of `schemes` (its name and scheme) on `card`.

    Raises UsageError for a context beyond the model's positions, or numbers below 1.
    """
    check_numbers(context, batch, prefill_chunk)
    if shape.max_context and context > shape.max_context:
        raise UsageError(
            f"--context {context} is beyond the {shape.max_context} positions of {shape.name}: "
            f"give at most {shape.max_context}"
        )
    bare = Plan(
        shape, card, context, batch, prefill_chunk, runtime, (), tuple(refused), tuple(notes)
    )
    rows = tuple(_row(bare, name, scheme) for name, scheme in schemes)
    return dataclasses.replace(bare, rows=rows)


def memory(
    shape: ModelShape,
    scheme: Scheme,
    batch: int,
    context: int,
    *,
    prefill_chunk: int = 0,
    runtime: Runtime = CUDA,
    mapped: float = 0.0,
) -> Memory:
    """Memory of `batch` sequences of `context` tokens: prompts are read, then tokens decoded.

    Prompts are read in passes of at most `prefill_chunk` tokens, 0 for all in one pass. On CPU
    `mapped` bytes of a weights file stand beside the weights while these are made of it.
    """
    rows, length = _pass(batch, context, prefill_chunk)
    work = scheme.cpu if runtime.name == "CPU" else scheme.cuda
    cache = kv_cache_bytes(shape, scheme, batch, context)
    prefill = prefill_bytes(shape, scheme, rows, length, work)
    decode = decode_bytes(shape, scheme, batch, context, work)
    loading = mapped + runtime.fixed
    return Memory(weight_bytes(shape, scheme, work), cache, prefill, decode, runtime.fixed, loading)


def check_numbers(context: int | None, batch: int, prefill_chunk: int = 0) -> None:
    """Raise UsageError for a context, batch or chunk that no model could run."""
    if batch < 1:
        raise UsageError(f"--batch {batch} is no number of sequences: give at least 1")
    if context is not None and context < 1:
        raise UsageError(f"--context {context} is no number of tokens: give at least 1")
    if prefill_chunk < 0:
        raise UsageError(f"--prefill-chunk {prefill_chunk} is no number of tokens: give 1 or more")


def most_sequences(plan: Plan, scheme: Scheme, prefill_chunk: int) -> int:
    """The largest batch that fits at the plan's context, 0 for none."""
    return _largest(
        lambda batch: _fits(plan, scheme, batch, plan.context, prefill_chunk), MOST_SEQUENCES
    )


def longest_context(plan: Plan, scheme: Scheme) -> int:
    """The longest context within the model's positions that fits at the plan's batch, or 0."""
    return _largest(
        lambda context: _fits(plan, scheme, plan.batch, context, plan.prefill_chunk),
        plan.shape.max_context or plan.context,
    )


def _row(plan: Plan, name: str, scheme: Scheme) -> PlanRow:
    shape, card, batch, context = plan.shape, plan.card, plan.batch, plan.context
    needed = _memory(plan, scheme, batch, context, plan.prefill_chunk)
    return PlanRow(
        variant=name,
        scheme=scheme,
        memory=needed,
        kv_cache_bytes_per_token=kv_bytes_per_token(shape, scheme),
        headroom_bytes=card.memory - needed.total,
        max_batch=most_sequences(plan, scheme, plan.prefill_chunk),
        max_context=longest_context(plan, scheme),
        decode_roofline=decode_roofline(shape, scheme, card, batch),
        decode_expected=decode_expected(shape, scheme, card, batch, context),
        prefill_roofline=prefill_roofline(shape, scheme, card, batch, context),
    )


def _memory(plan: Plan, scheme: Scheme, batch: int, context: int, prefill_chunk: int) -> Memory:
    return memory(
        plan.shape, scheme, batch, context, prefill_chunk=prefill_chunk, runtime=plan.runtime
    )


def _fits(plan: Plan, scheme: Scheme, batch: int, context: int, prefill_chunk: int) -> bool:
    return _memory(plan, scheme, batch, context, prefill_chunk).total <= plan.card.memory


def _pass(batch: int, context: int, prefill_chunk: int) -> tuple[int, int]:
    """Sequences and tokens of each in one pass of the prefill."""
    if not prefill_chunk:
        return batch, context
    return max(1, min(batch, prefill_chunk // context)), min(context, prefill_chunk)


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """A number up to `most` that fits while the next one does not; 0 where 1 does not fit."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
