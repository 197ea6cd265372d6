"""evalkit's scoring engine as a language model of lm-eval, so that all of its tasks work with it.

Two things that lm-eval's own Hugging Face backend does are switchable: `double_bos` and
`softmax_dtype`; docs/lm-eval.md says what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lm_eval.models.utils import resolve_max_length
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evalkit.errors import NotFiniteError, VariantError
from evalkit.inference.budget import plan_budget
from evalkit.inference.decoding import Decoding
from evalkit.inference.generate import Generated, generate, generate_texts
from evalkit.inference.prefix import PrefixRunner
from evalkit.inference.prefix_scores import Request, Score, score_requests
from evalkit.models.overflow import first_not_finite, not_finite_words
from evalkit.scoring.head import open_forward
from evalkit.tasks.language_model import LanguageModel, OnGenerated, OnScored

_SAMPLE_TOKENS = 16


class LocalLanguageModel(LanguageModel):
    """A model loaded here, which answers in batches that compute shared contexts once.

    `notes` also tell of batches that were halved and of what could not be shared.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = 4096,
        cache_tokens: int | None = None,
        max_length: int | None = None,
        softmax_dtype: torch.dtype | None = torch.float32,
        halve: bool = True,
        **options: Any,
    ) -> None:
        """Wrap `model` (evaluation mode) and its tokenizer.

        Args:
            model: any causal language model.
            tokenizer: the model's own.
            batch_tokens: tokens of one forward pass, padding included.
            cache_tokens: most tokens whose keys and values are held; eight batches by default, on
                a GPU no more than its memory holds.
            max_length: context in tokens; that of the configuration by default.
            softmax_dtype: type of the log-softmax; None keeps that of the logits, as in lm-eval.
            halve: whether a batch that does not fit in memory may be halved.
            options: further arguments of `LanguageModel` (max_gen_toks, double_bos, seed, …).
        """
        length = max_length or resolve_max_length(model.config, tokenizer)
        if length < 1:
            # No limit, which lm-eval takes for one.
            length = resolve_max_length(None, tokenizer)
        vocabulary = model.config.get_text_config().vocab_size
        # The last token of a request is predicted and never read.
        super().__init__(
            tokenizer, max_length=length, max_before_last=length, rows=vocabulary, **options
        )
        self.model = model
        self.softmax_dtype = softmax_dtype
        self.halved = 0
        self._device = model.device
        sample = torch.arange(min(_SAMPLE_TOKENS, length)) % vocabulary
        forward = open_forward(model, sample.to(model.device))
        budget = partial(plan_budget, forward, batch_tokens, cache_tokens=cache_tokens, halve=halve)
        self.runner = PrefixRunner(forward, budget(), on_halved=self._count_halved)
        self._generating = budget

    @property
    def batch_tokens(self) -> int:
        """Tokens of one pass: those that were asked for, or what memory has room for."""
        return self.runner.budget.batch_tokens

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the run's record about how the requests were answered."""
        notes = [self.runner.forward.note]
        if self.runner.unshared:
            notes.append(f"{self.runner.unshared}: prefixes are not shared")
        notes += super().notes
        if self.halved:
            notes.append(f"{self.halved} batches did not fit in memory and were halved")
        return tuple(note for note in notes if note)

    def _score(
        self, requests: Sequence[Request], known: Mapping[int, Score], on_scored: OnScored
    ) -> list[Score]:
        def batch_scored(new: Mapping[int, Score]) -> None:
            on_scored(new)
            self._flush()

        scores, cut = score_requests(
            self.runner,
            requests,
            max_length=self._max_before_last,
            softmax_dtype=self.softmax_dtype,
            known=known,
            on_scored=batch_scored,
        )
        self.truncated += cut
        return scores

    def _generate(
        self,
        prompts: Sequence[list[int]],
        decoding: Decoding,
        seeds: Sequence[int],
        on_generated: OnGenerated,
    ) -> list[str]:
        return generate_texts(
            self.runner.with_budget(self._generating(generates=True)),
            self.tokenizer,
            prompts,
            decoding,
            seeds=seeds,
            on_generated=on_generated,
        )

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        seeds: Sequence[int],
        on_generated: Callable[[Generated], None],
        on_tokens: Callable[[int], None],
        *,
        at_once: int | None = None,
    ) -> None:
        """Generate after `prompts` (token ids) with likelihoods; see `inference.generate`.

        At most about `at_once` prompts run together; by default as many as memory allows. Raises
        VariantError naming the prompt whose logits are no numbers.
        """
        budget = self._generating(generates=True)
        if at_once is not None:
            slots = at_once * (max(map(len, prompts)) + decoding.max_new_tokens)
            budget = replace(budget, cache_tokens=min(budget.cache_tokens, slots))
        try:
            generate(
                self.runner.with_budget(budget),
                self.tokenizer,
                prompts,
                decoding,
                seeds=seeds,
                on_generated=on_generated,
                on_tokens=on_tokens,
                with_likelihoods=True,
            )
        except NotFiniteError as error:
            ids = torch.tensor([list(prompts[error.index])], device=self._device)
            words = not_finite_words(first_not_finite(self.model, ids))
            raise VariantError(f"the logits are not numbers: {words}") from error

    def _overflowing(self, text: str) -> str:
        ids = torch.tensor([self.tok_encode(text)[-self._max_length :]], device=self._device)
        return first_not_finite(self.model, ids) if ids.numel() else ""

    def _count_halved(self, rows: int) -> None:
        self.halved += 1
