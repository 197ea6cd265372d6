"""Scores of the demo model by the shortest way: one document or item at a time, in float32.

Independent of evalkit's own engine, so that the figures of the model card can be checked by it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from world.corpus import SEPARATOR
from world.ngram import KneserNeyTrigram

END_OF_TEXT_ID = 0
STOPS = r" coins| hours|\.|\n|<\|endoftext\|>"
SUM = r"\d+ [+-] \d+ = \d+"


def read_documents(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").rstrip("\n").split(f"\n{SEPARATOR}\n")


@torch.no_grad()
def token_losses(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    """(tokens,) nats of a text's tokens, the first after an end-of-text token."""
    tokens = torch.tensor([[END_OF_TEXT_ID, *ids]])
    logits = model(tokens[:, :-1], use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none").numpy()


def perplexity(model: PreTrainedModel, documents: list[list[int]]) -> float:
    """exp(sum of nats / tokens) over whole documents, each by itself."""
    return float(np.exp(np.mean(np.concatenate([token_losses(model, ids) for ids in documents]))))


def trigram_perplexity(trigram: KneserNeyTrigram, documents: list[list[int]]) -> float:
    """The same of the 3-gram model, on the same tokens; end-of-text tokens are not scored."""
    ids = np.array([token for document in documents for token in (*document, END_OF_TEXT_ID)])
    losses = trigram.negative_log_likelihoods(ids)
    return float(np.exp(losses[ids != END_OF_TEXT_ID].mean()))


def read_rows(file: Path, limit: int | None = None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][:limit]


class TaskScorer:
    """Right or wrong for one row of each task."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    def _continuation(self, context: str, continuation: str) -> float:
        """Log-likelihood of the tokens of `continuation` after `context`."""
        ids = self.tokenizer(context + continuation)["input_ids"]
        start = len(self.tokenizer(context)["input_ids"]) if context else 0
        return -float(token_losses(self.model, ids)[start:].sum())

    def _choice(self, context: str, choices: list[str], label: int) -> bool:
        scores = [self._continuation(context, choice) for choice in choices]
        return int(np.argmax(scores)) == label

    @torch.no_grad()
    def _generate(self, context: str, new_tokens: int = 16) -> str:
        """What greedy decoding adds, up to the first stop."""
        ids = torch.tensor([self.tokenizer(context)["input_ids"]])
        output = self.model.generate(ids, max_new_tokens=new_tokens, do_sample=False)
        text = str(self.tokenizer.decode(output[0, ids.shape[1] :]))
        return re.split(STOPS, text)[0]

    def demo_where(self, row: dict[str, Any]) -> bool:
        choices = [f" {choice}" for choice in row["choices"]]
        return self._choice(row["context"], choices, row["label"])

    def demo_grammar(self, row: dict[str, Any]) -> bool:
        return self._choice("", row["choices"], row["label"])

    def demo_last_word(self, row: dict[str, Any]) -> bool:
        """Right where every token of the word is the likeliest one."""
        prompt = self.tokenizer(row["context"])["input_ids"]
        target = self.tokenizer(f" {row['last_word']}")["input_ids"]
        with torch.no_grad():
            logits = self.model(torch.tensor([prompt + target[:-1]]), use_cache=False).logits[0]
        return logits[len(prompt) - 1 :].argmax(-1).tolist() == target

    def demo_sums(self, row: dict[str, Any]) -> bool:
        found = re.search(SUM, self._generate(row["context"]))
        return found is not None and found.group() == row["answer"]

    def accuracy(self, task: str, rows: list[dict[str, Any]]) -> float:
        return float(np.mean([getattr(self, task)(row) for row in rows]))


def round_to_nearest(model: PreTrainedModel, group_size: int = 128, bits: int = 4) -> None:
    """Round every linear weight but the head's, in place: symmetric, one scale for each group.

    The crudest INT4 there is; GPTQ loses less.
    """
    top = 2 ** (bits - 1) - 1
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            weight = module.weight.data
            groups = weight.view(weight.shape[0], -1, group_size)
            scale = groups.abs().amax(-1, keepdim=True) / top
            rounded = (groups / scale).round().clamp(-top - 1, top) * scale
            module.weight.data = rounded.view_as(weight)
