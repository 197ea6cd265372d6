"""A served model as a language model of lm-eval, and windows scored by it.

Prompts are tokenised here as for every other variant; the server gives log-probabilities of the
tokens that really occur, and which were the most likely. It gives no distributions, so nothing
that needs one (divergences, agreement with a baseline) can be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from transformers import PreTrainedTokenizerBase

from evalkit.errors import DataError, VariantError
from evalkit.inference.prefix_scores import Request
from evalkit.scoring.engine import ScoredBatch
from evalkit.serving.client import Client
from evalkit.tasks.lm_eval_requests import Arguments, decoding_of, request_seeds, rolling_windows
from evalkit.tasks.lm_eval_tokens import TextEncoder
from evalkit.texts.windows import Windows

T = TypeVar("T")
# What servers take of the generation options that lm-eval's tasks use.
_SAMPLING = {"temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"}
_MOST_STOPS = 4


class EndpointLM(TemplateLM):
    """Answers lm-eval's requests by a server; every answer goes to `cache_hook` at once."""

    def __init__(
        self,
        client: Client,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        parallel: int = 4,
        max_gen_toks: int = 256,
    ) -> None:
        """Wrap a client; `max_length` is the context in tokens, `parallel` requests at once."""
        super().__init__()
        self.client = client
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(tokenizer, None, None, None)
        self.parallel = parallel
        self.truncated = 0
        self._max_length = max_length
        self._max_gen_toks = max_gen_toks
        self._known: dict[str, Mapping[int, Any]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the run's record about how the requests were answered."""
        if not self.truncated:
            return ()
        return (
            f"{self.truncated} requests were longer than the context of {self._max_length} tokens "
            "and lost tokens from the left",
        )

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.encoder.end_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without context."""
        return self.encoder.prefix_token_id

    @property
    def tokenizer_name(self) -> str:
        """Name of tokenizer and chat template for lm-eval's request cache."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of `string`; without a word about it, BOS is added as the tokenizer does."""
        return self.encoder.encode(string, add_special_tokens)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt of a conversation; raises DataError for a tokenizer without a template."""
        return self.encoder.chat_prompt(chat_history, generation=add_generation_prompt)

    def remember(self, kind: str, answers: Mapping[int, Any]) -> None:
        """Give answers of earlier, by place in the next list of requests of this `kind`."""
        self._known[kind] = dict(answers)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts, each token after as much context as fits."""

        def answer(index: int) -> float:
            tokens = self.tok_encode(requests[index].args[0])
            tokens = tokens[1:] if tokens[:1] == [self.prefix_token_id] else tokens
            windows = rolling_windows(tokens, self.prefix_token_id, self._max_length - 2)
            return sum(self._score(window)[0] for window in windows)

        return self._answers("loglikelihood_rolling", [r.args for r in requests], answer)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generated text up to the first stop string, for each request."""
        arguments = [request.args for request in requests]
        seeds = request_seeds(arguments, None)

        def answer(index: int) -> str:
            return self._generate(*arguments[index], seed=seeds[index])

        return self._answers("generate_until", arguments, answer)

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        def answer(index: int) -> tuple[float, bool]:
            return self._score(Request(*requests[index][1:]))

        return self._answers("loglikelihood", [request[0] for request in requests], answer)

    def _answers(
        self, kind: str, arguments: Sequence[Arguments], answer: Callable[[int], T]
    ) -> list[T]:
        """Answers in order; each is told as it comes, and a first failure ends all."""
        found: dict[int, T] = dict(self._known.pop(kind, {}))
        left = [index for index in range(len(arguments)) if index not in found]
        for index, one in in_parallel(left, answer, self.parallel):
            found[index] = one
            self.cache_hook.add_partial(kind, arguments[index], one)
        return [found[index] for index in range(len(arguments))]

    def _score(self, request: Request) -> tuple[float, bool]:
        """Log-likelihood of a continuation after its context, and whether it is greedy."""
        tokens = [*request.context, *request.continuation]
        count = len(request.continuation)
        # Servers ask for room for one generated token.
        room = self._max_length - 1
        if len(tokens) > room:
            self.truncated += 1
            tokens = tokens[-room:]
            count = min(count, len(tokens) - 1)
        scores = self.client.prompt_scores(tokens)
        wanted = scores.logprobs[-count:]
        return _complete(wanted), all(scores.greedy[-count:])

    def _generate(self, prompt: str, settings: dict[str, Any], *, seed: int) -> str:
        decoding = decoding_of(settings, self._max_gen_toks, self.encoder.end_text)
        room = self._max_length - decoding.max_new_tokens
        if room < 1:
            raise DataError(
                f"{decoding.max_new_tokens} tokens to generate leave no room for a prompt in a "
                f"context of {self._max_length}: lower max_gen_toks"
            )
        tokens = self.tok_encode(prompt)
        self.truncated += len(tokens) > room
        body: dict[str, Any] = {"max_tokens": decoding.max_new_tokens, "temperature": 0}
        if decoding.options.get("do_sample"):
            body |= {"temperature": 1.0, "seed": seed % 2**31}
            body |= {k: v for k, v in decoding.options.items() if k in _SAMPLING}
        if decoding.stop:
            body["stop"] = list(decoding.stop)[:_MOST_STOPS]
        text = self.client.complete(tokens[-room:], body)
        for string in decoding.stop:
            text = text.split(string, maxsplit=1)[0] if string else text
        return text


@dataclass(frozen=True)
class ServedModel:
    """A model in a server that is there, in place of a loaded one.

    `kernel` names the model as the server calls it; `notes` are lines for the run's record.
    """

    client: Client
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    parallel: int
    kernel: str
    notes: tuple[str, ...] = ()

    def language_model(self) -> EndpointLM:
        """An lm-eval model that asks the server."""
        return EndpointLM(
            self.client, self.tokenizer, max_length=self.max_length, parallel=self.parallel
        )

    def scored(self, windows: Windows, done: Collection[int]) -> Iterator[ScoredBatch]:
        """Negative log-likelihoods of the windows that are not done."""
        return score_by_server(self.client, windows, done, self.parallel)


def score_by_server(
    client: Client, windows: Windows, done: Collection[int], parallel: int
) -> Iterator[ScoredBatch]:
    """Negative log-likelihoods of the windows that are not done, one window at a time."""

    def score(index: int) -> list[float | None]:
        tokens = [int(token) for token in windows.window(index)]
        return client.prompt_scores(tokens).logprobs[int(windows.score_from[index]) - 1 :]

    left = [index for index in range(len(windows)) if index not in done]
    for index, logprobs in in_parallel(left, score, parallel):
        _complete(logprobs)
        start = int(windows.score_from[index])
        count = len(logprobs)
        columns = {
            "window": np.full(count, index, np.int32),
            "position": np.arange(start, start + count, dtype=np.int32),
            "nll": -np.array(logprobs, np.float32),
        }
        yield ScoredBatch(np.array([index], np.int64), columns)


def in_parallel(
    indexes: Sequence[int], work: Callable[[int], T], parallel: int
) -> Iterator[tuple[int, T]]:
    """Results of `work` in order, `parallel` at once; a failure drops the rest."""
    with ThreadPoolExecutor(parallel) as pool:
        waiting: dict[int, Future[T]] = {}
        todo = iter(indexes)
        try:
            for index in indexes:
                while len(waiting) < 2 * parallel and (new := next(todo, None)) is not None:
                    waiting[new] = pool.submit(work, new)
                yield index, waiting.pop(index).result()
        finally:
            for future in waiting.values():
                future.cancel()


def _complete(logprobs: Sequence[float | None]) -> float:
    """The sum; raises VariantError where the server left one out."""
    known = [value for value in logprobs if value is not None]
    if len(known) != len(logprobs):
        raise VariantError(
            "the server gives no log-probability of the first token after BOS: measure texts with "
            "--convention llama.cpp, which scores the second half of each window"
        )
    return sum(known)
