"""Speculative decoding: a cheap draft proposes tokens, one pass of the target checks them all.

Decode is bound by reading weights, so a pass over a few tokens costs the target little more than a
pass over one. Greedily, a proposed token is kept where it is the target's own choice; behind the
first that is not, the target's choice stands, and both caches forget what lay beyond. The tokens
are therefore those of plain greedy decoding, except where rounding decides between two tokens:
a pass over several tokens sums in another order than a pass over one.

With sampling (Leviathan et al. 2023, arXiv:2211.17192), a proposed token x is kept with
probability min(1, p(x) / q(x)), which happens with probability 1 − TV(p, q) for a token drawn by
the draft: the figure that the quality pass predicts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from evalkit.errors import VariantError
from evalkit.scoring.batching import short_rope_length

# Prompt lookup searches for the last tokens, longest first, as in transformers.
LONGEST_NGRAM = 3


@dataclass
class Decoded:
    """Tokens behind a prompt and what they took; `margins` are nats between the best two tokens.

    `passes` counts passes of the target behind the prompt, `kept` the proposed tokens that stand,
    `examined` those that stand and the first refused one of each pass, `drafted` all of them.
    """

    tokens: list[int]
    seconds: float
    passes: int
    drafted: int = 0
    examined: int = 0
    kept: int = 0
    margins: tuple[float, ...] = ()


class Draft(Protocol):
    """Whatever proposes tokens behind `tokens` (prompt and all that was generated)."""

    def begin(self) -> None:
        """Forget everything: a new prompt follows."""

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that may follow."""


class CachedModel:
    """A model, its keys and values, and passes that go on from any earlier point."""

    def __init__(self, model: PreTrainedModel) -> None:
        _check_croppable(model)
        self.model = model
        # Without a configuration every layer keeps all tokens, those of sliding windows too.
        self.cache = DynamicCache()
        self.limit = short_rope_length(model.config)

    def begin(self) -> None:
        """Empty the cache."""
        self.cache = DynamicCache()

    def logits(self, tokens: Sequence[int], last: int) -> Tensor:
        """Logits (last, vocabulary) behind the `last` newest of `tokens`; the cache holds all."""
        past = int(self.cache.get_seq_length())
        if self.limit is not None and past <= self.limit < len(tokens):
            # Keys computed under the short factors of longrope hold no longer.
            self.begin()
            past = 0
        ids = torch.tensor([list(tokens[past:])], device=self.model.device)
        output = self.model(
            input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=last
        )
        rows: Tensor = output.logits[0, -last:]
        return rows

    def keep(self, length: int) -> None:
        """Forget all cached tokens beyond the first `length`."""
        beyond = int(self.cache.get_seq_length()) - length
        if beyond > 0:
            self.cache.crop(-beyond)


