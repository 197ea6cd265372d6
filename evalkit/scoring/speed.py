"""Timing of one generation: a prompt read in one pass, then one token a step."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class GenerationTime:
    """Seconds of the prefill pass and of all decode steps together."""

    prefill: float
    decode: float


def generation_lengths(model: Any, prompt: int, generate: int) -> tuple[int, int]:
    """`prompt` and `generate` cut to the model's context, a quarter of it for generation."""
    limit = int(getattr(model.config, "max_position_embeddings", 0) or prompt + generate)
    generate = min(generate, max(1, limit // 4))
    return max(1, min(prompt, limit - generate)), generate


def time_generation(model: Any, prompt: int, generate: int) -> GenerationTime:
    """Time one prefill of `prompt` random tokens and `generate` greedy steps at batch 1."""
    prompt, generate = generation_lengths(model, prompt, generate)
    device = model.get_input_embeddings().weight.device
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (1, prompt), generator=generator).to(device)
    with torch.inference_mode():
        start = _now(device)
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1:].argmax(-1)
        middle = _now(device)
        for _ in range(generate):
            output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
            token = output.logits[:, -1:].argmax(-1)
        end = _now(device)
    return GenerationTime(prefill=middle - start, decode=end - middle)


def _now(device: torch.device) -> float:
    """Wall time after everything queued on `device` has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
