"""Text that a model writes by itself: seeded, of the asked length, drawn from its distribution."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from evalkit.inference import own_text as module
from evalkit.inference.own_text import own_text


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64, eos_token_id=3, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_samples_are_seeded_and_of_one_length(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITTEN_TOGETHER", 4)
    done: list[tuple[int, int]] = []
    told: list[float] = []
    first = [1, 2, 1, 2, 5, 6]

    def write(seed: int) -> list[list[int]]:
        return own_text(
            model, first, length=12, seed=seed,
            advance=lambda *numbers: done.append(numbers), expected=told.append,
        )  # fmt: skip

    before = torch.random.get_rng_state()
    made = write(0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert [sample[0] for sample in made] == first
    # An end of text does not end a sample.
    assert {len(sample) for sample in made} == {12} and any(3 in sample for sample in made)
    assert made == write(0) != write(1)
    assert done[10] == (44, 66) and done[21] == (66, 66)
    assert len(told) == 3 and min(told) > 0


def test_it_is_drawn_from_the_whole_distribution_whatever_the_model_says(
    model: LlamaForCausalLM,
) -> None:
    model.generation_config = GenerationConfig(do_sample=True, top_k=1, eos_token_id=3)
    made = torch.tensor(own_text(model, [1] * 512, length=2, seed=0))[:, 1]
    with torch.inference_mode():
        expected = model(torch.tensor([[1]])).logits[0, -1].softmax(-1)
    found = torch.bincount(made, minlength=16) / 512
    assert float((found - expected).abs().sum()) < 0.2
