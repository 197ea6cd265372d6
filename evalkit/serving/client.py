"""What evalkit asks of an OpenAI-compatible server: /models and /completions.

Prompts are sent as token ids, so that the server reads what every other variant reads. Servers
that take text only are sent the text of those ids, and the number of tokens they report must be
the same. Log-probabilities of the prompt come with `echo` and `logprobs`; what comes back is
checked, as some servers answer such a request without them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from evalkit.errors import NotFiniteError
from evalkit.serving.http import Address, ServerError, call, stream

TextOf = Callable[[Sequence[int]], str]
# Rounding may leave a probability a little above one.
_ABOVE_ONE = 1e-3
_EVERY_TOKEN = 10**6
_MOST_TOKENS = 10**9
_OWN_TEXT = 2
# Fields of /models that say which model it is; others change with each start.
_DESCRIBING = ("id", "root", "parent", "max_model_len", "meta")
_PRINT_TOKENS = 16
_WRONG_REQUEST = (400, 404, 415, 422, 500, 501)


@dataclass(frozen=True)
class PromptScores:
    """For tokens 1 to n - 1 of a prompt of n: log-probability in nats, and whether it was the best.

    None where the server gives none, as some do for the first token after BOS.
    """

    logprobs: list[float | None]
    greedy: list[bool]


@dataclass(frozen=True)
class Streamed:
    """One streamed completion: seconds to the first token, and between the pieces that followed.

    `tokens` is what the server counted, or else the number of pieces; `prompt` likewise or 0.
    """

    first: float
    gaps: tuple[float, ...]
    seconds: float
    tokens: int
    prompt: int


@dataclass
class Client:
    """One model of one server. `text_of` turns token ids into text, special tokens included.

    `takes_tokens` and `adds_bos` (a text-only server puts `bos` before each prompt by itself) are
    found out by `open`.
    """

    address: Address
    model: str
    text_of: TextOf
    bos: int | None = None
    takes_tokens: bool = True
    adds_bos: bool = True
    after_bos: dict[str, float] | None = None
    extras: dict[str, Any] = field(default_factory=lambda: {"ignore_eos": True})
    # Asked for with each text, as they alone show that the logits were numbers.
    logprobs: dict[str, Any] = field(default_factory=lambda: {"logprobs": 1})

    def served_models(self) -> list[str]:
        """The names of the models the server offers, as it tells them; empty where it does not."""
        try:
            answer = call(self.address, "/models")
        except ServerError as error:
            if error.status:
                return []
            raise
        entries = answer.get("data") if isinstance(answer, dict) else None
        found = entries if isinstance(entries, list) else []
        names = [entry.get("id") for entry in found if isinstance(entry, dict)]
        return [self.address.shown(name) for name in names if isinstance(name, str)][:100]

    def description(self) -> dict[str, Any]:
        """What the server tells of its model, without the time at which it was started."""
        try:
            entries = call(self.address, "/models").get("data", [])
        except (ServerError, AttributeError):
            return {}
        own = [e for e in entries if isinstance(e, dict) and e.get("id") == self.model]
        return {k: v for k, v in own[0].items() if k in _DESCRIBING} if own else {}

    def answer_print(self, tokens: Sequence[int]) -> list[Any]:
        """How the model goes on after `tokens`, and to one hundredth how likely it finds each.

        Log-probabilities tell apart what answers alike, such as INT8 and FP16 of one model; an
        empty list stands for a server that gives none. Ones that are no numbers fail where they
        are measured, not here.
        """
        text, scores = "", list[float | None]()
        with contextlib.suppress(NotFiniteError):
            text = self.complete(tokens, {"max_tokens": _PRINT_TOKENS, "temperature": 0})
        with contextlib.suppress(ServerError, NotFiniteError):
            scores = self.prompt_scores(tokens).logprobs
        return [text, [None if score is None else round(score, 2) for score in scores]]

    def open(self, sample: Sequence[int]) -> None:
        """Find out whether prompts may be token ids; raises ServerError where neither works."""
        self.takes_tokens = True
        try:
            self._complete(sample, {"max_tokens": 1})
        except ServerError as error:
            if error.status not in _WRONG_REQUEST:
                raise
            self.takes_tokens = False
            self._see_bos(sample)

    def _see_bos(self, sample: Sequence[int]) -> None:
        """Whether a text-only server puts BOS before a prompt by itself."""
        self.adds_bos = True
        answer = self._complete(sample, {"max_tokens": 1})
        self.adds_bos = sample[0] != self.bos or _usage(answer, "prompt_tokens") != len(sample) - 1
        if not self.adds_bos:
            answer = self._complete(sample, {"max_tokens": 1})
        self._check_count(answer, len(sample))

    def prompt_scores(self, tokens: Sequence[int]) -> PromptScores:
        """Log-probabilities of a prompt of at least two tokens, each given those before it.

        Raises ServerError where the server gives none, or for other tokens.
        """
        settings = {"max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        answer = self._complete(tokens, settings)
        self._check_count(answer, len(tokens))
        scores = self._scores(answer, len(tokens))
        if scores.logprobs[0] is None and not self.takes_tokens and tokens[0] == self.bos:
            self._add_first(answer, scores)
        return scores

    def _add_first(self, answer: Any, scores: PromptScores) -> None:
        """The token after BOS, which is not in an answer, from the distribution after BOS alone.

        Tokens are told apart by their text, which is their own from two characters on: pieces for
        single bytes share theirs.
        """
        found = self._choice(answer).get("logprobs")
        words = found.get("tokens") if isinstance(found, dict) else None
        word = words[0] if isinstance(words, list) and words else None
        if not isinstance(word, str) or len(word) < _OWN_TEXT:
            return
        if self.after_bos is None:
            self.after_bos = self._distribution(self.text_of([int(self.bos or 0)]))
        value = self._logprob(self.after_bos.get(word))
        if value is not None:
            scores.logprobs[0] = value
            scores.greedy[0] = value >= max(self.after_bos.values())

    def _distribution(self, prompt: str) -> dict[str, float]:
        """Log-probabilities of all next tokens by their text; empty where the server gives few."""
        settings = {"max_tokens": 1, "temperature": 0, "logprobs": _EVERY_TOKEN}
        body = {"model": self.model, "prompt": prompt, **settings}
        try:
            found = self._choice(call(self.address, "/completions", body)).get("logprobs")
        except ServerError:
            return {}
        tops = found.get("top_logprobs") if isinstance(found, dict) else None
        first = tops[0] if isinstance(tops, list) and tops else None
        pairs = first.items() if isinstance(first, dict) else ()
        return {word: value for word, value in pairs if self._logprob(value) is not None}

    def complete(self, tokens: Sequence[int], settings: dict[str, Any]) -> str:
        """The generated text; raises NotFiniteError where its probabilities are not numbers."""
        choice = self._choice(self._completion(tokens, settings))
        found = choice.get("logprobs")
        values = found.get("token_logprobs") if isinstance(found, dict) else None
        for value in values if isinstance(values, list) else []:
            self._logprob(value)
        text = choice.get("text")
        if not isinstance(text, str):
            raise self._unusable("a completion without text")
        return text

    def _completion(self, tokens: Sequence[int], settings: dict[str, Any]) -> Any:
        """A completion with log-probabilities from a server that knows them."""
        # Several requests are under way at once: each looks at what it sent itself.
        logprobs = self.logprobs
        try:
            return self._complete(tokens, settings | logprobs)
        except ServerError as error:
            if not logprobs or error.status not in _WRONG_REQUEST:
                raise
        answer = self._complete(tokens, settings)
        self.logprobs = {}
        return answer

    def stream(self, tokens: Sequence[int], count: int) -> Streamed:
        """Stream `count` greedy tokens behind a prompt, without a stop at the end-of-text token."""
        extras = self.extras
        settings = {
            "max_tokens": count, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, **extras,
        }  # fmt: skip
        try:
            return self._stream(tokens, settings, count)
        except ServerError as error:
            if not extras or error.status not in _WRONG_REQUEST:
                raise
        # Not every server knows of ignore_eos.
        self.extras = {}
        settings.pop("ignore_eos", None)
        settings.pop("stream_options", None)
        return self._stream(tokens, settings, count)

    def _stream(self, tokens: Sequence[int], settings: dict[str, Any], count: int) -> Streamed:
        times: list[float] = []
        made = prompt = 0
        for seconds, event in stream(self.address, "/completions", self._body(tokens, settings)):
            made = _usage(event, "completion_tokens") or made
            prompt = _usage(event, "prompt_tokens") or prompt
            choices = event.get("choices") if isinstance(event, dict) else None
            if choices and self._choice(event).get("text"):
                times.append(seconds)
            if len(times) > 2 * count + 16:
                raise ServerError(f"{self.address.url} streams more than the {count} tokens asked")
        if not times:
            raise self._unusable("a stream without any text")
        gaps = tuple(b - a for a, b in pairwise(times))
        return Streamed(times[0], gaps, times[-1], min(made or len(times), count), prompt)

    def _complete(self, tokens: Sequence[int], settings: dict[str, Any]) -> Any:
        return call(self.address, "/completions", self._body(tokens, settings))

    def _body(self, tokens: Sequence[int], settings: dict[str, Any]) -> dict[str, Any]:
        prompt: Any = [int(token) for token in tokens]
        if not self.takes_tokens:
            begins = self.adds_bos and prompt[:1] == [self.bos]
            prompt = self.text_of(prompt[1:] if begins else prompt)
        return {"model": self.model, "prompt": prompt, **settings}

    def _check_count(self, answer: Any, wanted: int) -> None:
        """Text-only servers tokenise themselves: raise ServerError where it is not the same."""
        counted = _usage(answer, "prompt_tokens")
        if counted and counted != wanted:
            hint = "" if self.takes_tokens else " (it takes text only, and tokenises it itself)"
            raise ServerError(
                f"{self.address.url} reads {counted} tokens where --model's tokenizer makes"
                f" {wanted}{hint}: give --model the checkpoint it serves; windows must begin with "
                "BOS where the server adds it (--convention llama.cpp)"
            )

    def _choice(self, answer: Any) -> dict[str, Any]:
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise self._unusable("an answer without choices")
        choice: dict[str, Any] = choices[0]
        return choice

    def _scores(self, answer: Any, count: int) -> PromptScores:
        found = self._choice(answer).get("logprobs")
        values = found.get("token_logprobs") if isinstance(found, dict) else None
        tops = found.get("top_logprobs") if isinstance(found, dict) else None
        values = values if isinstance(values, list) else []
        # Behind the prompt's tokens comes the generated one, unless it is special. Servers that
        # put BOS before a text may leave it out.
        generated = _usage(answer, "completion_tokens", unknown=1) > 0
        drops = not self.takes_tokens and self.adds_bos and len(values) in (
            count - 1, count if generated else -1
        )  # fmt: skip
        missing = 1 if drops else 0
        prompt = values[: count - missing]
        if len(prompt) < count - missing:
            raise ServerError(
                f"{self.address.url} gives no log-probabilities of the prompt "
                f"({len(values)} values for {count} tokens): perplexity and tasks of choices cannot"
                " be measured there; vLLM, SGLang and llama-cpp-python give them"
            )
        wanted = prompt if missing else prompt[1:]
        tops = tops[1 - missing : len(prompt)] if isinstance(tops, list) else []
        logprobs = [self._logprob(value) for value in wanted]
        if sum(value is None for value in logprobs[1:]) or len(logprobs) != count - 1:
            raise self._unusable("log-probabilities with gaps")
        greedy = [
            value is not None and _is_best(value, top)
            for value, top in zip(logprobs, tops or [None] * len(logprobs), strict=False)
        ]
        return PromptScores(logprobs, greedy)

    def _logprob(self, value: Any) -> float | None:
        if value is None:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or value > _ABOVE_ONE:
            raise self._unusable(f"the log-probability {value!r}")
        if not value > -sys.float_info.max:
            raise NotFiniteError(f"{self.address.url} answers with the log-probability {value}")
        return min(0.0, float(value))

    def _unusable(self, what: str) -> ServerError:
        return ServerError(f"{self.address.url} answers with {self.address.shown(what)}")


def _is_best(value: float, top: Any) -> bool:
    """Whether no alternative is more likely; without alternatives it is not known to be best."""
    if not isinstance(top, dict):
        return False
    others = [one for one in top.values() if isinstance(one, int | float)]
    return bool(others) and value >= max(others)


def _usage(answer: Any, name: str, unknown: int = 0) -> int:
    """A number of tokens the server tells ("prompt_tokens"); `unknown` where it does not."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and 0 <= value < _MOST_TOKENS else unknown
