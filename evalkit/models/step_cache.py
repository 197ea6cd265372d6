"""A cache of fixed size whose position is data: one decode step is the same work as the next.

A step that is captured or compiled once is replayed without Python, so whatever changes from step
to step must be a tensor on the device. The static cache of transformers counts the tokens of a
sliding window in Python, and returns every slot when it reads a prompt; this one does neither.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, StaticCache
from transformers.cache_utils import StaticLayer, StaticSlidingWindowLayer


class StepLayer(StaticLayer):
    """Keys and values of the last `slots` tokens: token t lies in slot t modulo `slots`.

    Attention does not look at the order of keys, so a window that is full is a ring: a token
    replaces the one that leaves the window. While `reading`, a prompt begins a text.
    """

    def __init__(self, slots: int, *, slides: bool) -> None:
        super().__init__(slots)
        self.is_sliding = slides
        self.reading = False

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The keys and values to attend to: those of the prompt, or all slots in a step."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        slots, length = self.max_cache_len, key_states.shape[-2]
        if self.reading:
            first = max(0, length - slots)
            places = torch.arange(first, length, device=self.device) % slots
            self.keys.index_copy_(2, places, key_states[:, :, first:])
            self.values.index_copy_(2, places, value_states[:, :, first:])
            self.cumulative_length.fill_(length)
            return key_states, value_states
        place = (self.cumulative_length % slots)[None]
        self.cumulative_length.add_(1)
        self.keys.index_copy_(2, place, key_states)
        self.values.index_copy_(2, place, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, Any]:
        """Keys of the next pass, and the position of the first; in a step that is a tensor.

        In a full window every slot is visible, so that it does not matter which is the first.
        """
        if self.reading:
            return query_length, 0
        if not self.is_sliding:
            return self.max_cache_len, 0
        return self.max_cache_len, (self.cumulative_length + 1 - self.max_cache_len).clamp(min=0)

    def get_seq_length(self) -> Any:
        """Tokens before the next pass, a tensor () in a step."""
        return 0 if self.reading else self.cumulative_length


class StepCache(StaticCache):
    """`length` positions for one pass over a prompt and one token a sequence a step behind it.

    Whoever steps reads the text anew where its length changes the model's rotary factors: no step
    can find that out without a read of the device.
    """

    def __init__(self, config: PretrainedConfig, length: int) -> None:
        super().__init__(config=config, max_cache_len=length)
        # Chunks are told apart by positions, so all of a text stays in its place.
        chunks = getattr(config, "attention_chunk_size", None) is not None
        self.layers: list[Any] = [
            _step_layer(layer, length, chunks=chunks) for layer in self.layers
        ]

    @property
    def steps_are_alike(self) -> bool:
        """Whether every layer is a StepLayer; others (recurrent states) are as they were made."""
        return all(isinstance(layer, StepLayer) for layer in self.layers)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Within, a pass reads prompts into the emptied cache."""
        self.reset()
        self._set_reading(True)
        try:
            yield
        finally:
            self._set_reading(False)

    def _set_reading(self, reading: bool) -> None:
        for layer in self._step_layers():
            layer.reading = reading

    def lengths(self) -> list[Tensor]:
        """Copies of the tokens read, layer by layer, for `rewind`."""
        return [layer.cumulative_length.clone() for layer in self._step_layers()]

    def rewind(self, lengths: list[Tensor]) -> None:
        """Take steps since `lengths` back; their slots are written anew by the next ones."""
        for layer, length in zip(self._step_layers(), lengths, strict=True):
            layer.cumulative_length.copy_(length)

    def _step_layers(self) -> list[StepLayer]:
        return [layer for layer in self.layers if isinstance(layer, StepLayer)]


def _step_layer(layer: Any, length: int, *, chunks: bool) -> Any:
    """The layer to use instead of one of transformers' static ones."""
    if type(layer) not in (StaticLayer, StaticSlidingWindowLayer):
        return layer
    # A window as large as the cache bounds nothing.
    slots = length if chunks else layer.max_cache_len
    return StepLayer(slots, slides=slots < length)
