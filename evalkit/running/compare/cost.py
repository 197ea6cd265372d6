"""What the parts of a job ask of the machine, counted from texts, prompts and the model's sizes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from evalkit.analysis.duration import Sizes, probes_cost, quantizing_cost, task_cost, text_cost
from evalkit.backends import resolved_options, spec_of
from evalkit.models.loading import load_tokenizer
from evalkit.models.shapes import meta_model
from evalkit.records import Cost
from evalkit.running.compare.tasks import part_requests
from evalkit.running.compare.texts import NOISE_TOKENS, load_windows
from evalkit.running.job import Job, Part
from evalkit.store.store import Store
from evalkit.store.task_requests import TaskRequests
from evalkit.tasks.language_model import MAX_GEN_TOKS

# Texts of a task that are tokenised to learn how many characters make a token.
_SAMPLED = 64


def part_cost(store: Store, job: Job, part: Part) -> Cost:
    """The cost of `part`; its seconds are not known yet.

    Prompts of a task are built where the store has none. Raises DataError where they cannot be.
    """
    sizes = model_sizes(job)
    if part.kind == "texts":
        windows = load_windows(store, job, part)
        scored = int(windows.scored.sum())
        noise = min(1.0, NOISE_TOKENS / max(1, scored))
        tokens = int(windows.lengths.sum())
        return text_cost(sizes, tokens, scored, baseline=job.is_baseline, noise=noise)
    weights = float(sum(file.stat().st_size for file in job.checkpoint.weight_files))
    if part.kind == "probes":
        protocol = job.settings.protocol
        steps = (protocol.prompt, protocol.generate, protocol.repetitions)
        return probes_cost(sizes, *steps, weights)
    tokenizer = load_tokenizer(
        job.checkpoint.path, trust_remote_code=job.settings.trust_remote_code
    )
    counted = [
        _count(requests, tokenizer) for requests, _ in part_requests(store, job, part, tokenizer)
    ]
    read, scored_, generated = (sum(numbers) for numbers in zip(*counted, strict=True))
    return task_cost(sizes, read, scored_, generated, weights)


def making_cost(job: Job) -> Cost | None:
    """The cost of making the job's quantized checkpoint; None where none is made."""
    spec = spec_of(job.variant)
    if not spec.quantizes:
        return None
    options = resolved_options(spec, job.variant)
    tokens = int(options.get("samples", 0)) * int(options.get("sample_length", 0))
    return quantizing_cost(model_sizes(job), tokens)


def model_sizes(job: Job) -> Sizes:
    """The sizes of the job's model, from its config.json."""
    model = meta_model(job.checkpoint.config)
    own = model.config.get_text_config()
    outside = {id(model.get_input_embeddings().weight): model.get_input_embeddings().weight}
    head = model.get_output_embeddings()
    if head is not None:
        outside[id(head.weight)] = head.weight
    body = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in outside.values())
    return Sizes(body, own.hidden_size, own.vocab_size)


def _count(
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
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def _tokens_a_character(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> float:
    """Measured on some of the texts, spread evenly."""
    sample = [text for text in texts[:: max(1, len(texts) // _SAMPLED)] if text]
    tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in sample)
    return tokens / max(1, sum(map(len, sample)))
