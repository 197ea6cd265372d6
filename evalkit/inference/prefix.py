"""Run a prefix tree through a causal language model: shared tokens once, the rest in batches.

A batch extends rows of the batch before it. Its rows are padded on the right, where causal
attention never looks, so no padding disturbs a real token. When a batch is extended, the keys and
values of each chosen row are moved to end at the same slot, so that every row is a contiguous run
of real tokens with padding on its left only. Distances between slots are then distances between
positions, which keeps sliding-window and block-sparse attention exact.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from evalkit.inference import sharing
from evalkit.inference.batches import Batch, line_batches, row_batches, smaller
from evalkit.inference.budget import Budget
from evalkit.inference.packed_lines import (
    LINE_TOKENS,
    MOST_TREE_TOKENS,
    Line,
    ids_of,
    lay_out,
    mask_of,
    positions_of,
    smallest_line,
    tree_tokens,
)
from evalkit.inference.prefix_cache import KeyValues, extending, recording
from evalkit.inference.prefix_tree import Node, Row, TokenIds, Tokens, build_tree
from evalkit.inference.sharing import may_pack
from evalkit.models.caches import keeps_every_token
from evalkit.scoring.batching import short_rope_length
from evalkit.scoring.device_memory import to_device
from evalkit.scoring.halving import run_or_halve
from evalkit.scoring.head import Forward

# Tokens of a beginning that is compared, at least: it is cut in two.
_LEAST_COMPARED = 4


@dataclass(frozen=True)
class Step:
    """One forward pass: `rows` (batch, length, width) of `Forward`, padded on the right.

    `firsts` says where the first token of each node lies among the rows of all, the batch's rows
    one behind the other. `key_values` of all tokens up to these, if another pass or the caller
    needs them.
    """

    nodes: list[Node]
    firsts: list[int]
    rows: Tensor
    key_values: KeyValues | None


@dataclass(frozen=True)
class _Plan:
    """What a run is asked for: its `sequences`, and what `PrefixRunner.run` says of the others."""

    sequences: Mapping[int, TokenIds]
    done: frozenset[int]
    reserve: int | None

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(len, self.sequences.values()), default=0)


class PrefixRunner:
    """Runs prefix trees on one model.

    `on_halved` is told the new number of rows each time a batch did not fit and was halved.
    `unshared` says why sequences cannot share what they begin with; "" where they can.
    `first_position` is what the model calls the position of a text's first token.
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
        kept = keeps_every_token(self.model)
        self.unshared = "" if kept else f"{type(self.model).__name__} keeps a state"
        self.first_position = 0
        self._compared = False
        # Not known before it was tried, where it may be at all.
        self._packs = None if may_pack(forward) and self.takes_positions else False

    @property
    def shares(self) -> bool:
        """Whether sequences can share what they begin with."""
        return not self.unshared

    def with_budget(self, budget: Budget) -> PrefixRunner:
        """A runner of the same model with another budget, which knows what this one has found."""
        other = copy.copy(self)
        other.budget = budget
        return other

    def compare(self, tokens: TokenIds, cut: int) -> None:
        """Read `tokens` behind the kept keys and values of the first `cut`, and in one pass: once.

        Where the rows differ, nothing is shared from now on.
        """
        if self._compared or not self.shares or cut < _LEAST_COMPARED:
            return
        self._compared = True
        self.unshared = sharing.try_keys(self, tokens, cut)

    def run(
        self,
        sequences: Sequence[TokenIds],
        *,
        done: Collection[int] = (),
        reserve: int | None = None,
    ) -> Iterator[Step]:
        """Run all `sequences`, each shared part once; nodes name them by their index.

        Args:
            sequences: non-empty token ids.
            done: batches that only these need are left out; all others are the same without it.
            reserve: keep the keys and values of every step, in batches that leave room for this
                many more tokens a row.

        Raises evalkit's OutOfMemoryError when a single row does not fit, or a batch that the budget
        does not allow to halve.
        """
        limit = short_rope_length(self.model.config)
        # Beyond that length every token is rotated differently: nothing before it can be shared.
        longer = {i: t for i, t in enumerate(sequences) if limit and len(t) > limit}
        others = {i: t for i, t in enumerate(sequences) if i not in longer}
        if self.shares and not self._compared:
            for root in (root for root in build_tree(others) if root.children):
                rest = max((child.tokens for child in root.children), key=len)
                self.compare(np.concatenate([root.tokens, rest]), len(root.tokens))
        if self.first_position:
            # Such a model does not count its padding id, wherever it stands.
            padding = self.first_position - 1
            longer |= {i: t for i, t in others.items() if padding in t}
            others = {i: t for i, t in others.items() if i not in longer}
        for group, share in ((longer, False), (others, self.shares)):
            rows = [Row(node, 0) for node in build_tree(group, share=share)]
            yield from self._run_rows(rows, None, _Plan(group, frozenset(done), reserve))

    def _run_rows(self, rows: list[Row], parent: KeyValues | None, plan: _Plan) -> Iterator[Step]:
        lines, rows = self._lay_out(rows, parent, plan)
        waiting: list[Batch] = [*line_batches(lines, parent, self.budget)]
        waiting += row_batches(rows, parent, self.budget, plan.longest, plan.reserve or 0)[::-1]
        while waiting:
            batch = waiting.pop()
            if all(plan.done.issuperset(node.sequences) for row in batch for node in row.nodes):
                continue
            step = self._try_step(batch, parent, plan)
            if step is None:
                waiting.extend(smaller(batch))
                self._tell_halved(len(waiting[-1]))
                continue
            below = [Row(child, i) for i, row in enumerate(batch) for child in row.below]
            key_values = step.key_values if below else None
            # Nothing of the step is kept here while its receiver works, or the batches below run.
            handed = [step]
            del step
            yield handed.pop()
            if below:
                yield from self._run_rows(below, key_values, plan)

    def _try_step(self, batch: Batch, parent: KeyValues | None, plan: _Plan) -> Step | None:
        """One forward pass; None when it did not fit in memory and can be halved."""
        keep = plan.reserve is not None or any(row.below for row in batch)
        longest = f"sequence of {max(node.end for row in batch for node in row.nodes)} tokens"

        def run() -> Step:
            lines = [row for row in batch if isinstance(row, Line)]
            rows = [row for row in batch if isinstance(row, Row)]
            return self.line_step(lines, parent) if lines else self.step(rows, parent, keep)

        return run_or_halve(
            run,
            sum(len(row.nodes) for row in batch),
            longest,
            self.model.device,
            halve=self.budget.halve,
        )

    def _tell_halved(self, rows: int) -> None:
        if self.on_halved is not None:
            self.on_halved(rows)

    def _lay_out(
        self, rows: list[Row], parent: KeyValues | None, plan: _Plan
    ) -> tuple[list[Line], list[Row]]:
        """Lines of small trees, where the model takes such, and the rows that are left."""
        if self._packs is False or plan.reserve is not None or self.first_position:
            return [], rows
        if not any(row.below for row in rows):
            return [], rows
        past = max((parent.lengths[row.parent] for row in rows), default=0) if parent else 0
        config = self.model.config
        most = getattr(config.get_text_config(), "max_position_embeddings", None) or LINE_TOKENS
        most = min(most, short_rope_length(config) or most)
        room = min(LINE_TOKENS, self.budget.batch_tokens, most - past)
        small = [tree_tokens(row.node) <= min(MOST_TREE_TOKENS, room) for row in rows]
        trees = [(row.node, row.parent) for row, fits in zip(rows, small, strict=True) if fits]
        lines = lay_out(trees, room)
        if lines and self._packs is None:
            self._packs = sharing.try_line(self, smallest_line(trees), parent, plan.sequences)
        if not self._packs:
            return [], rows
        return lines, [row for row, fits in zip(rows, small, strict=True) if not fits]

    def line_step(self, lines: list[Line], parent: KeyValues | None) -> Step:
        """One pass over `lines`, whose keys and values nothing extends."""
        past = [parent.lengths[line.parent] if parent else 0 for line in lines]
        cache = extending(parent, [line.parent for line in lines], past, False) if parent else None
        arrays = {"input_ids": ids_of(lines), "position_ids": positions_of(lines)}
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        inputs["attention_mask"] = mask_of(lines, past, self.model.dtype)
        device = self.model.device
        states = self.states(cache, {name: to_device(t, device) for name, t in inputs.items()})
        firsts = [
            row * states.shape[1] + first for row, line in enumerate(lines) for first in line.firsts
        ]
        return Step([node for line in lines for node in line.nodes], firsts, states, None)

    def step(self, rows: list[Row], parent: KeyValues | None, keep: bool) -> Step:
        """One pass over `rows` behind those of `parent`, whose keys and values it may `keep`."""
        nodes = [row.node for row in rows]
        lengths = [len(node.tokens) for node in nodes]
        past = [parent.lengths[row.parent] if parent else 0 for row in rows]
        cache = None
        if parent is not None:
            cache = extending(parent, [row.parent for row in rows], past, keep)
        elif keep:
            cache = recording()
        states = self.states(cache, self.inputs([node.tokens for node in nodes], past))
        firsts = [row * states.shape[1] for row in range(len(nodes))]
        if cache is None or not keep:
            return Step(nodes, firsts, states, None)
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        ends = [max(past) + length for length in lengths]
        held = len(nodes) * max(ends) + (parent.held if parent else 0)
        awaited = any(node.children for node in nodes)
        real = [node.end for node in nodes]
        return Step(nodes, firsts, states, KeyValues(layers, ends, real, held, awaited))

    def states(self, cache: DynamicCache | None, inputs: Mapping[str, Tensor]) -> Tensor:
        """Rows (batch, length, width) of `Forward` for `inputs` after what `cache` holds."""
        with torch.inference_mode():
            output = self.forward.body(**inputs, past_key_values=cache, use_cache=cache is not None)
        hidden = self.forward.kind == "hidden"
        states: Tensor = output.last_hidden_state if hidden else output.logits
        return states

    def inputs(self, tokens: list[Tokens], past: list[int]) -> dict[str, Tensor]:
        """Right-padded ids; with a past also positions, and a mask where rows differ in it."""
        lengths, before = np.asarray([len(row) for row in tokens]), np.asarray(past)
        ids = np.zeros((len(tokens), lengths.max()), dtype=np.int64)
        for target, row in zip(ids, tokens, strict=True):
            target[: len(row)] = row
        inputs = {"input_ids": ids}
        if before.any() and self.takes_positions:
            steps = np.minimum(np.arange(ids.shape[1]), lengths[:, None] - 1)
            inputs["position_ids"] = self.first_position + before[:, None] + steps
        slots = np.arange(before.max() + ids.shape[1])
        real = slots >= (before.max() - before)[:, None]
        if self.forward.masked:
            real &= slots < (before.max() + lengths)[:, None]
        if not real.all() or (before.any() and not self.takes_positions):
            inputs["attention_mask"] = real.astype(np.int64)
        device = self.model.device
        return {name: to_device(torch.from_numpy(array), device) for name, array in inputs.items()}

    @cached_property
    def takes_positions(self) -> bool:
        """Whether the model can be told positions; others count them from the mask."""
        return "position_ids" in inspect.signature(self.forward.body.forward).parameters
