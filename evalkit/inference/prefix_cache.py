"""Keys and values of a batch, and the cache that puts chosen rows of them before new tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from evalkit.scoring.device_memory import to_device


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of a batch: per layer two tensors (rows, heads, slots, head_dim).

    The real tokens of row i are the `lengths[i]` slots that end before slot `ends[i]`. `held` are
    the slots of this batch and of those it extends. `awaited` says that a later batch extends it;
    else whoever has copied a layer may `release` it.
    """

    layers: list[tuple[Tensor, Tensor]]
    ends: list[int]
    lengths: list[int]
    held: int = 0
    awaited: bool = False

    def release(self, index: int) -> None:
        """Let go of layer `index`, unless a later batch needs it."""
        if not self.awaited:
            keys, values = self.layers[index]
            self.layers[index] = keys.new_empty(0), values.new_empty(0)


# Writes chosen rows of a tensor (rows, heads, slots, head_dim) into the first slots of another.
Filler = Callable[[Tensor, Tensor], None]


class _ExtendingLayer(DynamicLayer):
    """A cache layer that puts rows of an earlier batch before the new keys and values.

    The joined tensors live only while the layer runs, unless they are kept for a later batch.
    """

    def __init__(
        self,
        earlier: tuple[Tensor, Tensor] | None,
        fill: Filler | None,
        past: int,
        keep: bool,
    ) -> None:
        super().__init__()
        self.earlier = earlier
        self.fill = fill
        self.length = past
        self.keep = keep

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Earlier and new keys and values joined, each (rows, heads, slots, head_dim)."""
        if self.earlier is not None:
            key_states = self._joined(self.earlier[0], key_states)
            value_states = self._joined(self.earlier[1], value_states)
        self.length = key_states.shape[-2]
        if self.keep:
            self.keys, self.values = _apart(key_states), _apart(value_states)
        return key_states, value_states

    def _joined(self, earlier: Tensor, new: Tensor) -> Tensor:
        assert self.fill is not None
        rows, heads, length, size = new.shape
        joined = new.new_empty((rows, heads, self.length + length, size))
        self.fill(earlier, joined)
        joined[:, :, self.length :] = new
        return joined

    def get_seq_length(self) -> int:
        """Slots before the next new token."""
        return self.length


def _apart(states: Tensor) -> Tensor:
    """`states` in memory of their own: a view of a packed projection keeps all of it alive."""
    if states.untyped_storage().nbytes() <= states.nbytes:
        return states
    return states.clone(memory_format=torch.contiguous_format)


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
    fill = aligning(parent, rows, width)
    cache = DynamicCache()
    cache.layer_class_to_replicate = None
    cache.layers = [_ExtendingLayer(layer, fill, width, keep) for layer in parent.layers]
    return cache


def aligning(source: KeyValues, rows: list[int], width: int) -> Filler:
    """Copies `rows` of a tensor of `source` so that all end at slot `width` of the other.

    What lies before a row's first real token is meaningless and must be masked. A CPU copies runs
    of slots several times faster than it gathers them; a GPU would wait for the many small copies.
    """
    device = source.layers[0][0].device
    first = [source.ends[row] - width for row in rows]
    if len(set(rows)) == 1 and first[0] >= 0:
        only, low = rows[0], first[0]

        def fill(states: Tensor, target: Tensor) -> None:
            target[:, :, :width] = states[only, :, low : low + width]

    elif device.type == "cpu":

        def fill(states: Tensor, target: Tensor) -> None:
            for place, (row, low) in enumerate(zip(rows, first, strict=True)):
                pad = max(0, -low)
                target[place, :, :pad] = 0
                target[place, :, pad:width] = states[row, :, low + pad : low + width]

    else:
        chosen, begins = to_device(torch.tensor([rows, first]), device)[..., None]
        slots = (begins + torch.arange(width, device=device)).clamp_(min=0)

        def fill(states: Tensor, target: Tensor) -> None:
            target[:, :, :width] = states[chosen, :, slots].transpose(1, 2)

    return fill
