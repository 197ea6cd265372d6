"""Run a prefix tree through a causal language model: shared tokens once, the rest in batches.

A batch extends rows of the batch before it. Its rows are padded on the right, where causal
attention never looks, so no padding disturbs a real token. When a batch is extended, the keys and
values of each chosen row are moved to end at the same slot, so that every row is a contiguous run
of real tokens with padding on its left only. Distances between slots are then distances between
positions, which keeps sliding-window and block-sparse attention exact.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from evalkit.errors import OutOfMemoryError
from evalkit.scoring.batching import short_rope_length
from evalkit.scoring.engine import is_out_of_memory
from evalkit.scoring.head import Forward
from evalkit.scoring.prefix_tree import Node, Tokens, build_tree

# Rows shorter than this part of the batch's longest row wait for a batch of their own length, once
# the batch has reached this part of the budget: padding costs less than many small batches.
_SHORTEST_ROW = 0.6
_SMALL_BATCH = 1 / 8


@dataclass(frozen=True)
class Budget:
    """Bounds of one batch: tokens run, and tokens whose keys and values are held.

    Batches are a function of the sequences and of these two numbers only.
    """

    batch_tokens: int = 4096
    cache_tokens: int = 32768


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of a batch: per layer two tensors (rows, heads, slots, head_dim).

    The real tokens of row i are the `lengths[i]` slots that end before slot `ends[i]`.
    """

    layers: list[tuple[Tensor, Tensor]]
    ends: list[int]
    lengths: list[int]


@dataclass(frozen=True)
class Step:
    """One forward pass: `rows` (nodes, length, width) of `Forward`, padded on the right."""

    nodes: list[Node]
    rows: Tensor


@dataclass(frozen=True)
class _Row:
    node: Node
    parent: int


