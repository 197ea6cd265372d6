"""What a loaded and a served model share as language models of lm-eval.

Requests are tokenised, cut and told here as lm-eval's own Hugging Face backend does; local_model.py
and served_model.py only score and generate.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from evalkit.errors import DataError, NotFiniteError, VariantError
from evalkit.inference.decoding import Decoding
from evalkit.inference.prefix_scores import Request, Score
from evalkit.models.overflow import not_finite_words
from evalkit.tasks.lm_eval_requests import decoding_of, request_seeds, rolling_windows
from evalkit.tasks.lm_eval_tokens import TextEncoder

MAX_GEN_TOKS = 256

Answer = tuple[float, bool] | float | str
EncodedRequest = tuple[tuple[str, str], list[int], list[int]]
OnScored = Callable[[Mapping[int, Score]], None]
OnGenerated = Callable[[int, str], None]


class LanguageModel(TemplateLM):
    """A model that answers lm-eval's requests; every answer goes to `cache_hook` at once.

    A method `flush` of the hook is called where several answers come together. An answer that is
    no finite number is told to nobody: it raises VariantError with the task and the item.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        max_before_last: int,
        max_gen_toks: int = MAX_GEN_TOKS,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        double_bos: bool = False,
        chat_template_args: Mapping[str, Any] | None = None,
        seed: int | None = None,
        show_progress: bool = False,
        rows: int | None = None,
        skip_unscorable: bool = False,
    ) -> None:
        """Prepare to answer with the tokens of `tokenizer`.

        Args:
            tokenizer: the model's own.
            max_length: the context in tokens: prompt and generated text fit in it.
            max_before_last: tokens a scored request may have before its last one.
            max_gen_toks: tokens generated where a task names no number.
            add_bos_token: whether encoding adds the beginning-of-sequence token; None leaves it to
                the tokenizer.
            prefix_token_id: what stands before a text without context; BOS or EOS by default.
            double_bos: rolling log-likelihoods begin with two BOS tokens where the tokenizer adds
                one, as in lm-eval.
            chat_template_args: more arguments for the tokenizer's chat template.
            seed: of sampled text; None takes torch's, which lm-eval sets.
            show_progress: whether bars are shown on stderr.
            rows: of the model's embedding, None where they are not known.
            skip_unscorable: whether a request that cannot be scored (an empty continuation, one
                longer than the context) gets NaN, rather than raising DataError.
        """
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(
            tokenizer, add_bos_token, prefix_token_id, chat_template_args, rows
        )
        self.double_bos = double_bos
        self.show_progress = show_progress
        self.skip_unscorable = skip_unscorable
        self.truncated = 0
        self.encoded_apart = 0
        self._max_length = max_length
        self._max_before_last = max_before_last
        self._max_gen_toks = max_gen_toks
        self._seed = seed
        self._known: dict[str, Mapping[int, Any]] = {}
        self._instances: Sequence[Instance] = ()
        self._bar = tqdm(disable=True)

    @abstractmethod
    def _score(
        self, requests: Sequence[Request], known: Mapping[int, Score], on_scored: OnScored
    ) -> list[Score]:
        """Scores in the order of `requests`, those of `known` (by index) taken from there.

        The others are told to `on_scored` as they come. Requests that lose tokens are counted in
        `truncated`.
        """

    @abstractmethod
    def _generate(
        self,
        prompts: Sequence[list[int]],
        decoding: Decoding,
        seeds: Sequence[int],
        on_generated: OnGenerated,
    ) -> list[str]:
        """Texts behind `prompts` (token ids), told to `on_generated` by index as they come.

        Raises NotFiniteError with the index of a prompt whose logits are no numbers.
        """

    @property
    def batch_tokens(self) -> int | None:
        """Tokens that are scored together; None where a server decides."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the run's record about how the requests were answered."""
        notes = {
            f"{self.truncated} requests were longer than the context of {self._max_length} tokens "
            "and lost tokens from the left": self.truncated,
            f"{self.encoded_apart} requests have a token that spans context and continuation: the "
            "two were encoded apart": self.encoded_apart,
        }
        return tuple(note for note, count in notes.items() if count)

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
        """Take answers of earlier, by their place in the next list of requests of this `kind`.

        They are returned as they are and not told to the cache hook. The batches of all other
        requests are those of a run without them, so resuming changes no score.
        """
        self._known[kind] = dict(answers)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation after its context, and whether it is greedy."""
        self._instances = requests
        try:
            encoded = [(one.args, *self._encode_pair(*one.args)) for one in requests]
            return self._loglikelihood_tokens(encoded, disable_tqdm=disable_tqdm)
        finally:
            self._instances = ()

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
                    self._tell("loglikelihood_rolling", requests[owner], totals[owner])

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
                if left:
                    asked = [requests[index] for index in left]
                    found = self._generate_alike(asked, [seeds[index] for index in left])
                    texts.update(zip(left, found, strict=True))
        return [texts[index] for index in range(len(requests))]

    def _encode_pair(self, context: str, continuation: str) -> tuple[Any, Any]:
        """lm-eval's tokens as int32 arrays: as lists those of a large task are gigabytes.

        A context without tokens is the prefix token. Where the context's last token reaches to the
        end of the continuation, of which lm-eval leaves no token, the two are encoded apart.
        """
        kept = context.rstrip()
        first, second = super()._encode_pair(context, continuation) if kept else ([], [])
        if not second and continuation:
            second = self.tok_encode(context[len(kept) :] + continuation, add_special_tokens=False)
            self.encoded_apart += bool(kept)
        if not first:
            prefix = self.prefix_token_id
            first, second = [prefix], second[1:] if second[:1] == [prefix] else second
        return np.asarray(first, dtype=np.int32), np.asarray(second, dtype=np.int32)

    def _loglikelihood_tokens(
        self, requests: list[EncodedRequest], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        earlier = self._known.pop("loglikelihood", {})
        # lm-eval may give tokens alone, which belong to no task.
        asked = self._instances or [
            Instance("loglikelihood", {}, texts, index)
            for index, (texts, *_) in enumerate(requests)
        ]

        pairs = [
            Request(context, continuation, text) for (_, text), context, continuation in requests
        ]
        places = [
            index
            for index, pair in enumerate(pairs)
            if not (self.skip_unscorable and pair.fault(self._max_before_last))
        ]
        known = {i: Score(*earlier[p]) for i, p in enumerate(places) if p in earlier}

        def scored(new: Mapping[int, Score]) -> None:
            for index, score in new.items():
                answer = (score.log_likelihood, score.greedy)
                self._tell("loglikelihood", asked[places[index]], answer)

        with self._progress("loglikelihood", len(places) - len(known), disable_tqdm):
            scores = self._score([pairs[place] for place in places], known, scored)
        answers = [(math.nan, False)] * len(pairs)
        for place, score in zip(places, scores, strict=True):
            answers[place] = (score.log_likelihood, score.greedy)
        return answers

    def _windows(self, text: str) -> list[Request]:
        tokens = self.tok_encode(text)
        if not self.double_bos and tokens[:1] == [self.prefix_token_id]:
            tokens = tokens[1:]
        return rolling_windows(tokens, self.prefix_token_id, self._max_before_last)

    def _generate_alike(self, asked: Sequence[Instance], seeds: Sequence[int]) -> list[str]:
        """Texts for requests that share their settings."""
        decoding = decoding_of(asked[0].args[1], self._max_gen_toks, self.encoder.end_text)
        room = self._max_length - decoding.max_new_tokens
        if room < 1:
            raise DataError(
                f"{decoding.max_new_tokens} tokens to generate leave no room for a prompt in a "
                f"context of {self._max_length}: lower max_gen_toks"
            )
        prompts = [self.tok_encode(one.args[0]) or [self.prefix_token_id] for one in asked]
        self.truncated += sum(len(prompt) > room for prompt in prompts)

        def generated(index: int, text: str) -> None:
            self._tell("generate_until", asked[index], text)

        try:
            return self._generate([p[-room:] for p in prompts], decoding, seeds, generated)
        except NotFiniteError as error:
            raise self._not_finite(asked[error.index], "the logits are not numbers") from error

    def _tell(self, kind: str, asked: Instance, answer: Answer) -> None:
        value = answer[0] if isinstance(answer, tuple) else answer
        if not isinstance(value, str) and not math.isfinite(value):
            raise self._not_finite(asked, f"the log-likelihood is {value}")
        self.cache_hook.add_partial(kind, asked.args, answer)
        self._bar.update(1)

    def _flush(self) -> None:
        """Let the hook write what it was told together."""
        flush = getattr(self.cache_hook, "flush", None)
        if flush is not None:
            flush()

    @contextmanager
    def _progress(self, what: str, total: int, disable: bool) -> Iterator[None]:
        bar = tqdm(total=total, desc=what, disable=disable or not self.show_progress)
        with bar as self._bar:
            yield

    def _not_finite(self, asked: Instance, what: str) -> VariantError:
        text = "".join(one for one in asked.args if isinstance(one, str))
        words = not_finite_words(self._overflowing(text))
        return VariantError(f"task {asked.task_name!r}, item {asked.doc_id}: {what}: {words}")

    def _overflowing(self, text: str) -> str:
        """Name of the layer where the numbers of `text` end; "" where that cannot be seen."""
        return ""
