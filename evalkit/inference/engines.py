"""Engines of decode: how one step of greedy generation is launched.

A step of a small batch reads every weight once and computes little, so what surrounds the kernels
(Python, allocation, hundreds of launches) can take longer than the kernels. `eager` runs the model
as it is on a cache that grows; `graph` records a step on a cache of fixed size as one CUDA graph
and replays it; `compile` lets torch.compile fuse the step. All three make the same tokens.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evalkit.errors import VariantError, is_out_of_memory
from evalkit.inference.compiled_step import CompiledStep
from evalkit.models.caches import kept_of, last_logits_only
from evalkit.models.step_cache import StepCache
from evalkit.models.toolchain import missing_for_triton
from evalkit.scoring.batching import short_rope_length

# Steps before a capture, so that every lazily made buffer and kernel is there.
_WARM_STEPS = 3
_COMPARED_STEPS = 16


class Engine(Protocol):
    """Greedy generation of a fixed batch: a prompt, then one token a sequence a step."""

    name: str

    def start(self, ids: Tensor) -> Tensor:
        """Read prompts (batch, length) into an empty cache; return the next tokens (batch, 1)."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append `tokens` (batch, 1) and return the next ones."""

    def release(self) -> None:
        """Let keys and values go, before another engine makes its own; the engine is done."""


def _next(logits: Tensor) -> Tensor:
    return logits[:, -1:].argmax(-1)


class Eager:
    """The model as it is, on a cache that grows by a token a step."""

    name = "eager"

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.cache: Any = None

    def start(self, ids: Tensor) -> Tensor:
        """Read the prompts; see Engine. Raises VariantError where nothing is kept of them."""
        output = self.model(input_ids=ids, use_cache=True, **last_logits_only(self.model))
        self.cache = kept_of(output)
        if not self.cache:
            raise VariantError(
                f"{type(self.model).__name__} keeps nothing of a text: it would read it anew for"
                " every token"
            )
        return _next(output.logits)

    def step(self, tokens: Tensor) -> Tensor:
        """One forward pass; see Engine."""
        output = self.model(input_ids=tokens, use_cache=True, **self.cache)
        self.cache = kept_of(output)
        return _next(output.logits)

    def release(self) -> None:
        """Let the cache go; see Engine."""
        self.cache = None


class _Static(ABC):
    """A cache of `length` positions that stays in place, for steps that are recorded once."""

    def __init__(self, model: PreTrainedModel, length: int) -> None:
        self.model = model
        self.cache: Any = StepCache(model.config.get_text_config(), length)
        limit = short_rope_length(model.config)
        # Tokens at which the rotary factors change, where this text can have as many.
        self._boundary = limit if limit is not None and limit < length else None
        self._text: list[Tensor] = []
        self._length = 0

    def start(self, ids: Tensor) -> Tensor:
        """Read the prompts; see Engine."""
        self._text, self._length = [ids], ids.shape[1]
        with self.cache.reading():
            return self._whole_step(ids)

    def step(self, tokens: Tensor) -> Tensor:
        """One step; see Engine. Where the rotary factors change, the text is read anew."""
        if self._boundary is not None:
            self._text.append(tokens)
            if self._length == self._boundary:
                return self.start(torch.cat(self._text, 1))
        self._length += 1
        return self._replay(tokens)

    def release(self) -> None:
        """Let the cache go; see Engine."""
        self.cache, self._text = None, []

    @abstractmethod
    def _replay(self, tokens: Tensor) -> Tensor:
        """One step as it was recorded, with other tokens (batch, 1)."""

    def _whole_step(self, tokens: Tensor) -> Tensor:
        """The recorded work: from tokens (batch, length) to the next ones (batch, 1)."""
        output = self.model(
            input_ids=tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1
        )
        return _next(output.logits)


