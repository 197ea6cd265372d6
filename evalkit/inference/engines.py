"""Engines of decode: how one step of greedy generation is launched.

A step of a small batch reads every weight once and computes little, so what surrounds the kernels
(Python, allocation, hundreds of launches) can take longer than the kernels. `eager` runs the model
as it is on a cache that grows; `graph` records a step on a cache of fixed size as one CUDA graph
and replays it; `compile` lets torch.compile fuse the step. All three make the same tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, StaticCache
from transformers.cache_utils import StaticLayer

from evalkit.errors import VariantError, is_out_of_memory

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


def _next(logits: Tensor) -> Tensor:
    return logits[:, -1:].argmax(-1)


class Eager:
    """The model as it is, on a cache that grows by a token a step."""

    name = "eager"

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.cache: Any = None

    def start(self, ids: Tensor) -> Tensor:
        """Read the prompts; see Engine."""
        output = self.model(input_ids=ids, use_cache=True, logits_to_keep=1)
        self.cache = output.past_key_values
        return _next(output.logits)

    def step(self, tokens: Tensor) -> Tensor:
        """One forward pass; see Engine."""
        output = self.model(input_ids=tokens, past_key_values=self.cache, use_cache=True)
        self.cache = output.past_key_values
        return _next(output.logits)


class _Static:
    """A cache of `length` positions that stays in place, for steps that are recorded once.

    `repeats` is False where a step may differ from the next in more than tensors: a layer with a
    window smaller than `length`, for one, counts its tokens in Python.
    """

    def __init__(self, model: PreTrainedModel, length: int) -> None:
        self.model = model
        self.cache = StaticCache(config=model.config.get_text_config(), max_cache_len=length)
        # A window as large as the cache bounds nothing.
        self.cache.layers = [
            StaticLayer(length) if slides and layer.max_cache_len == length else layer
            for layer, slides in zip(self.cache.layers, self.cache.is_sliding, strict=True)
        ]
        self.repeats = all(type(layer) is StaticLayer for layer in self.cache.layers)

    def start(self, ids: Tensor) -> Tensor:
        """Read the prompts; see Engine."""
        self.cache.reset()
        return _next(self._forward(ids))

    def _forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(
            input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1
        ).logits
        return logits


class Compiled(_Static):
    """One step compiled by torch.compile; on a CPU the compiled step is recorded and replayed."""

    name = "compile"

    def __init__(self, model: PreTrainedModel, length: int) -> None:
        super().__init__(model, length)
        self._step: Callable[[Tensor], Tensor]
        if model.device.type == "cpu" and self.repeats:
            from evalkit.inference.fused_step import FusedStep

            self._step = FusedStep(self._whole_step)
        else:
            mode = "reduce-overhead" if model.device.type == "cuda" else None
            self._step = torch.compile(self._whole_step, mode=mode, dynamic=False)

    def _whole_step(self, tokens: Tensor) -> Tensor:
        return _next(self._forward(tokens))

    def step(self, tokens: Tensor) -> Tensor:
        """One compiled step; see Engine."""
        return self._step(tokens).clone()


class Graphed(_Static):
    """One step captured as a CUDA graph, replayed for each token."""

    name = "graph"

    def __init__(self, model: PreTrainedModel, length: int) -> None:
        super().__init__(model, length)
        if not self.repeats:
            raise VariantError("a layer's cache is no plain one (a window below the context, say)")
        self._graph: torch.cuda.CUDAGraph | None = None
        self._tokens = torch.empty(0)
        self._made = torch.empty(0)

    def step(self, tokens: Tensor) -> Tensor:
        """Replay the step; see Engine. The first call captures it."""
        if self._graph is None:
            self._capture(tokens)
        assert self._graph is not None
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._made.clone()

    def _capture(self, tokens: Tensor) -> None:
        self._tokens = tokens.clone()
        lengths = [layer.cumulative_length.clone() for layer in self.cache.layers]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_STEPS):
                _next(self._forward(self._tokens))
                self._rewind(lengths)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._made = _next(self._forward(self._tokens))
        self._rewind(lengths)

    def _rewind(self, lengths: list[Tensor]) -> None:
        for layer, length in zip(self.cache.layers, lengths, strict=True):
            layer.cumulative_length.copy_(length)


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
    makers: dict[str, Any] = {"eager": Eager, "graph": Graphed, "compile": Compiled}
    eager = Eager(model)
    with torch.inference_mode():
        if name == "eager":
            generate(eager, ids, 1)
            return Prepared(eager, 0.0)
        steps = min(_COMPARED_STEPS, length - ids.shape[1])
        wanted = generate(eager, ids, steps)
        begun = time.perf_counter()
        try:
            engine = makers[name](model, length)
            found = generate(engine, ids, steps)
        except Exception as error:  # whatever tracing or capturing a foreign model may raise
            if is_out_of_memory(error):
                raise
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise VariantError(f"engine {name} does not run this model: {first}") from error
        seconds = time.perf_counter() - begun
    equal = (wanted == found).all(0).tolist()
    return Prepared(engine, seconds, None if all(equal) else equal.index(False))


def generate(engine: Engine, ids: Tensor, count: int) -> Tensor:
    """The `count` greedy tokens behind the prompts: (batch, count)."""
    tokens = [engine.start(ids)]
    while len(tokens) < count:
        tokens.append(engine.step(tokens[-1]))
    return torch.cat(tokens, 1)
