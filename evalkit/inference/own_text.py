"""Text that a model writes by itself, as tokens: calibration data where there is no other.

A model's own samples follow the distribution that it was trained on, as far as it has learned it
(Liu et al. 2023, "LLM-QAT: Data-Free Quantization Aware Training").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteriaList

from evalkit.analysis.duration import WRITTEN_TOGETHER

# Steps after which the time of all others can be told.
_TIMED_STEPS = 4

Advance = Callable[[int, int], None]


def own_text(
    model: PreTrainedModel,
    first: Sequence[int],
    *,
    length: int,
    seed: int,
    advance: Advance | None = None,
    expected: Callable[[float], None] | None = None,
) -> list[list[int]]:
    """For each token of `first` a sample of `length` tokens that begins with it, drawn by `seed`.

    Tokens are drawn from the model's full distribution at temperature 1. A sample goes on beyond
    an end of text, as a training text does. `advance` gets tokens made and tokens in all,
    `expected` the seconds that everything will take, once these can be told. The model's own
    generation settings are gone afterwards.
    """
    # Whatever a call leaves open is taken from the model's own settings.
    model.generation_config = GenerationConfig()
    meter = _Meter(
        len(first) * (length - 1), -(-len(first) // WRITTEN_TOGETHER) * (length - 1), expected
    )
    found: list[list[int]] = []
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.inference_mode():
        for start in range(0, len(first), WRITTEN_TOGETHER):
            torch.manual_seed(seed + start)
            rows = list(first[start : start + WRITTEN_TOGETHER])
            found += _drawn(model, rows, length, meter.counting(len(rows), advance))
    return found


def _drawn(
    model: PreTrainedModel, rows: list[int], length: int, after_step: Callable[..., Tensor]
) -> list[list[int]]:
    ids = torch.tensor(rows, device=model.device)[:, None]
    if length == 1:
        return [[token] for token in rows]
    settings = GenerationConfig(
        do_sample=True, top_k=0, max_new_tokens=length - 1, pad_token_id=rows[0], use_cache=True
    )
    output: Any = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=settings,
        stopping_criteria=StoppingCriteriaList([after_step]),
    )
    samples: list[list[int]] = output.tolist()
    return samples


class _Meter:
    """Counts tokens and steps over all batches, and tells what they will take."""

    def __init__(
        self, tokens: int, steps: int, expected: Callable[[float], None] | None = None
    ) -> None:
        self._tokens, self._steps, self._expected = tokens, steps, expected
        self._done = self._step = 0
        self._start = 0.0

    def counting(self, rows: int, advance: Advance | None) -> Callable[..., Tensor]:
        """Called after each step of a batch of `rows`; it never stops one."""

        def after_step(ids: Tensor, _: Any, **__: Any) -> Tensor:
            self._done += rows
            self._step += 1
            if self._step == 1:
                # The first step reads the weights from where they lie.
                self._start = time.perf_counter()
            if self._step == 1 + _TIMED_STEPS and self._expected is not None:
                step = (time.perf_counter() - self._start) / _TIMED_STEPS
                self._expected(step * self._steps)
            if advance is not None:
                advance(self._done, self._tokens)
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        return after_step
