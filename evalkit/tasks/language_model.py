"""evalkit's scoring engine as a language model of lm-eval, so that all of its tasks work with it.

Requests are tokenised, cut and scored as lm-eval's own Hugging Face backend does. Two things that
backend does are switchable: `double_bos` and `softmax_dtype`; docs/lm-eval.md says what they are.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import resolve_max_length
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evalkit.errors import DataError
from evalkit.inference.generate import generate_texts
from evalkit.inference.prefix import Budget, PrefixRunner
from evalkit.inference.prefix_scores import Request, Score, score_requests
from evalkit.scoring.head import open_forward
from evalkit.tasks.lm_eval_requests import (
    Arguments,
    decoding_of,
    request_seeds,
    rolling_windows,
)
from evalkit.tasks.lm_eval_tokens import TextEncoder

_SAMPLE_TOKENS = 16

Answer = tuple[float, bool] | float | str
EncodedRequest = tuple[tuple[str, str], list[int], list[int]]


class EvalkitLM(TemplateLM):
    """A loaded model that answers lm-eval's requests; every answer goes to `cache_hook` at once.

    A method `flush` of the hook is called after each batch, for hooks that write answers together.
    `notes` are lines for the run's record: contexts that were cut, batches that were halved, what
    could not be shared.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = 4096,
        cache_tokens: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        double_bos: bool = False,
        softmax_dtype: torch.dtype | None = torch.float32,
        chat_template_args: Mapping[str, Any] | None = None,
        seed: int | None = None,
        show_progress: bool = False,
    ) -> None:
        """Wrap `model` (evaluation mode) and its tokenizer.

        Args:
            model: any causal language model.
            tokenizer: the model's own.
            batch_tokens: tokens of one forward pass, padding included.
            cache_tokens: tokens whose keys and values are held; eight batches by default.
            max_length: context in tokens; that of the configuration by default.
            max_gen_toks: tokens generated where a task names no number.
            add_bos_token: whether encoding adds the beginning-of-sequence token; None leaves it to
                the tokenizer.
            prefix_token_id: what stands before a text without context; BOS or EOS by default.
            double_bos: rolling log-likelihoods begin with two BOS tokens where the tokenizer adds
                one, as in lm-eval.
            softmax_dtype: type of the log-softmax; None keeps that of the logits, as in lm-eval.
            chat_template_args: more arguments for the tokenizer's chat template.
            seed: of sampled text; None takes torch's, which lm-eval sets.
            show_progress: whether bars are shown on stderr.
        """
        super().__init__()
        self.tokenizer = tokenizer
        self.model = model
        self.double_bos = double_bos
        self.softmax_dtype = softmax_dtype
        self.show_progress = show_progress
        self.truncated = 0
        self.halved = 0
        self._device = model.device
        self._max_gen_toks = max_gen_toks
        self._seed = seed
        self._known: dict[str, Mapping[int, Any]] = {}
        self._bar = tqdm(disable=True)
        self.encoder = TextEncoder(tokenizer, add_bos_token, prefix_token_id, chat_template_args)
        self._max_length = max_length or resolve_max_length(model.config, tokenizer)
        vocabulary = model.config.get_text_config().vocab_size
        sample = torch.arange(min(_SAMPLE_TOKENS, self._max_length)) % vocabulary
        self.runner = PrefixRunner(
            open_forward(model, sample.to(model.device)),
            Budget(batch_tokens, cache_tokens or 8 * batch_tokens),
            on_halved=self._count_halved,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the run's record about how the requests were answered."""
        notes = [self.runner.forward.note]
        if not self.runner.shares:
            notes.append(f"{type(self.model).__name__} keeps a state: prefixes are not shared")
        if self.truncated:
            notes.append(
                f"{self.truncated} requests were longer than the context of {self._max_length} "
                "tokens and lost tokens from the left"
            )
        if self.halved:
            notes.append(f"{self.halved} batches did not fit in memory and were halved")
        return tuple(note for note in notes if note)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; raises DataError for a tokenizer without one."""
        return self.encoder.end_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without context."""
        return self.encoder.prefix_token_id

    @property
    def max_length(self) -> int:
        """Tokens the model can attend to."""
        return self._max_length

    @property
    def max_gen_toks(self) -> int:
        """Tokens generated where a task names no number."""
        return self._max_gen_toks

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

    def remember(self, kind: str, answers: Mapping[int, Answer]) -> None:
        """Give answers of earlier, by their place in the next list of requests of this `kind`.

        They are returned as they are and not told to the cache hook. The batches of all other
        requests are those of a run without them, so resuming changes no score.
        """
        self._known[kind] = dict(answers)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation after its context, and whether it is greedy."""
        answers: list[tuple[float, bool]] = super().loglikelihood(
            requests, disable_tqdm=disable_tqdm or not self.show_progress
        )
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts, each token after as much context as fits."""
        windows = [self._windows(request.args[0]) for request in requests]
        owners = [index for index, own in enumerate(windows) for _ in own]
        totals = [0.0] * len(requests)
        left = [len(own) for own in windows]
        earlier = self._known.pop("loglikelihood_rolling", {})
        known = {i: Score(0.0, False) for i, owner in enumerate(owners) if owner in earlier}

        def scored(new: Mapping[int, Score]) -> None:
            for index, score in new.items():
                owner = owners[index]
                totals[owner] += score.log_likelihood
                left[owner] -= 1
                if not left[owner]:
                    self._tell("loglikelihood_rolling", requests[owner].args, totals[owner])
            self._end_batch()

        with self._progress("loglikelihood_rolling", len(requests) - len(earlier), disable_tqdm):
            self._score([one for own in windows for one in own], known, scored)
        return [earlier.get(i, total) for i, total in enumerate(totals)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generated text up to the first stop string, for each request."""
        texts = dict(self._known.pop("generate_until", {}))
        groups: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[json.dumps(request.args[1], sort_keys=True, default=str)].append(index)
        seeds = request_seeds([request.args for request in requests], self._seed)
        with self._progress("generate_until", len(requests) - len(texts), disable_tqdm):
            for members in groups.values():
                left = [index for index in members if index not in texts]
                arguments = [requests[index].args for index in left]
                found = self._generate(arguments, [seeds[index] for index in left]) if left else []
                texts.update(zip(left, found, strict=True))
        return [texts[index] for index in range(len(requests))]

    def _encode_pair(self, context: str, continuation: str) -> tuple[Any, Any]:
        """lm-eval's tokens as int32 arrays: as lists those of a large task are gigabytes."""
        first, second = super()._encode_pair(context, continuation)
        return np.asarray(first, dtype=np.int32), np.asarray(second, dtype=np.int32)

    def _loglikelihood_tokens(
        self, requests: list[EncodedRequest], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        earlier = self._known.pop("loglikelihood", {})
        known = {index: Score(*answer) for index, answer in earlier.items()}

        def scored(new: Mapping[int, Score]) -> None:
            for index, score in new.items():
                answer = (score.log_likelihood, score.greedy)
                self._tell("loglikelihood", requests[index][0], answer)
            self._end_batch()

        pairs = [
            Request(context, continuation, text) for (_, text), context, continuation in requests
        ]
        with self._progress("loglikelihood", len(requests) - len(known), disable_tqdm):
            scores = self._score(pairs, known, scored)
        return [(score.log_likelihood, score.greedy) for score in scores]

    def _score(
        self,
        requests: Sequence[Request],
        known: Mapping[int, Score],
        on_scored: Callable[[Mapping[int, Score]], None],
    ) -> list[Score]:
        scores, cut = score_requests(
            self.runner,
            requests,
            max_length=self._max_length,
            softmax_dtype=self.softmax_dtype,
            known=known,
            on_scored=on_scored,
        )
        self.truncated += cut
        return scores

    def _windows(self, text: str) -> list[Request]:
        tokens = self.tok_encode(text)
        if not self.double_bos and tokens[:1] == [self.prefix_token_id]:
            tokens = tokens[1:]
        return rolling_windows(tokens, self.prefix_token_id, self._max_length)

    def _generate(
        self, arguments: Sequence[tuple[str, dict[str, Any]]], seeds: Sequence[int]
    ) -> list[str]:
        """Texts for prompts that share their settings."""
        decoding = decoding_of(arguments[0][1], self._max_gen_toks, self.encoder.end_text)
        room = self._max_length - decoding.max_new_tokens
        if room < 1:
            raise DataError(
                f"{decoding.max_new_tokens} tokens to generate leave no room for a prompt in a "
                f"context of {self._max_length}: lower max_gen_toks"
            )
        prompts = [self.tok_encode(context) for context, _ in arguments]
        self.truncated += sum(len(prompt) > room for prompt in prompts)
        return generate_texts(
            self.runner,
            self.tokenizer,
            [prompt[-room:] for prompt in prompts],
            decoding,
            seeds=seeds,
            on_generated=lambda i, text: self._tell("generate_until", arguments[i], text),
        )

    def _tell(self, kind: str, arguments: Arguments, answer: Answer) -> None:
        self.cache_hook.add_partial(kind, arguments, answer)
        self._bar.update(1)

    def _end_batch(self) -> None:
        flush = getattr(self.cache_hook, "flush", None)
        if flush is not None:
            flush()

    @contextmanager
    def _progress(self, what: str, total: int, disable: bool) -> Iterator[None]:
        bar = tqdm(total=total, desc=what, disable=disable or not self.show_progress)
        with bar as self._bar:
            yield

    def _count_halved(self, rows: int) -> None:
        self.halved += 1
