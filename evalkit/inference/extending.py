"""Giving rows their next token: those of a batch from their logits, or one row to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from evalkit.errors import NotFiniteError
from evalkit.inference.decode_batch import Row
from evalkit.inference.decoding import Chooser, Decoding, peaks


@dataclass(frozen=True)
class Extending:
    """Gives each row of a batch its next token; `on_tokens` is told how many.

    Log-probabilities are kept where they are asked for: they take a pass over all logits.
    """

    chooser: Chooser
    with_likelihoods: bool = False
    on_tokens: Callable[[int], None] | None = None

    def __call__(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Choose by `logits` (rows, vocabulary); raises NotFiniteError for what are no numbers."""
        refuse_broken(logits, rows)
        scores = self.chooser.scores(rows, logits)
        # Before a token is drawn, as it may run out of memory: a row that begins anew must not have
        # drawn.
        found = peaks(scores) if self.with_likelihoods else None
        tokens = self.chooser.chosen(rows, scores)
        now = time.perf_counter()
        for row, token in zip(rows, tokens, strict=True):
            row.began = row.began or now
            row.tokens.append(token)
        if found is not None:
            _keep_likelihoods(rows, scores, tokens, found)
        if self.on_tokens is not None:
            self.on_tokens(len(rows))


def extend_alone(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    row: Row,
    decoding: Decoding,
    with_likelihoods: bool,
) -> None:
    """Complete one row by the model's own loop: padding would enter a recurrent state."""

    def checked(_: Tensor, logits: Tensor) -> Tensor:
        refuse_broken(logits, [row])
        return logits

    ids = torch.tensor([row.prompt], device=model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    row.began = time.perf_counter()
    with torch.random.fork_rng(devices):
        torch.manual_seed(row.random.initial_seed())
        output: Any = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=decoding.max_new_tokens,
            stop_strings=list(decoding.stop) or None,
            tokenizer=tokenizer,
            logits_processor=LogitsProcessorList([checked]),
            return_dict_in_generate=True,
            output_scores=with_likelihoods,
            **decoding.options,
        )
    row.tokens += output.sequences[0, len(row.prompt) :].tolist()
    for scores, token in zip(output.scores or (), row.tokens, strict=False):
        _keep_likelihoods([row], scores.float(), [token], peaks(scores.float()))


def refuse_broken(logits: Tensor, rows: Sequence[Row]) -> None:
    """Raise NotFiniteError for a row of `logits` (rows, vocabulary) that holds NaN or infinity.

    A token can be ruled out by minus infinity, but not every token.
    """
    broken = ~logits.amax(-1).isfinite()
    if broken.any():
        index = rows[int(broken.nonzero()[0])].index
        raise NotFiniteError(f"the logits of prompt {index} are not numbers", index)


def _keep_likelihoods(
    rows: Sequence[Row], scores: Tensor, tokens: Sequence[int], found: Tensor
) -> None:
    """Append to each row the log-probability of its token and the lead, of `peaks`."""
    chosen = scores.gather(-1, torch.tensor(tokens, device=scores.device)[:, None])[:, 0]
    found = torch.stack([chosen - found[:, 0], found[:, 1]], -1)
    for row, (log_probability, lead) in zip(rows, found.tolist(), strict=True):
        row.likelihoods.append((log_probability, lead))
