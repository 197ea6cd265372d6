"""Tokens, stop reason and likelihoods of generated text are those of transformers' own loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from prefix_models import model_of, runner_of, tokenizer_of_words
from scoring_models import VOCABULARY
from transformers import PreTrainedModel

from evalkit.analysis.answers import Said, first_difference, noise_floor
from evalkit.inference.budget import Budget
from evalkit.inference.decoding import Decoding
from evalkit.inference.generate import Generated, generate

GREEDY = {"do_sample": False}
COUNT = 12


def prompts() -> list[list[int]]:
    random = np.random.default_rng(1)
    return [[int(t) for t in random.integers(4, VOCABULARY, n)] for n in (3, 9, 20, 9, 14, 5, 11)]


def answers(
    model: PreTrainedModel, budget: Budget, options: dict[str, Any] = GREEDY, seed: int = 0
) -> list[Generated]:
    found: dict[int, Generated] = {}
    made: list[int] = []
    asked = prompts()
    generate(
        runner_of(model, budget),
        tokenizer_of_words(),
        asked,
        Decoding(COUNT, (), options),
        seeds=range(seed, seed + len(asked)),
        on_generated=lambda one: found.update({one.index: one}),
        on_tokens=made.append,
        with_likelihoods=True,
    )
    assert sum(made) == sum(len(one.tokens) for one in found.values())
    return [found[index] for index in range(len(asked))]


def by_transformers(model: PreTrainedModel, prompt: Sequence[int]) -> tuple[list[int], Any]:
    """Greedy tokens, and log-probability and lead of each."""
    ids = torch.tensor([prompt])
    output: Any = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=COUNT, do_sample=False,
        output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    tokens = output.sequences[0, len(prompt) :].tolist()
    pairs = []
    for scores, token in zip(output.scores, tokens, strict=True):
        logs = scores[0].log_softmax(-1)
        best = logs.sort(descending=True).values
        pairs.append((float(logs[token]), float(best[0] - best[1])))
    return tokens, pairs


@pytest.mark.parametrize("name", ["phi-3", "llama-tied", "block-sparse", "recurrent"])
@pytest.mark.parametrize("budget", [Budget(64, 200), Budget(4096, 65536)])
def test_tokens_and_likelihoods_are_those_of_plain_generate(name: str, budget: Budget) -> None:
    model = model_of(name)
    for one, prompt in zip(answers(model, budget), prompts(), strict=True):
        tokens, pairs = by_transformers(model, prompt)
        assert one.tokens == tokens
        assert one.stop == ("end" if tokens[-1] == 2 else "length")
        assert np.allclose(one.likelihoods, pairs, atol=2e-4)
        assert one.seconds >= 0


def test_drawn_tokens_keep_the_likelihood_of_what_was_drawn() -> None:
    model = model_of("phi-3")
    options = {"do_sample": True, "temperature": 1.5, "top_k": 0, "top_p": 1.0}
    small, large = (answers(model, b, options) for b in (Budget(64, 200), Budget(4096, 65536)))
    assert [one.tokens for one in small] == [one.tokens for one in large]
    assert [o.tokens for o in answers(model, Budget(), options, seed=50)] != [
        o.tokens for o in small
    ]
    one, prompt = small[0], prompts()[0]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *one.tokens]])).logits[0, len(prompt) - 1 : -1]
    logs = (logits.float() / 1.5).log_softmax(-1)
    wanted = logs.gather(-1, torch.tensor(one.tokens)[:, None])[:, 0]
    assert np.allclose([log for log, _ in one.likelihoods], wanted, atol=2e-4)


def said(found: Sequence[Generated]) -> list[Said]:
    return [
        Said(one.text, tuple(one.tokens), one.stop, tuple(lead for _, lead in one.likelihoods))
        for one in found
    ]


def test_another_batch_size_is_identical_in_float32_and_a_spoiled_layer_forks_at_large_leads() -> (
    None
):
    model = model_of("phi-3")
    whole, halved = (said(answers(model, b)) for b in (Budget(4096, 65536), Budget(64, 200)))
    floor = noise_floor(list(zip(whole, halved, strict=True)))
    assert floor.forked.value == 0
    assert floor.margin is not None
    assert floor.margin < 1e-3
    torch.manual_seed(3)
    with torch.no_grad():
        weight = model.model.layers[-1].mlp.down_proj.weight
        weight += 0.5 * torch.randn_like(weight)
    spoiled = said(answers(model, Budget(4096, 65536)))
    forks = [first_difference(a.tokens, b.tokens) for a, b in zip(spoiled, whole, strict=True)]
    leads = [one.leads[fork] for one, fork in zip(whole, forks, strict=True) if fork is not None]
    assert len(leads) >= len(whole) - 1
    assert np.median(leads) > 100 * floor.margin
