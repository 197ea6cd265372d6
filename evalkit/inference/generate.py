"""Text generation in batches that stay full: prompts share prefixes, finished rows make room.

Prefill runs all prompt tokens in a few large passes; decode then runs one token a row and reads
every weight for it, so what counts is that no row of the batch is idle. A row leaves as soon as it
has stopped, and waiting prompts join. Keys and values lie in buffers with room for all tokens to
come: a step writes one slot instead of copying everything before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from evalkit.errors import NotFiniteError, OutOfMemoryError
from evalkit.inference.decode_batch import DecodeBatch, Row
from evalkit.inference.decoding import Chooser, Decoding, Stopping
from evalkit.inference.prefix import PrefixRunner, Step
from evalkit.scoring.batching import short_rope_length
from evalkit.scoring.halving import refuse_or_halve, release_memory

_CPU_PARTS, _GPU_PARTS = 2, 4
# Last tokens of a prompt that are read behind kept keys and values to see whether that is exact.
_COMPARED_TOKENS = 8


def generate_texts(
    runner: PrefixRunner,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    seeds: Sequence[int],
    on_generated: Callable[[int, str], None] | None = None,
) -> list[str]:
    """The text generated after each prompt, in the order of `prompts`, stop strings cut off.

    Args:
        runner: the model and its budget; `cache_tokens` bounds prompts and generated tokens.
        tokenizer: makes text of tokens.
        prompts: token ids; each with room for `max_new_tokens` in the model's context.
        decoding: how to choose tokens and when to stop.
        seeds: one a prompt; a sampled text depends on its own seed, not on its neighbours.
        on_generated: called with each prompt's index and text as soon as it is known.

    Raises DataError for options the model's generation does not know or that need a search, and
    NotFiniteError with the index of a prompt whose logits are not numbers.
    """
    chooser = Chooser(runner.model, decoding)
    stopping = Stopping(tokenizer, decoding, chooser.end_tokens)
    rows = [
        Row(index, list(prompt), [], torch.Generator().manual_seed(seed))
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]
    texts: dict[int, str] = {}

    def finish(row: Row) -> None:
        texts[row.index] = stopping.text(row.tokens)
        if on_generated is not None:
            on_generated(row.index, texts[row.index])

    # Prompts beyond that length are rotated otherwise.
    limit = short_rope_length(runner.model.config)
    longest = max((r.prompt for r in rows if not limit or r.length <= limit), key=len, default=[])
    runner.compare(longest, len(longest) - _COMPARED_TOKENS)
    # Such models are told other positions by transformers' own loop than they count themselves.
    if runner.shares and not runner.first_position:
        _Generation(runner, chooser, stopping, finish).run(rows)
    else:
        for row in rows:
            row.tokens += _alone(runner.model, tokenizer, row, decoding)
            finish(row)
    return [texts[index] for index in range(len(rows))]


class _Generation:
    """Rows on their way through prefill and decode."""

    def __init__(
        self,
        runner: PrefixRunner,
        chooser: Chooser,
        stopping: Stopping,
        finish: Callable[[Row], None],
    ) -> None:
        self.runner = runner
        self._take_slots(runner.budget.cache_tokens)
        self.chooser = chooser
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
            logits = self.runner.forward.next_logits(states)
        _refuse_broken(logits, rows)
        for row, token in zip(rows, self.chooser.choose(rows, logits), strict=True):
            row.tokens.append(token)


def _refuse_broken(logits: Tensor, rows: Sequence[Row]) -> None:
    """Raise NotFiniteError for a row of `logits` (rows, vocabulary) that holds NaN or infinity.

    A token can be ruled out by minus infinity, but not every token.
    """
    broken = ~logits.amax(-1).isfinite()
    if broken.any():
        index = rows[int(broken.nonzero()[0])].index
        raise NotFiniteError(f"the logits of prompt {index} are not numbers", index)


def _alone(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, row: Row, decoding: Decoding
) -> list[int]:
    """Tokens after one prompt by the model's own loop: padding would enter a recurrent state."""

    def checked(_: Tensor, logits: Tensor) -> Tensor:
        _refuse_broken(logits, [row])
        return logits

    ids = torch.tensor([row.prompt], device=model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(row.random.initial_seed())
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=decoding.max_new_tokens,
            stop_strings=list(decoding.stop) or None,
            tokenizer=tokenizer,
            logits_processor=LogitsProcessorList([checked]),
            **decoding.options,
        )
    tokens: list[int] = output[0, len(row.prompt) :].tolist()
    return tokens
