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

from evalkit.errors import in_one_line, is_out_of_memory
from evalkit.inference.budget import Budget
from evalkit.inference.prefix_cache import KeyValues, extending, recording
from evalkit.inference.prefix_tree import Node, TokenIds, Tokens, build_tree
from evalkit.models.caches import keeps_every_token
from evalkit.scoring.batching import short_rope_length
from evalkit.scoring.device_memory import to_device
from evalkit.scoring.halving import halves, run_or_halve
from evalkit.scoring.head import Forward
from evalkit.scoring.rounding import same_rows

# Rows shorter than this part of the batch's longest row wait for a batch of their own length, once
# the batch has reached this part of the budget: padding costs less than many small batches.
_SHORTEST_ROW = 0.6
_SMALL_BATCH = 1 / 8
# Tokens of a beginning that is compared, at least: it is cut in two.
_LEAST_COMPARED = 4


@dataclass(frozen=True)
class Step:
    """One forward pass: `rows` (nodes, length, width) of `Forward`, padded on the right.

    `key_values` of all tokens up to these, if another pass or the caller needs them.
    """

    nodes: list[Node]
    rows: Tensor
    key_values: KeyValues | None


@dataclass(frozen=True)
class _Row:
    node: Node
    parent: int


@dataclass(frozen=True)
class _Plan:
    longest: int
    done: frozenset[int]
    reserve: int | None


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

        A beginning of half as many is gone on with in the same batch. Of the ways to count
        positions (from 0; from behind the padding id, as RoBERTa does) the first that gives the
        rows of the single passes is taken. Where none does, as in models that count the slots of
        the cache, nothing is shared from now on.
        """
        if self._compared or not self.shares or cut < _LEAST_COMPARED:
            return
        self._compared = True
        pairs = [(tokens[:cut], tokens[cut:]), (tokens[: cut // 2], tokens[cut // 2 : cut])]
        reason = "counts positions that cannot be told to it"
        try:
            wanted = [self._whole(*pair) for pair in pairs]
            if not all(rows.isfinite().all() for rows in wanted):
                # Whoever scores them says so.
                return
            for first in self._first_positions():
                self.first_position = first
                found = self._behind_keys(pairs)
                if all(same_rows(one, other) for one, other in zip(found, wanted, strict=True)):
                    return
        except Exception as error:  # whatever a foreign model makes of these keys and values
            if is_out_of_memory(error):
                # What does not fit is halved later; these rows are not run for their numbers.
                return
            reason = f"does not run behind kept keys and values ({in_one_line(error)})"
        self.unshared = f"{type(self.model).__name__} {reason}"

    def _first_positions(self) -> tuple[int, ...]:
        padding = self.model.config.get_text_config().pad_token_id
        return (0, padding + 1) if self.takes_positions and isinstance(padding, int) else (0,)

    def _whole(self, beginning: TokenIds, rest: TokenIds) -> Tensor:
        """Rows (length of `rest`, width) from one pass over both."""
        tokens = np.concatenate([beginning, rest]).astype(np.int32)
        return self.states(None, self._inputs([tokens], [0]))[0, len(beginning) :]

    def _behind_keys(self, sequences: Sequence[tuple[TokenIds, TokenIds]]) -> list[Tensor]:
        """Rows of each of `sequences` behind its beginning, all in one batch."""
        pairs = [tuple(np.asarray(part, dtype=np.int32) for part in pair) for pair in sequences]
        roots = [
            _Row(Node(first, 0, [], children=[Node(rest, len(first), [])]), 0)
            for first, rest in pairs
        ]
        parent = self._step(roots, None, True).key_values
        below = [_Row(row.node.children[0], index) for index, row in enumerate(roots)]
        rows = self._step(below, parent, False).rows
        return [row[: len(rest)] for row, (_, rest) in zip(rows, pairs, strict=True)]

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
            rows = [_Row(node, 0) for node in build_tree(group, share=share)]
            longest = max((len(tokens) for tokens in group.values()), default=0)
            yield from self._run_rows(rows, None, _Plan(longest, frozenset(done), reserve))

    def _run_rows(self, rows: list[_Row], parent: KeyValues | None, plan: _Plan) -> Iterator[Step]:
        waiting = self._batches(rows, parent, plan)[::-1]
        while waiting:
            batch = waiting.pop()
            if all(plan.done.issuperset(row.node.sequences) for row in batch):
                continue
            step = self._try_step(batch, parent, plan)
            if step is None:
                waiting.extend(halves(batch))
                self._tell_halved(len(waiting[-1]))
                continue
            below = [_Row(child, i) for i, row in enumerate(batch) for child in row.node.children]
            key_values = step.key_values if below else None
            # Nothing of the step is kept here while its receiver works, or the batches below run.
            handed = [step]
            del step
            yield handed.pop()
            if below:
                yield from self._run_rows(below, key_values, plan)

    def _try_step(self, batch: list[_Row], parent: KeyValues | None, plan: _Plan) -> Step | None:
        """One forward pass; None when it did not fit in memory and can be halved."""
        keep = plan.reserve is not None or any(row.node.children for row in batch)
        longest = f"sequence of {max(row.node.end for row in batch)} tokens"
        return run_or_halve(
            lambda: self._step(batch, parent, keep),
            len(batch),
            longest,
            self.model.device,
            halve=self.budget.halve,
        )

    def _tell_halved(self, rows: int) -> None:
        if self.on_halved is not None:
            self.on_halved(rows)

    def _batches(self, rows: list[_Row], parent: KeyValues | None, plan: _Plan) -> list[list[_Row]]:
        """Rows by falling length, as many a batch as the budget admits.

        No batch spans more slots than the longest sequence has tokens: models that look at the
        number of slots (longrope, the context check of Phi-3 Small) then see nothing unusual.
        """

        room = self.budget.cache_tokens
        if self.budget.all_levels and parent is not None:
            room -= parent.held

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
                and (len(batch) + 1) * (slots + (plan.reserve or 0)) <= room
                and slots <= plan.longest
            )

        batches: list[list[_Row]] = []
        for row in sorted(rows, key=lambda row: (-len(row.node.tokens), -past(row))):
            if batches and admits(batches[-1], row):
                batches[-1].append(row)
            else:
                batches.append([row])
        return batches

    def _step(self, rows: list[_Row], parent: KeyValues | None, keep: bool) -> Step:
        nodes = [row.node for row in rows]
        lengths = [len(node.tokens) for node in nodes]
        past = [parent.lengths[row.parent] if parent else 0 for row in rows]
        cache = None
        if parent is not None:
            cache = extending(parent, [row.parent for row in rows], past, keep)
        elif keep:
            cache = recording()
        states = self.states(cache, self._inputs([node.tokens for node in nodes], past))
        if cache is None or not keep:
            return Step(nodes, states, None)
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        ends = [max(past) + length for length in lengths]
        held = len(nodes) * max(ends) + (parent.held if parent else 0)
        awaited = any(node.children for node in nodes)
        real = [node.end for node in nodes]
        return Step(nodes, states, KeyValues(layers, ends, real, held, awaited))

    def states(self, cache: DynamicCache | None, inputs: Mapping[str, Tensor]) -> Tensor:
        """Rows (batch, length, width) of `Forward` for `inputs` after what `cache` holds."""
        with torch.inference_mode():
            output = self.forward.body(**inputs, past_key_values=cache, use_cache=cache is not None)
        hidden = self.forward.kind == "hidden"
        states: Tensor = output.last_hidden_state if hidden else output.logits
        return states

    def _inputs(self, tokens: list[Tokens], past: list[int]) -> dict[str, Tensor]:
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