class Compiled(_Static):
    """One step compiled by torch.compile; on a CPU the compiled step is recorded and replayed."""

    name = "compile"

    def __init__(self, model: PreTrainedModel, length: int) -> None:
        super().__init__(model, length)
        on_cuda = model.device.type == "cuda"
        if on_cuda and (missing := missing_for_triton()):
            raise VariantError(f"torch.compile needs {missing}: install it")
        self._compiled: Callable[[Tensor], Tensor]
        if not on_cuda and self.cache.steps_are_alike:
            from evalkit.inference.fused_step import FusedStep

            self._compiled = FusedStep(self._whole_step)
        else:
            mode = "reduce-overhead" if on_cuda else None
            self._compiled = CompiledStep(self._whole_step, mode=mode)

    def _replay(self, tokens: Tensor) -> Tensor:
        return self._compiled(tokens).clone()

    def release(self) -> None:
        """Let the cache and the compiled step go; see Engine."""
        super().release()
        del self._compiled


class Graphed(_Static):
    """One step captured as a CUDA graph, replayed for each token."""

    name = "graph"

    def __init__(self, model: PreTrainedModel, length: int) -> None:
        super().__init__(model, length)
        if not self.cache.steps_are_alike:
            raise VariantError("a layer's cache is no plain one (a recurrent state, say)")
        self._graph: torch.cuda.CUDAGraph | None = None
        self._tokens = torch.empty(0)
        self._made = torch.empty(0)

    def _replay(self, tokens: Tensor) -> Tensor:
        """Replay the captured step; the first call captures it."""
        if self._graph is None:
            self._graph = self._capture(tokens)
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._made.clone()

    def _capture(self, tokens: Tensor) -> torch.cuda.CUDAGraph:
        self._tokens = tokens.clone()
        lengths = self.cache.lengths()
        current = torch.cuda.current_stream()
        stream = torch.cuda.Stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_STEPS):
                self._whole_step(self._tokens)
                self.cache.rewind(lengths)
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._made = self._whole_step(self._tokens)
        finally:
            # Where a capture fails, torch leaves its stream current for all that follows.
            torch.cuda.set_stream(current)
        self.cache.rewind(lengths)
        return graph

    def release(self) -> None:
        """Let the cache and the graph with its memory go; see Engine."""
        super().release()
        self._graph, self._tokens, self._made = None, torch.empty(0), torch.empty(0)


@dataclass(frozen=True)
class Prepared:
    """An engine that has made its first tokens: compilation and capture lie behind it.

    `seconds` is what that took; `differs_at` is the first generated token in which it differs
    from eager, None where all of those compared are equal.
    """

    engine: Engine
    seconds: float
    differs_at: int | None = None


def prepare_engine(name: str, model: PreTrainedModel, ids: Tensor, length: int) -> Prepared:
    """Make the engine and let it generate a little behind the prompts `ids` (batch, prompt).

    Raises VariantError where the model cannot be compiled or captured.
    """
    eager = Eager(model)
    with torch.inference_mode():
        if name == "eager":
            generate(eager, ids, 1)
            return Prepared(eager, 0.0)
        steps = min(_COMPARED_STEPS, length - ids.shape[1])
        wanted = generate(eager, ids, steps)
        eager.release()
        begun = time.perf_counter()
        engine = _make(name, model, length)
        try:
            found = generate(engine, ids, steps)
        except Exception as error:  # whatever tracing or capturing a foreign model may raise
            engine.release()
            if is_out_of_memory(error):
                raise
            raise _refused(name, error) from error
        seconds = time.perf_counter() - begun
    equal = (wanted == found).all(0).tolist()
    return Prepared(engine, seconds, None if all(equal) else equal.index(False))


def _make(name: str, model: PreTrainedModel, length: int) -> Engine:
    makers: dict[str, Any] = {"graph": Graphed, "compile": Compiled}
    try:
        engine: Engine = makers[name](model, length)
    except Exception as error:  # no static cache for this model, say
        raise _refused(name, error) from error
    return engine


def _refused(name: str, error: Exception) -> VariantError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return VariantError(f"engine {name} does not run this model: {first}")


def generate(engine: Engine, ids: Tensor, count: int) -> Tensor:
    """The `count` greedy tokens behind the prompts: (batch, count)."""
    tokens = [engine.start(ids)]
    while len(tokens) < count:
        tokens.append(engine.step(tokens[-1]))
    return torch.cat(tokens, 1)
