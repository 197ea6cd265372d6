"""A served model as a language model of lm-eval, and windows scored by it.

Prompts are tokenised here as for every other variant; the server gives log-probabilities of the
tokens that really occur, and which were the most likely. It gives no distributions, so nothing
that needs one (divergences, agreement with a baseline) can be measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from evalkit.errors import NotFiniteError, VariantError
from evalkit.inference.decoding import Decoding
from evalkit.inference.prefix_scores import Request, Score
from evalkit.scoring.engine import ScoredBatch
from evalkit.serving.client import Client
from evalkit.tasks.language_model import LanguageModel, OnGenerated, OnScored
from evalkit.texts.windows import Windows

T = TypeVar("T")
# What servers take of the generation options that lm-eval's tasks use.
_SAMPLING = {"temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"}
_MOST_STOPS = 4


class ServedLanguageModel(LanguageModel):
    """A model in a server, asked for several answers at once."""

    def __init__(
        self,
        client: Client,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        parallel: int = 4,
        seed: int | None = None,
        skip_unscorable: bool = False,
    ) -> None:
        """Wrap a client.

        Args:
            client: asks one model of one server.
            tokenizer: of the checkpoint that is served.
            max_length: the context in tokens.
            parallel: requests at once.
            seed: of sampled text; None takes torch's.
            skip_unscorable: see `LanguageModel`.
        """
        # Servers read the last token too, and ask for room for one generated token.
        super().__init__(
            tokenizer,
            max_length=max_length,
            max_before_last=max_length - 2,
            seed=seed,
            skip_unscorable=skip_unscorable,
        )
        self.client = client
        self.parallel = parallel

    def _score(
        self, requests: Sequence[Request], known: Mapping[int, Score], on_scored: OnScored
    ) -> list[Score]:
        fitted = [request.fitted(self._max_before_last) for request in requests]
        self.truncated += sum(cut for _, _, cut in fitted)
        found = dict(known)

        def score(index: int) -> Score:
            before, targets, _ = fitted[index]
            return self._score_one([*before, targets[-1]], len(targets))

        left = [index for index in range(len(requests)) if index not in known]
        for index, one in in_parallel(left, score, self.parallel):
            found[index] = one
            on_scored({index: one})
        return [found[index] for index in range(len(requests))]

    def _score_one(self, tokens: Sequence[int], count: int) -> Score:
        """Log-likelihood of the last `count` tokens after the others."""
        try:
            scores = self.client.prompt_scores(tokens)
        except NotFiniteError:
            return Score(math.nan, False)
        return Score(_complete(scores.logprobs[-count:]), all(scores.greedy[-count:]))

    def _generate(
        self,
        prompts: Sequence[list[int]],
        decoding: Decoding,
        seeds: Sequence[int],
        on_generated: OnGenerated,
    ) -> list[str]:
        texts = []

        def generate(index: int) -> str:
            try:
                return self._generate_one(prompts[index], decoding, seeds[index])
            except NotFiniteError as error:
                raise NotFiniteError(str(error), index) from error

        for index, text in in_parallel(range(len(prompts)), generate, self.parallel):
            texts.append(text)
            on_generated(index, text)
        return texts

    def _generate_one(self, prompt: list[int], decoding: Decoding, seed: int) -> str:
        body: dict[str, Any] = {"max_tokens": decoding.max_new_tokens, "temperature": 0}
        if decoding.options.get("do_sample"):
            body |= {"temperature": 1.0, "seed": seed % 2**31}
            body |= {k: v for k, v in decoding.options.items() if k in _SAMPLING}
        if decoding.stop:
            body["stop"] = list(decoding.stop)[:_MOST_STOPS]
        text = self.client.complete(prompt, body)
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

    def language_model(self, seed: int | None) -> ServedLanguageModel:
        """An lm-eval model that asks the server; `seed` is that of sampled text."""
        return ServedLanguageModel(
            self.client,
            self.tokenizer,
            max_length=self.max_length,
            parallel=self.parallel,
            seed=seed,
            skip_unscorable=True,
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
