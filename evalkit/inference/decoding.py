"""How a token is chosen and when a text ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation import GenerationMode
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from evalkit.errors import DataError
from evalkit.inference.decode_batch import Row
from evalkit.records.answers import StopReason

# These look at the logits only; all other processors also look at the row's own tokens.
_MEMORYLESS = (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)


@dataclass(frozen=True)
class Decoding:
    """How to generate: at most `max_new_tokens`, up to the first of the strings `stop`.

    `options` are generation options of transformers (do_sample, temperature, top_p, …); those not
    given are the model's own defaults.
    """

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Prepared:
    """What transformers makes of the options for a prompt."""

    processors: LogitsProcessorList
    mode: GenerationMode
    end_tokens: frozenset[int]


class Chooser:
    """Chooses tokens as `generate` of transformers does, greedily or by drawing.

    Raises DataError for options it does not know or that need a search over several texts.
    """

    def __init__(self, model: PreTrainedModel, decoding: Decoding) -> None:
        self.model = model
        self.decoding = decoding
        prepared = self._prepare([0])
        if prepared.mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
            raise DataError(
                f"generation by {prepared.mode.value} ({_shown(decoding.options)}) is not "
                "supported: tokens are chosen greedily or drawn; set num_beams to 1"
            )
        self.samples = prepared.mode == GenerationMode.SAMPLE
        self.end_tokens = prepared.end_tokens
        self._shared = prepared.processors
        self._own: dict[int, LogitsProcessorList] = {}
        self._memoryless = all(type(one) in _MEMORYLESS for one in prepared.processors)

    def scores(self, rows: Sequence[Row], logits: Tensor) -> Tensor:
        """What the next token of each row is chosen by: float32 (rows, vocabulary)."""
        # A processor may change its input in place.
        scores = logits.to(torch.float32, copy=True)
        if not self._memoryless:
            scores = torch.cat(
                [self._processed(row, one[None]) for row, one in zip(rows, scores, strict=True)]
            )
        elif self._shared:
            scores = self._shared(torch.zeros((len(rows), 1), dtype=torch.long), scores)
        return scores

    def chosen(self, rows: Sequence[Row], scores: Tensor) -> list[int]:
        """The next token of each row by its `scores` (rows, vocabulary)."""
        if not self.samples:
            return [int(token) for token in scores.argmax(-1).tolist()]
        return _drawn(scores, rows)

    def _processed(self, row: Row, scores: Tensor) -> Tensor:
        # Once for a row, as `generate` does: they may look at the prompt, and remember.
        if row.index not in self._own:
            self._own[row.index] = self._prepare(row.prompt).processors
        history = torch.tensor([[*row.prompt, *row.tokens]], device=scores.device)
        return self._own[row.index](history, scores)

    def _prepare(self, prompt: Sequence[int]) -> _Prepared:
        """Let `generate` prepare itself for `prompt`, and stop it where it would begin."""
        caught: dict[str, Any] = {}

        def catch(_model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
            caught.update(prepared)
            return input_ids

        ids = torch.tensor([list(prompt)], device=self.model.device)
        try:
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                custom_generate=catch,
                max_new_tokens=self.decoding.max_new_tokens,
                **self.decoding.options,
            )
        except (ValueError, TypeError, NotImplementedError) as error:
            line = " ".join(str(error).split())
            raise DataError(f"generation options {_shown(self.decoding.options)}: {line}") from None
        config = caught["generation_config"]
        ends = config.eos_token_id
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        mode = config.get_generation_mode()
        return _Prepared(caught["logits_processor"], mode, frozenset(int(end) for end in ends))


def peaks(scores: Tensor) -> Tensor:
    """Of each row of `scores` (rows, vocabulary) what they add up to, and the best one's lead.

    The former is the logarithm of the sum of exponentials, the latter in nats: (rows, 2).
    """
    best = scores.topk(2, dim=-1).values
    return torch.stack([scores.logsumexp(-1), best[:, 0] - best[:, 1]], -1)


class Stopping:
    """Tells when a row is complete, and what its text is."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        decoding: Decoding,
        end_tokens: Collection[int],
    ) -> None:
        self.tokenizer = tokenizer
        self.max_new_tokens = decoding.max_new_tokens
        self.strings = [string for string in decoding.stop if string]
        self.end_tokens = frozenset(end_tokens)
        self._may_complete: dict[int, bool] = {}

    def stops(self, tokens: Sequence[int]) -> bool:
        """Whether a row that has generated `tokens` is complete with the last of them."""
        last = tokens[-1]
        if len(tokens) >= self.max_new_tokens or last in self.end_tokens:
            return True
        if last not in self._may_complete:
            self._may_complete[last] = self._can_complete(last)
        if not self._may_complete[last]:
            return False
        text = self.tokenizer.decode(tokens, skip_special_tokens=False)
        return any(string in text for string in self.strings)

    def reason(self, tokens: Sequence[int]) -> StopReason:
        """Why a complete row ended."""
        if tokens[-1] in self.end_tokens:
            return "end"
        text = self.tokenizer.decode(tokens, skip_special_tokens=False)
        return "string" if any(string in text for string in self.strings) else "length"

    def text(self, tokens: Sequence[int]) -> str:
        """The text of `tokens` without special tokens, up to the first stop string."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        for string in self.strings:
            text = text.split(string, maxsplit=1)[0]
        return text

    def _can_complete(self, token: int) -> bool:
        """Whether a stop string can end in this token; decoding all text each time is slow.

        A token may hold a part of a character only, and decoders trim blanks: then it can.
        """
        ends = {string[-1] for string in self.strings}
        if any(end.isspace() or not end.isascii() for end in ends - {"\n"}):
            return True
        text = self.tokenizer.decode([token], skip_special_tokens=False)
        return any(end in text for end in ends)


def _drawn(scores: Tensor, rows: Sequence[Row]) -> list[int]:
    """One token a row, drawn with the row's own random numbers."""
    # First what can run out of memory: a row that begins anew must not have drawn.
    cumulative = scores.softmax(-1).double().cumsum(-1)
    uniform = torch.stack([torch.rand((1,), generator=row.random) for row in rows]).double()
    points = uniform.to(cumulative.device) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, points, right=True)[:, 0]
    return [int(token) for token in tokens.clamp_(max=scores.shape[-1] - 1).tolist()]


def _shown(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items()) or "none"
