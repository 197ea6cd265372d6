"""The rows that are generated together, with room in their keys and values for what is to come."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from evalkit.inference.prefix import PrefixRunner
from evalkit.inference.prefix_cache import Filler, KeyValues, aligning
from evalkit.scoring.device_memory import to_device

# Rows that have left are computed on until they are this part of the batch: moving the keys and
# values of all others costs as much as a few steps.
_IDLE_ROWS = 1 / 8


@dataclass
class Row:
    """One prompt on its way; `tokens` are generated so far, `random` draws them if sampled.

    Where it is asked for, `likelihoods` holds of each token its log-probability and by how much the
    likeliest token beat the second, in nats. `began` is the time of the first token.
    """

    index: int
    prompt: list[int]
    tokens: list[int]
    random: torch.Generator
    likelihoods: list[tuple[float, float]] = field(default_factory=list)
    began: float = 0.0

    @property
    def length(self) -> int:
        """Prompt and generated tokens."""
        return len(self.prompt) + len(self.tokens)


class DecodeBatch:
    """Rows and their keys and values; a step runs the last token of every row."""

    def __init__(self, runner: PrefixRunner, max_new_tokens: int) -> None:
        self.runner = runner
        self.max_new_tokens = max_new_tokens
        self._members: list[tuple[int, Row]] = []
        self._layers: list[_BufferLayer] = []
        self._lengths: list[int] = []
        self._filled = 0
        self._mask = torch.empty(0)

    @property
    def rows(self) -> list[Row]:
        """The rows that are still generated, in the order of the rows of `step`."""
        return [row for _, row in self._members]

    @property
    def slots(self) -> int:
        """Slots the rows will occupy at the end of their way."""
        return len(self._members) * (self._filled + self._room())

    def join(self, prefilled: Sequence[tuple[KeyValues, list[tuple[int, Row]]]]) -> None:
        """Take rows in; given are the keys and values of passes and which of their rows is whose.

        The newest token of each row is not among the keys and values yet.
        """
        sources = list(prefilled)
        if self._members:
            layers = [(layer.keys, layer.values) for layer in self._layers]
            ends = [self._filled] * len(self._lengths)
            sources.insert(0, (KeyValues(layers, ends, self._lengths), self._members))
        self._members = list(enumerate(row for _, members in sources for _, row in members))
        self._layers = []
        self._lengths = []
        if self._members:
            self._fill(sources)

    def drop(self, leaving: Collection[int]) -> None:
        """Let the rows with these indexes go."""
        for place, row in self._members:
            if row.index in leaving:
                # Until it is moved out, the row runs on as one that has just begun, so that it
                # never grows beyond the model's context.
                self._mask[place, : self._filled] = 0
                self._lengths[place] = 0
        self._members = [(place, row) for place, row in self._members if row.index not in leaving]
        idle = len(self._lengths) - len(self._members)
        if not self._members or idle >= max(1, _IDLE_ROWS * len(self._lengths)):
            self.join([])

    def step(self) -> Tensor:
        """Rows of `Forward` (rows, width) that predict the next token of each of `rows`."""
        tokens = torch.zeros((len(self._lengths), 1), dtype=torch.long)
        for place, row in self._members:
            tokens[place] = row.tokens[-1]
        device = self._mask.device
        inputs = {"input_ids": to_device(tokens, device)}
        if self.runner.takes_positions:
            positions = torch.tensor(self._lengths)[:, None]
            inputs["position_ids"] = to_device(positions, device)
        if min(self._lengths) < self._filled or not self.runner.takes_positions:
            inputs["attention_mask"] = self._mask[:, : self._filled + 1]
        cache = DynamicCache()
        cache.layer_class_to_replicate = None
        cache.layers = self._layers
        states = self.runner.states(cache, inputs)[:, -1]
        self._filled += 1
        self._lengths = [length + 1 for length in self._lengths]
        return states[to_device(torch.tensor([place for place, _ in self._members]), device)]

    def _room(self) -> int:
        return max((self.max_new_tokens - len(row.tokens) for row in self.rows), default=0)

    def _fill(self, sources: Sequence[tuple[KeyValues, list[tuple[int, Row]]]]) -> None:
        """Copy the chosen rows of all sources into new buffers.

        Layer by layer, each let go of before the next: all of the old beside all of the new would
        take twice the memory.
        """
        chosen = [[place for place, _ in members] for _, members in sources]
        self._lengths = [
            source.lengths[place]
            for (source, _), places in zip(sources, chosen, strict=True)
            for place in places
        ]
        self._filled = max(self._lengths)
        fillers = [
            (len(places), aligning(source, places, self._filled))
            for (source, _), places in zip(sources, chosen, strict=True)
        ]
        slots = self._filled + self._room()
        for index in range(len(sources[0][0].layers)):
            pairs = [source.layers[index] for source, _ in sources]
            keys, values = (
                _joined([pair[part] for pair in pairs], fillers, slots) for part in (0, 1)
            )
            self._layers.append(_BufferLayer(keys, values, self._filled))
            del pairs
            for source, _ in sources:
                source.release(index)
        real = torch.arange(slots) >= self._filled - torch.tensor(self._lengths)[:, None]
        self._mask = to_device(real.long(), self._layers[0].keys.device)


class _BufferLayer(DynamicLayer):
    """A cache layer that writes into tensors (rows, heads, slots, head_dim) with room to grow."""

    def __init__(self, keys: Tensor, values: Tensor, filled: int) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.filled = filled

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """All keys and values up to the new ones, each (rows, heads, slots, head_dim)."""
        end = self.filled + key_states.shape[-2]
        self.keys[:, :, self.filled : end] = key_states
        self.values[:, :, self.filled : end] = value_states
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """Slots before the next new token."""
        return self.filled


def _joined(parts: list[Tensor], fillers: list[tuple[int, Filler]], slots: int) -> Tensor:
    """The chosen rows of all `parts` in one tensor of `slots` slots."""
    _, heads, _, size = parts[0].shape
    buffer = parts[0].new_empty((sum(rows for rows, _ in fillers), heads, slots, size))
    low = 0
    for part, (rows, fill) in zip(parts, fillers, strict=True):
        fill(part, buffer[low : low + rows])
        low += rows
    return buffer
