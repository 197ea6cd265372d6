"""Text generation in batches that stay full: prompts share prefixes, finished rows make room.

Prefill runs all prompt tokens in a few large passes; decode then runs one token a row and reads
every weight for it, so what counts is that no row of the batch is idle. A row leaves as soon as it
has stopped, and waiting prompts join. Keys and values lie in buffers with room for all tokens to
come: a step writes one slot instead of copying everything before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evalkit.errors import OutOfMemoryError
from evalkit.inference.decode_batch import DecodeBatch, Row
from evalkit.inference.decoding import Chooser, Decoding, Stopping
from evalkit.inference.extending import Extending, extend_alone
from evalkit.inference.prefix import PrefixRunner, Step
from evalkit.records.answers import StopReason
from evalkit.scoring.batching import short_rope_length
from evalkit.scoring.halving import refuse_or_halve, release_memory

_CPU_PARTS, _GPU_PARTS = 2, 4
# Last tokens of a prompt that are read behind kept keys and values to see whether that is exact.
_COMPARED_TOKENS = 8


@dataclass(frozen=True)
class Generated:
    """What was generated after the prompt `index`: its text, stop strings cut off, and its tokens.

    `likelihoods` are those of `Row`, a pair a token. `seconds` passed from the first token to the
    last, beside the other rows of the batch.
    """

    index: int
    text: str
    tokens: list[int]
    stop: StopReason
    likelihoods: list[tuple[float, float]]
    seconds: float


def generate_texts(
    runner: PrefixRunner,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    seeds: Sequence[int],
    on_generated: Callable[[int, str], None] | None = None,
) -> list[str]:
    """The text generated after each prompt, see `generate`; told as soon as it is known."""
    texts: dict[int, str] = {}

    def finished(one: Generated) -> None:
        texts[one.index] = one.text
        if on_generated is not None:
            on_generated(one.index, one.text)

    generate(runner, tokenizer, prompts, decoding, seeds=seeds, on_generated=finished)
    return [texts[index] for index in range(len(prompts))]


def generate(
    runner: PrefixRunner,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    seeds: Sequence[int],
    on_generated: Callable[[Generated], None],
    on_tokens: Callable[[int], None] | None = None,
    with_likelihoods: bool = False,
) -> None:
    """Generate after each prompt; what is complete is told in the order in which it ends.

    Args:
        runner: the model and its budget; `cache_tokens` bounds prompts and generated tokens.
        tokenizer: makes text of tokens.
        prompts: token ids; each with room for `max_new_tokens` in the model's context.
        decoding: how to choose tokens and when to stop.
        seeds: one a prompt; a sampled text depends on its own seed, not on its neighbours.
        on_generated: called with what follows each prompt as soon as it is known.
        on_tokens: called after each step with the number of tokens that it made.
        with_likelihoods: whether each token's log-probability and lead are kept.

    Raises DataError for options the model's generation does not know or that need a search, and
    NotFiniteError with the index of a prompt whose logits are not numbers.
    """
    chooser = Chooser(runner.model, decoding)
    stopping = Stopping(tokenizer, decoding, chooser.end_tokens)
    rows = [
        Row(index, list(prompt), [], torch.Generator().manual_seed(seed))
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]

    def finish(row: Row) -> None:
        seconds = time.perf_counter() - row.began
        text, stop = stopping.text(row.tokens), stopping.reason(row.tokens)
        on_generated(Generated(row.index, text, row.tokens, stop, row.likelihoods, seconds))

    # Prompts beyond that length are rotated otherwise.
    limit = short_rope_length(runner.model.config)
    longest = max((r.prompt for r in rows if not limit or r.length <= limit), key=len, default=[])
    runner.compare(longest, len(longest) - _COMPARED_TOKENS)
    # Such models are told other positions by transformers' own loop than they count themselves.
    if runner.shares and not runner.first_position:
        extend = Extending(chooser, with_likelihoods, on_tokens)
        _Generation(runner, extend, stopping, finish).run(rows)
        return
    for row in rows:
        extend_alone(runner.model, tokenizer, row, decoding, with_likelihoods)
        if on_tokens is not None:
            on_tokens(len(row.tokens))
        finish(row)


class _Generation:
    """Rows on their way through prefill and decode."""

    def __init__(
        self,
        runner: PrefixRunner,
        extend: Extending,
        stopping: Stopping,
        finish: Callable[[Row], None],
    ) -> None:
        self.runner = runner
        self._take_slots(runner.budget.cache_tokens)
        self.extend = extend
        self.stopping = stopping
        self.finish = finish
        self._left: dict[int, Row] = {}
        self._in_flight = 0

    def run(self, rows: list[Row]) -> None:
        # Under longrope, tokens beyond the original length change the cached ones too: a row that
        # gets there is computed anew, together with the rows that begin there.
        limit = short_rope_length(self.runner.model.config)
        longer = [row for row in rows if limit is not None and row.length > limit]
        shorter = [row for row in rows if limit is None or row.length <= limit]
        longer += self._rounds(shorter, limit)
        self._rounds(longer, None)

    def _rounds(self, rows: list[Row], limit: int | None) -> list[Row]:
        """Generate `rows` to their end or beyond `limit` tokens; return the latter.

        Where memory runs out, the rows that are left begin anew behind what they have generated,
        half as many together.
        """
        self._left = {row.index: row for row in rows}
        crossed: list[Row] = []
        while not self._round(crossed, limit):
            release_memory(self.runner.model.device)
            self._settle(list(self._left.values()), crossed, limit)
        return crossed

    def _round(self, crossed: list[Row], limit: int | None) -> bool:
        """Generate the rows that are left until there are none; False where memory ran out before.

        Those that get beyond `limit` go to `crossed`.
        """
        rows, most = list(self._left.values()), self.stopping.max_new_tokens
        batch = DecodeBatch(self.runner, most)
        waiting = self.runner.run([[*row.prompt, *row.tokens] for row in rows], reserve=most)
        more = True
        while more or batch.rows:
            self._in_flight = len(batch.rows)
            try:
                if more and batch.slots <= self._full:
                    more = self._admit(batch, waiting, rows)
                else:
                    self._extend(batch.rows, batch.step())
                if gone := self._settle(batch.rows, crossed, limit):
                    batch.drop(gone)
            except (RuntimeError, MemoryError, OutOfMemoryError) as error:
                self._take_fewer(error, max(row.length for row in rows) + most)
                return False
        return True

    def _settle(self, rows: list[Row], crossed: list[Row], limit: int | None) -> set[int]:
        """Indexes of those of `rows` that are done: they stopped, or got beyond `limit`."""
        gone = set()
        for row in rows:
            if row.tokens and self.stopping.stops(row.tokens):
                self.finish(row)
            elif limit is not None and row.length > limit:
                crossed.append(row)
            else:
                continue
            gone.add(row.index)
            del self._left[row.index]
        return gone

    def _take_fewer(self, error: Exception, longest: int) -> None:
        """Halve what is in flight, rows of up to `longest` slots; raise `error` where it is one."""
        if isinstance(error, OutOfMemoryError):
            # A single prompt could not be read beside them.
            self._in_flight += 1
            if self._in_flight == 1:
                raise error
        halve = self.runner.budget.halve
        refuse_or_halve(error, self._in_flight, f"sequence of {longest} tokens", halve=halve)
        self._take_slots(min(self._slots, self._in_flight * longest) // 2)
        if self.runner.on_halved is not None:
            self.runner.on_halved(self._in_flight // 2)

    def _take_slots(self, slots: int) -> None:
        """Let rows in flight hold `slots` slots together, with room for all they will generate.

        New rows join when the active ones have left a part of them. A GPU moves the cache in the
        time of a step, so that smaller parts keep more rows active.
        """
        parts = _GPU_PARTS if self.runner.budget.all_levels else _CPU_PARTS
        part = slots // parts
        budget = replace(self.runner.budget, cache_tokens=part)
        self.runner = self.runner.with_budget(budget)
        self._slots, self._full = slots, part * (parts - 1)

    def _admit(self, batch: DecodeBatch, waiting: Iterator[Step], rows: list[Row]) -> bool:
        """Take prefilled rows into the batch; whether there may be more of them."""
        taken, slots, more = [], batch.slots, True
        while more and slots <= self._full:
            step = next(waiting, None)
            more = step is not None
            if step is None or step.key_values is None:
                continue
            members = [
                (place, rows[index]) for place, node in enumerate(step.nodes) for index in node.ends
            ]
            if not members:
                continue
            self._in_flight += len(members)
            places = [place for place, _ in members]
            last = [step.firsts[place] + len(step.nodes[place].tokens) - 1 for place in places]
            self._extend([row for _, row in members], step.rows.flatten(0, 1)[last])
            taken.append((step.key_values, members))
            longest = max(len(row.prompt) for _, row in members)
            slots += len(members) * (longest + self.stopping.max_new_tokens)
        # Hidden states of whole prompts, while their keys and values are moved.
        del step
        batch.join(taken)
        return more

    def _extend(self, rows: list[Row], states: Tensor) -> None:
        """Choose the next token of each of `rows` from `states` (rows, width)."""
        with torch.inference_mode():
            self.extend(rows, self.runner.forward.next_logits(states))