class ModelDraft:
    """Another model of the same vocabulary proposes its own greedy choices."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.cached = CachedModel(model)
        self.read: list[int] = []

    def begin(self) -> None:
        """Empty the cache; see Draft."""
        self.cached.begin()
        self.read = []

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """`count` greedy steps behind `tokens`; see Draft."""
        # What was proposed last time and refused is still in the cache; the newest token never is.
        self.cached.keep(min(_agreement(self.read, tokens), len(tokens) - 1))
        found: list[int] = []
        while len(found) < count:
            row = self.cached.logits([*tokens, *found], 1)
            found.append(int(row[0].argmax()))
        self.read = [*tokens, *found[:-1]]
        return found


class PromptLookup:
    """Proposes what followed the last tokens where they occurred before (Saxena 2023)."""

    def begin(self) -> None:
        """Nothing is kept; see Draft."""

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """What followed the newest earlier occurrence of the last tokens; see Draft."""
        for size in range(min(LONGEST_NGRAM, len(tokens) - 1), 0, -1):
            wanted = list(tokens[-size:])
            for start in range(len(tokens) - size - 1, -1, -1):
                if list(tokens[start : start + size]) == wanted:
                    return list(tokens[start + size : start + size + count])
        return []


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    prompt: Sequence[int],
    count: int,
    *,
    draft: Draft | None = None,
    draft_tokens: int = 0,
    margins: bool = False,
) -> Decoded:
    """`count` greedy tokens behind `prompt`, without a stop at the end of the text.

    Args:
        model: the target, in evaluation mode.
        prompt: token ids, at least one.
        count: tokens to generate.
        draft: proposes tokens; None decodes plainly, one token a pass.
        draft_tokens: tokens proposed before each pass, at most.
        margins: record by how much each token won; costs a little time.

    The time begins behind the pass that reads the prompt. Raises VariantError for a model whose
    cache cannot be taken back.
    """
    target = CachedModel(model)
    tokens = list(prompt)
    gaps: list[float] = []
    row = target.logits(tokens, 1)
    tokens.append(int(row[0].argmax()))
    gaps += _gaps(row) if margins else []
    if draft is not None:
        draft.begin()
    done = Decoded([], 0.0, 0)
    end = len(prompt) + count
    begun = time.perf_counter()
    while len(tokens) < end:
        proposed: list[int] = []
        room = min(draft_tokens, end - len(tokens) - 1, _regime_room(target.limit, len(tokens)))
        if draft is not None and room > 0:
            proposed = draft.propose(tokens, room)[:room]
        rows = target.logits([*tokens, *proposed], len(proposed) + 1)
        choices: list[int] = rows.argmax(-1).tolist()
        kept = _agreement(proposed, choices)
        gaps += _gaps(rows[: kept + 1]) if margins else []
        tokens += choices[: kept + 1]
        target.keep(len(tokens) - 1)
        done.passes += 1
        done.drafted += len(proposed)
        done.kept += kept
        done.examined += min(kept + 1, len(proposed))
    done.seconds = time.perf_counter() - begun
    done.tokens, done.margins = tokens[len(prompt) :], tuple(gaps)
    return done


@torch.inference_mode()
def sampled_acceptance(
    model: PreTrainedModel,
    draft: PreTrainedModel,
    prompt: Sequence[int],
    count: int,
    generator: torch.Generator,
) -> tuple[float, int]:
    """Sum over `count` sampled tokens of the chance that a draft's token is accepted, and `count`.

    The text is drawn from the target at temperature 1; at each token the chance is
    Σ min(p, q) = 1 − TV, so its mean is the acceptance rate of speculative sampling on text of the
    model's own, with less noise than counting accepted draws.
    """
    first, second = CachedModel(model), CachedModel(draft)
    tokens = list(prompt)
    total = 0.0
    for _ in range(count):
        p = first.logits(tokens, 1)[0].float().softmax(-1)
        q = second.logits(tokens, 1)[0].float().softmax(-1)
        total += float(torch.minimum(p, q).sum())
        tokens.append(int(torch.multinomial(p.cpu(), 1, generator=generator)))
    return total, count


def _agreement(proposed: Sequence[int], choices: Sequence[int]) -> int:
    """How many of the `proposed` tokens, from the first on, equal the `choices`."""
    for index, (token, choice) in enumerate(zip(proposed, choices, strict=False)):
        if token != choice:
            return index
    return min(len(proposed), len(choices))


def _regime_room(limit: int | None, length: int) -> int:
    """Tokens that may be proposed behind `length` tokens without changing how these are read.

    A longrope model reads all tokens anew once there are more than `limit`: a pass that reached
    beyond would judge tokens before the limit by the long factors, as plain decoding does not.
    """
    if limit is None or length > limit:
        return 2**31
    return limit - length


def _gaps(rows: Tensor) -> list[float]:
    """Differences of the two best logits, which are differences of log-probabilities in nats."""
    best = rows.float().topk(2, dim=-1).values
    gaps: list[float] = (best[:, 0] - best[:, 1]).tolist()
    return gaps


def _check_croppable(model: PreTrainedModel) -> None:
    """Raise VariantError where a layer keeps a state that cannot be taken back."""
    layers = DynamicCache(config=model.config).layers
    kinds = {type(layer) for layer in layers} - {DynamicLayer, DynamicSlidingWindowLayer}
    if getattr(model, "_is_stateful", False) or kinds:
        raise VariantError(
            f"{type(model).__name__} keeps a state that cannot be taken back to an earlier token: "
            "speculative decoding needs a model whose layers keep keys and values of every token"
        )


def first_difference(one: Decoded, two: Decoded) -> tuple[int | None, float, float]:
    """Where two decodings with margins part, what it took, and what rounding did before.

    Returns the index of the first token that differs (None: all are equal), by how many nats the
    lead of one token over the other changed there, and the largest change of a lead before it.
    """
    pairs = list(zip(one.tokens, two.tokens, strict=True))
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    equal = list(zip(one.margins, two.margins, strict=True))[:at]
    noise = max((abs(a - b) for a, b in equal), default=0.0)
    return at, 0.0 if at is None else one.margins[at] + two.margins[at], noise
