"""What the parts of a job ask of the machine, counted from texts, prompts and the model's sizes."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from evalkit.analysis.decompose import PASSES
from evalkit.analysis.duration import (
    Sizes,
    probe_cost,
    quantizing_cost,
    task_cost,
    text_cost,
    writing_cost,
)
from evalkit.backends import keeps
from evalkit.metrics.memory import DECODE_TOKENS
from evalkit.models.loading import load_tokenizer
from evalkit.models.shapes import meta_model
from evalkit.records import Cost, Run
from evalkit.running.calibration import SELF, calibration_source, sample_shape
from evalkit.running.compare.tasks import noise_sample, part_requests
from evalkit.running.compare.texts import NOISE_TOKENS, load_windows
from evalkit.running.job import Job, Part
from evalkit.store.store import Store
from evalkit.store.task_requests import TaskRequests
from evalkit.tasks.language_model import MAX_GEN_TOKS

# Texts of a task that are tokenised to learn how many characters make a token.
_SAMPLED = 64
# Of a generation whose speed is measured, in the usual case.
SPEED_REPETITIONS = 8


@dataclass(frozen=True)
class Costs:
    """The costs of a job's parts; what they share is looked up once.

    Raises ModelError where the model's architecture cannot be built from its config.json alone.
    """

    store: Store
    job: Job

    def of(self, part: Part, measured: Run | None = None) -> Cost:
        """The cost of `part`; its seconds are not known yet.

        Prompts of a task are those of its `measured` run, else they are built where the store has
        none. Raises DataError where they cannot be.
        """
        if part.kind == "texts":
            return self._texts(part)
        if part.kind == "task":
            return self._task(self._requests(part, measured))
        protocol, weights = self.job.settings.protocol, self.job.checkpoint.weight_bytes
        if part.kind == "memory":
            return probe_cost("memory", self.sizes, protocol.prompt, DECODE_TOKENS, 1, weights)
        steps = (protocol.prompt, protocol.generate, SPEED_REPETITIONS)
        return probe_cost("speed", self.sizes, *steps, weights)

    @property
    def making(self) -> tuple[Cost, ...]:
        """The costs of making the job's quantized checkpoint, the model's own calibration text
        included; empty where none is made."""
        variant, checkpoint = self.job.variant, self.job.checkpoint
        if not keeps(variant):
            return ()
        samples, length = sample_shape(variant, checkpoint)
        quantizing = quantizing_cost(self.sizes, samples * length)
        if calibration_source(variant, checkpoint) != SELF:
            return (quantizing,)
        return writing_cost(self.sizes, samples, length, checkpoint.weight_bytes), quantizing

    def _texts(self, part: Part) -> Cost:
        windows = load_windows(self.store, self.job, part)
        scored = int(windows.scored.sum())
        noise = min(1.0, NOISE_TOKENS / max(1, scored))
        tokens, is_baseline = int(windows.lengths.sum()), self.job.is_baseline
        once = text_cost(self.sizes, tokens, scored, baseline=is_baseline, noise=noise)
        if is_baseline or not (self.job.settings.decompose and self.job.divergence):
            return once
        # Each further pass reads the windows that the noise floor is measured on.
        passes = 1 + len(PASSES) * noise
        return replace(once, operations=passes * once.operations, bytes=passes * once.bytes)

    def _requests(self, part: Part, measured: Run | None) -> list[TaskRequests]:
        if measured is None:
            asked = part_requests(self.store, self.job, part, self.tokenizer)
            return [requests for requests, _ in asked]
        names = dict.fromkeys(m.details.get("prompts") for m in measured.measurements)
        return [TaskRequests.load(self.store.root / name) for name in names if name]

    def _task(self, asked: Sequence[TaskRequests]) -> Cost:
        again = [noise_sample(requests) for requests in asked] if self.job.is_baseline else []
        counted = [prompt_counts(requests, self.tokenizer) for requests in (*asked, *again)]
        read, scored, generated = (sum(numbers) for numbers in zip(*counted, strict=True))
        return task_cost(self.sizes, read, scored, generated, self.job.checkpoint.weight_bytes)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The baseline's tokenizer."""
        remote = self.job.settings.trust_remote_code
        return load_tokenizer(self.job.checkpoint.path, trust_remote_code=remote)

    @cached_property
    def sizes(self) -> Sizes:
        """The sizes of the model."""
        return model_sizes(self.job.checkpoint.config)


def model_sizes(config: Mapping[str, Any]) -> Sizes:
    """The sizes of the model of a config.json; raises ModelError where it cannot be built."""
    model = meta_model(dict(config))
    own = model.config.get_text_config()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    # Tied ones are one tensor, counted once.
    outside = {id(layer.weight): layer.weight.numel() for layer in (embedding, head) if layer}
    body = sum(p.numel() for p in model.parameters()) - sum(outside.values())
    return Sizes(body, own.hidden_size, own.vocab_size)


def prompt_counts(
    requests: TaskRequests, tokenizer: PreTrainedTokenizerBase
) -> tuple[float, float, float]:
    """Tokens read (a prefix that prompts share once), scored, and generated at most."""
    asked = [request for _, _, request in requests.flat()]
    contexts = sorted({request.context for request in asked})
    continuations = [request.continuation for request in asked]
    rate = _tokens_a_character([*contexts, *continuations], tokenizer)
    scored = rate * sum(map(len, continuations))
    read = rate * _distinct_characters(contexts) + scored
    return read, scored, sum(_most_generated(r.generation) for r in asked if r.generation)


def _most_generated(generation: str) -> int:
    return int(json.loads(generation).get("max_gen_toks") or MAX_GEN_TOKS)


def _distinct_characters(ordered: Sequence[str]) -> int:
    """Characters of sorted texts, those that a text shares with the one before it left out."""
    shared = sum(_shared(a, b) for a, b in pairwise(ordered))
    return sum(map(len, ordered)) - shared


def _shared(one: str, other: str) -> int:
    """Characters of the prefix that two texts share."""
    return bisect_left(
        range(1, min(len(one), len(other)) + 1), True, key=lambda n: one[:n] != other[:n]
    )


def _tokens_a_character(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> float:
    """Measured on some of the texts, spread evenly."""
    sample = [text for text in texts[:: max(1, len(texts) // _SAMPLED)] if text]
    tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in sample)
    return tokens / max(1, sum(map(len, sample)))