class PrefixRunner:
    """Runs prefix trees on one model.

    `on_halved` is told the new number of rows each time a batch did not fit and was halved.
    """

    def __init__(
        self,
        forward: Forward,
        budget: Budget,
        on_halved: Callable[[int], None] | None = None,
    ) -> None:
        self.forward = forward
        self.model = forward.model
        self.budget = budget
        self.on_halved = on_halved

    @cached_property
    def shares(self) -> bool:
        """Whether all layers keep keys and values a token: a recurrent state cannot be shared."""
        if getattr(self.model, "_is_stateful", False):
            return False
        layers = DynamicCache(config=self.model.config).layers
        return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)

    def run(self, sequences: Sequence[Sequence[int]], done: Collection[int] = ()) -> Iterator[Step]:
        """Run all `sequences`, each shared part once; nodes name them by their index.

        Batches that only `done` sequences need are left out; all others are the same without it.
        Raises evalkit's OutOfMemoryError when a single row does not fit.
        """
        limit = short_rope_length(self.model.config)
        longer = {i: t for i, t in enumerate(sequences) if limit and len(t) > limit}
        others = {i: t for i, t in enumerate(sequences) if i not in longer}
        # Beyond that length every token is rotated differently: nothing before it can be shared.
        for group, share in ((longer, False), (others, self.shares)):
            rows = [_Row(node, 0) for node in build_tree(group, share=share)]
            longest = max((len(tokens) for tokens in group.values()), default=0)
            yield from self._run_rows(rows, None, longest, frozenset(done))

    def _run_rows(
        self, rows: list[_Row], parent: KeyValues | None, longest: int, done: frozenset[int]
    ) -> Iterator[Step]:
        waiting = self._batches(rows, parent, longest)[::-1]
        while waiting:
            batch = waiting.pop()
            if all(done.issuperset(row.node.sequences) for row in batch):
                continue
            result = self._try_forward(batch, parent)
            if result is None:
                waiting.extend(self._halves(batch))
                continue
            states, key_values = result
            del result
            yield Step([row.node for row in batch], states)
            del states
            below = [_Row(child, i) for i, row in enumerate(batch) for child in row.node.children]
            if below:
                yield from self._run_rows(below, key_values, longest, done)

    def _try_forward(
        self, batch: list[_Row], parent: KeyValues | None
    ) -> tuple[Tensor, KeyValues | None] | None:
        """What `_forward` returns; None when it did not fit in memory and can be halved."""
        try:
            return self._forward(batch, parent)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise OutOfMemoryError(
                    f"one sequence of {batch[0].node.end} tokens does not fit in memory: "
                    "lower the context length or take a smaller variant"
                ) from error
        # Only here, outside the handler, are the tensors of the failed batch gone.
        gc.collect()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _halves(self, batch: list[_Row]) -> list[list[_Row]]:
        middle = (len(batch) + 1) // 2
        if self.on_halved is not None:
            self.on_halved(middle)
        return [batch[middle:], batch[:middle]]

    def _batches(
        self, rows: list[_Row], parent: KeyValues | None, longest: int
    ) -> list[list[_Row]]:
        """Rows by falling length, as many a batch as the budget admits.

        No batch spans more slots than the `longest` sequence has tokens: models that look at the
        number of slots (longrope, the context check of Phi-3 Small) then see nothing unusual.
        """

        def past(row: _Row) -> int:
            return parent.lengths[row.parent] if parent else 0

        def admits(batch: list[_Row], row: _Row) -> bool:
            length = len(batch[0].node.tokens)
            slots = length + max(past(member) for member in [*batch, row])
            tokens = (len(batch) + 1) * length
            alike = len(row.node.tokens) >= _SHORTEST_ROW * length
            return (
                (alike or tokens <= _SMALL_BATCH * self.budget.batch_tokens)
                and tokens <= self.budget.batch_tokens
                and (len(batch) + 1) * slots <= self.budget.cache_tokens
                and slots <= longest
            )

        batches: list[list[_Row]] = []
        for row in sorted(rows, key=lambda row: (-len(row.node.tokens), -past(row))):
            if batches and admits(batches[-1], row):
                batches[-1].append(row)
            else:
                batches.append([row])
        return batches

    def _forward(
        self, rows: list[_Row], parent: KeyValues | None
    ) -> tuple[Tensor, KeyValues | None]:
        lengths = [len(row.node.tokens) for row in rows]
        past = [parent.lengths[row.parent] if parent else 0 for row in rows]
        keep = any(row.node.children for row in rows)
        cache = None
        if parent is not None:
            cache = _extending(parent, [row.parent for row in rows], past, keep)
        elif keep:
            cache = _recording()
        inputs = self._inputs([row.node.tokens for row in rows], past)
        with torch.no_grad():
            output = self.forward.body(**inputs, past_key_values=cache, use_cache=cache is not None)
        hidden = self.forward.kind == "hidden"
        states = output.last_hidden_state if hidden else output.logits
        if cache is None or not keep:
            return states, None
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        ends = [max(past) + length for length in lengths]
        totals = [before + length for before, length in zip(past, lengths, strict=True)]
        return states, KeyValues(layers, ends, totals)

    def _inputs(self, tokens: list[Tokens], past: list[int]) -> dict[str, Tensor]:
        """Right-padded ids; with a past also positions, and a mask where rows differ in it."""
        lengths, before = np.asarray([len(row) for row in tokens]), np.asarray(past)
        ids = np.zeros((len(tokens), lengths.max()), dtype=np.int64)
        for target, row in zip(ids, tokens, strict=True):
            target[: len(row)] = row
        inputs = {"input_ids": ids}
        if before.any() and self._takes_positions:
            steps = np.minimum(np.arange(ids.shape[1]), lengths[:, None] - 1)
            inputs["position_ids"] = before[:, None] + steps
        slots = np.arange(before.max() + ids.shape[1])
        real = slots >= (before.max() - before)[:, None]
        if self.forward.masked:
            real &= slots < (before.max() + lengths)[:, None]
        if not real.all() or (before.any() and not self._takes_positions):
            inputs["attention_mask"] = real.astype(np.int64)
        device = self.model.device
        return {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}

    @cached_property
    def _takes_positions(self) -> bool:
        return "position_ids" in inspect.signature(self.forward.body.forward).parameters


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


def _recording() -> DynamicCache:
    cache = DynamicCache()
    cache.layer_class_to_replicate = lambda: _ExtendingLayer(None, None, 0, True)
    return cache


def _extending(parent: KeyValues, rows: list[int], past: list[int], keep: bool) -> DynamicCache:
    """A cache that begins with `rows` of `parent`, all ending at the same slot."""
    width = max(past)
    device = parent.layers[0][0].device
    first = [parent.ends[row] - width for row in rows]
    if len(set(rows)) == 1:
        row, low = rows[0], first[0]

        def select(states: Tensor) -> Tensor:
            return states[row : row + 1, :, low : low + width].expand(len(rows), -1, -1, -1)

    else:
        chosen = torch.tensor(rows, device=device)[:, None]
        slots = torch.tensor(first, device=device)[:, None] + torch.arange(width, device=device)
        # Slots before a row's first real token are masked: any key will do there.
        slots = slots.clamp_(min=0)

        def select(states: Tensor) -> Tensor:
            return states[chosen, :, slots].transpose(1, 2)

    cache = DynamicCache()
    cache.layer_class_to_replicate = None
    cache.layers = [_ExtendingLayer(layer, select, width, keep) for layer in parent.layers]
    return cache
