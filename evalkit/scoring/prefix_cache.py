"""Keys and values of a batch, and the cache that puts chosen rows of them before new tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of a batch: per layer two tensors (rows, heads, slots, head_dim).

    The real tokens of row i are the `lengths[i]` slots that end before slot `ends[i]`.
    """

    layers: list[tuple[Tensor, Tensor]]
    ends: list[int]
    lengths: list[int]


class _ExtendingLayer(DynamicLayer):
    """A cache layer that puts rows of an earlier batch before the new keys and values.

    The joined tensors live only while the layer runs, unless they are kept for a later batch.
    """

    def __init__(
        self,
        earlier: tuple[Tensor, Tensor] | None,
        select: Callable[[Tensor], Tensor] | None,
        past: int,
        keep: bool,
    ) -> None:
        super().__init__()
        self.earlier = earlier
        self.select = select
        self.length = past
        self.keep = keep

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Earlier and new keys and values joined, each (rows, heads, slots, head_dim)."""
        self.length += key_states.shape[-2]
        if self.earlier is not None and self.select is not None:
            key_states = torch.cat((self.select(self.earlier[0]), key_states), dim=-2)
            value_states = torch.cat((self.select(self.earlier[1]), value_states), dim=-2)
        if self.keep:
            self.keys, self.values = key_states, value_states
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Slots before the next new token."""
        return self.length


def recording() -> DynamicCache:
    """An empty cache that keeps what it is given."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = lambda: _ExtendingLayer(None, None, 0, True)
    return cache


def extending(parent: KeyValues, rows: list[int], past: list[int], keep: bool) -> DynamicCache:
    """A cache that begins with `rows` of `parent`, all ending at the same slot.

    `past` are the real tokens of each row. What is joined is kept only with `keep`.
    """
    width = max(past)
    select = aligned(parent, rows, width)
    cache = DynamicCache()
    cache.layer_class_to_replicate = None
    cache.layers = [_ExtendingLayer(layer, select, width, keep) for layer in parent.layers]
    return cache


def aligned(source: KeyValues, rows: list[int], width: int) -> Callable[[Tensor], Tensor]:
    """Takes `rows` of a tensor of `source` so that all end at slot `width`.

    What lies before a row's first real token is meaningless and must be masked.
    """
    device = source.layers[0][0].device
    first = [source.ends[row] - width for row in rows]
    if len(set(rows)) == 1 and first[0] >= 0:
        row, low = rows[0], first[0]
        return lambda states: states[row : row + 1, :, low : low + width].expand(
            len(rows), -1, -1, -1
        )
    chosen = torch.tensor(rows, device=device)[:, None]
    slots = torch.tensor(first, device=device)[:, None] + torch.arange(width, device=device)
    slots = slots.clamp_(min=0)
    return lambda states: states[chosen, :, slots].transpose(1, 2)
