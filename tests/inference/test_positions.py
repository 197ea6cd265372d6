"""Models that count positions in ways of their own, and those that keep a state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from prefix_models import runner_of
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    JambaConfig,
    LlamaConfig,
    PreTrainedModel,
    RobertaConfig,
)

from evalkit.inference.prefix import PrefixRunner
from evalkit.inference.prefix_scores import Request, score_requests
from evalkit.scoring import head
from evalkit.scoring.head import open_forward

_SIZES = {"vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    "roberta": RobertaConfig(
        **_SIZES, intermediate_size=48, is_decoder=True, pad_token_id=1, initializer_range=0.3
    ),
    "bart": BartConfig(
        vocab_size=600, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=48,
        encoder_layers=2, is_decoder=True, is_encoder_decoder=False, init_std=0.3,
    ),
    "jamba": JambaConfig(
        **_SIZES, num_key_value_heads=2, intermediate_size=48, num_experts=1, mamba_d_state=4,
        attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False, initializer_range=0.3,
    ),
    "llama": LlamaConfig(
        **_SIZES, num_key_value_heads=2, intermediate_size=48, initializer_range=0.3
    ),
}  # fmt: skip
BEGINNING = list(range(10, 40))


def model_of(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


def requests() -> list[Request]:
    """Beginnings of two lengths, one of them with RoBERTa's padding id in its continuation."""
    longer = [*BEGINNING, *range(60, 70)]
    return [
        Request(BEGINNING, [50, 51]), Request(BEGINNING, [52, 53, 54]), Request(longer, [7, 8]),
        Request(longer, [9]), Request(BEGINNING, [50, 1, 51]),
    ]  # fmt: skip


@torch.inference_mode()
def alone(model: PreTrainedModel, request: Request) -> float:
    ids = torch.tensor([[*request.context, *request.continuation]])
    log_probabilities = model(input_ids=ids).logits[0].log_softmax(-1)
    first = len(request.context)
    return sum(float(log_probabilities[i - 1, ids[0, i]]) for i in range(first, ids.shape[1]))


@pytest.mark.parametrize("name", ["roberta", "bart", "llama"])
def test_log_likelihoods_behind_shared_prefixes_are_those_of_whole_passes(name: str) -> None:
    model = model_of(name)
    runner = runner_of(model)
    scores, _ = score_requests(runner, requests(), max_length=200)
    wanted = [alone(model, request) for request in requests()]
    assert [score.log_likelihood for score in scores] == pytest.approx(wanted, abs=2e-3)
    assert runner.shares == (name != "bart")
    assert runner.first_position == (2 if name == "roberta" else 0)


@pytest.mark.parametrize("name", ["roberta", "llama", "bart"])
def test_what_rounds_by_the_whole_batch_shares_all_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLM.int8() picks its columns in 16 bit from all tokens of a batch: no fault of positions."""
    model = model_of(name)
    layers = model.get_decoder() or model.base_model

    def coarse(_module: object, _inputs: object, output: Any) -> None:
        scale = 1 + 0.1 * float(torch.sin(1e3 * output.last_hidden_state.double().sum()))
        output.last_hidden_state.mul_(scale)

    runner = runner_of(model)
    layers.register_forward_hook(coarse)
    score_requests(runner, requests(), max_length=200)
    assert runner.shares == (name != "bart"), runner.unshared
    assert runner.first_position == (2 if name == "roberta" else 0)


def test_a_runner_says_why_nothing_is_shared() -> None:
    runner = runner_of(model_of("bart"))
    score_requests(runner, requests(), max_length=200)
    assert runner.unshared == "BartForCausalLM counts positions that cannot be told to it"
    assert "keeps a state" in PrefixRunner(runner_of(model_of("jamba")).forward, None).unshared


@pytest.mark.parametrize("name", ["jamba", "llama"])
def test_a_long_window_has_the_rows_of_one_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state between two passes was lost, and the second began as a text of its own."""
    monkeypatch.setattr(head, "WHOLE_TOKENS", 32)
    monkeypatch.setattr(head, "CHUNK_TOKENS", 16)
    model = model_of(name)
    ids = torch.arange(4, 84)[None]
    with torch.inference_mode():
        rows = open_forward(model, ids[0, :16]).rows(ids)
        whole = model.base_model(input_ids=ids).last_hidden_state
    assert torch.allclose(rows, whole, atol=1e-3)
