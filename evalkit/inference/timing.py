"""Timing of generation: prompts read in one pass, then one token a sequence a step.

Prefill multiplies every weight with every token of the prompt and is bound by arithmetic. Decode
reads every weight once a step, whatever the batch, and is bound by memory until the batch is
large. So they are timed apart. Generation never stops at the end-of-text token.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evalkit.inference.engines import Eager, Engine
from evalkit.models.context import context_limit


@dataclass(frozen=True)
class GenerationTime:
    """Seconds of the prefill pass and of each decode step."""

    prefill: float
    steps: tuple[float, ...]

    @property
    def decode(self) -> float:
        """Seconds of all decode steps together."""
        return sum(self.steps)


def generation_lengths(model: Any, prompt: int, generate: int) -> tuple[int, int]:
    """`prompt` and `generate` cut to the model's context, a quarter of it for generation."""
    limit = context_limit(model.config) or prompt + generate
    generate = min(generate, max(1, limit // 4))
    return max(1, min(prompt, limit - generate)), generate


def random_prompts(model: Any, batch: int, prompt: int) -> Tensor:
    """(batch, prompt) random ids, the same for every variant of a model, on its device."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (batch, prompt), generator=generator)
    return ids.to(model.get_input_embeddings().weight.device)


def time_generation(model: Any, prompt: int, generate: int) -> GenerationTime:
    """Time one prefill of `prompt` random tokens and `generate` greedy steps, batch 1, eager."""
    prompt, generate = generation_lengths(model, prompt, generate)
    engine = Eager(model)
    prefill, tokens = time_prefill(engine, random_prompts(model, 1, prompt))
    return GenerationTime(prefill, time_steps(engine, tokens, generate))


def time_prefill(engine: Engine, ids: Tensor) -> tuple[float, Tensor]:
    """Seconds of reading the prompts `ids` (batch, length), and the next tokens (batch, 1)."""
    clock = _clock(ids.device)
    with torch.inference_mode():
        clock.mark()
        tokens = engine.start(ids)
        clock.mark()
    return clock.seconds()[0], tokens


def time_steps(engine: Engine, tokens: Tensor, count: int) -> tuple[float, ...]:
    """Seconds of each of `count` decode steps behind a prefill that ended with `tokens`.

    On CUDA the times lie between events in the stream, so that steps queue up as they do in use;
    on a CPU the clock is read between steps.
    """
    clock = _clock(tokens.device)
    with torch.inference_mode():
        clock.mark()
        for _ in range(count):
            tokens = engine.step(tokens)
            clock.mark()
    return tuple(clock.seconds())


def _clock(device: torch.device) -> _Events | _Clock:
    return _Events() if device.type == "cuda" else _Clock()


class _Clock:
    """Marks of the wall clock; what runs on a CPU has finished when the call returns."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def mark(self) -> None:
        self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Seconds between one mark and the next."""
        return [b - a for a, b in zip(self._marks, self._marks[1:], strict=False)]


class _Events:
    """Marks in the CUDA stream, read when all have passed."""

    def __init__(self) -> None:
        torch.cuda.synchronize()
        self._marks: list[torch.cuda.Event] = []

    def mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def seconds(self) -> list[float]:
        """Seconds between one mark and the next."""
        torch.cuda.synchronize()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [a.elapsed_time(b) / 1000 for a, b in pairs]
