"""Which models run in two steps, and what is said of those that do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scoring_models import CONFIGS, build, disturbed
from torch import nn
from transformers import AutoModelForCausalLM

from evalkit.scoring import head
from evalkit.scoring.head import (
    OutputHead,
    linear_layer,
    open_forward,
    plain_head,
)
from evalkit.scoring.rounding import same_logits

SAMPLE = torch.tensor([5, 6, 7, 8, 9, 10, 11])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stored", [False, True])
def test_rebuilt_logits_are_the_models_own(name: str, stored: bool) -> None:
    model = build(name)
    forward = open_forward(model, SAMPLE, stored=stored)
    assert forward.kind == "hidden"
    assert forward.note == ""
    with torch.inference_mode():
        own = model(input_ids=SAMPLE[None]).logits[0]
        rows = forward.rows(SAMPLE[None])[0]
        torch.testing.assert_close(forward.logits(rows), own, rtol=0, atol=0)
        # Some rows of it, as chunks of scored tokens are.
        torch.testing.assert_close(forward.logits(rows[2:5]), own[2:5])
        torch.testing.assert_close(forward.next_logits(rows), own, rtol=1e-4, atol=1e-5)
    assert rows.shape == (7, 32)
    assert forward.vocabulary == own.shape[1]


@pytest.mark.parametrize("name", ["llama-tied", "gemma-2", "phi-1", "gpt-neox", "phi-3-small"])
def test_another_head_in_the_same_model_gives_the_other_models_logits(name: str) -> None:
    model, other = build(name), disturbed(build(name), 0.2)
    forward, theirs = open_forward(model, SAMPLE), open_forward(other, SAMPLE)
    assert isinstance(forward.head, OutputHead)
    head = OutputHead(model, forward.body, forward.head.output, plain_head(other))
    with torch.inference_mode():
        rows = theirs.rows(SAMPLE[None])[0]
        torch.testing.assert_close(head(rows), theirs.logits(rows), rtol=0, atol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_causal_models_need_no_mask_for_padding(name: str) -> None:
    assert not open_forward(build(name), SAMPLE).masked


def test_a_model_that_sees_padding_gets_a_mask() -> None:
    model = build("phi-3")
    own = model.base_model.forward

    def forward(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        output = own(input_ids=input_ids, **kwargs)
        output.last_hidden_state = output.last_hidden_state + input_ids.shape[1]
        return output

    model.base_model.forward = forward
    assert open_forward(model, SAMPLE).masked


def test_a_forward_that_adds_to_the_logits_is_run_whole() -> None:
    model = build("phi-3")
    own = model.forward

    def forward(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        logits = own(input_ids=input_ids, **kwargs).logits
        steps = torch.arange(logits.shape[2]) % 7
        return SimpleNamespace(logits=logits + input_ids[..., None] * steps)

    model.forward = forward
    found = open_forward(model, SAMPLE)
    assert found.kind == "logits"
    assert found.note == (
        "Phi3ForCausalLM is scored by its whole logits: "
        "logits rebuilt from final hidden states differ from its own"
    )


def test_a_quantized_head_is_used_but_cannot_be_stored() -> None:
    class PackedHead(nn.Module):
        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            self.scale = weight.abs().max() / 127
            self.register_buffer("weight", (weight / self.scale).round().to(torch.int8))

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(hidden, self.weight.float() * self.scale)

    model = build("phi-3")
    model.lm_head = PackedHead(model.lm_head.weight.detach())
    assert open_forward(model, SAMPLE).kind == "hidden"
    stored = open_forward(model, SAMPLE, stored=True)
    assert stored.kind == "logits"
    assert "output head PackedHead holds no plain weight matrix" in stored.note


def test_a_failed_call_leaves_the_model_whole() -> None:
    model = build("phi-3")
    forward = open_forward(model, SAMPLE)
    assert forward.head is not None
    head = OutputHead(
        model, forward.body, forward.head.output, linear_layer(torch.zeros(3, 5), None)
    )
    own = model.lm_head
    with pytest.raises(RuntimeError):
        head(torch.zeros(2, 32))
    assert model.lm_head is own
    assert "forward" not in forward.body.__dict__


def test_logits_are_the_same_up_to_rounding_of_their_dtype() -> None:
    one = torch.tensor([[1.0, -20.0, 3.0]])
    assert same_logits(one, one * (1 + 2e-6))
    assert not same_logits(one, one * (1 + 1e-4))
    assert same_logits(one.bfloat16(), one * (1 + 5e-3))
    assert not same_logits(one.bfloat16(), one * 1.05)
    assert not same_logits(one, one[:, :2])
    masked = torch.tensor([[1.0, -20.0, torch.finfo(torch.float32).min]])
    assert same_logits(masked, masked.clone())
    assert not same_logits(masked, one)
    assert not same_logits(one, torch.full((1, 3), float("nan")))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_not_taken_for_visible_padding(dtype: torch.dtype) -> None:
    assert not open_forward(build("gemma-2").to(dtype), SAMPLE).masked


def longrope(name: str) -> Any:
    """A model that changes its rotary factors behind 40 tokens."""
    half = 4
    factors = {"short_factor": [1.0] * half, "long_factor": [1.5, 2.0, 3.0, 4.0]}
    config = CONFIGS[name].to_dict()
    if name == "phi-3":
        config["rope_parameters"] = {
            "rope_type": "longrope", "rope_theta": 1e4, **factors,
            "original_max_position_embeddings": 40,
        }  # fmt: skip
        config["original_max_position_embeddings"] = 40
    else:
        config["rope_scaling"] = {
            "type": "su", **factors, "original_max_position_embeddings": 40,
            "short_mscale": -1, "long_mscale": -1,
        }  # fmt: skip
    torch.manual_seed(0)
    kind = type(CONFIGS[name])
    return AutoModelForCausalLM.from_config(kind(**config), dtype=torch.float32).eval()


@pytest.mark.parametrize("length", [33, 41, 100])
@pytest.mark.parametrize("name", [*CONFIGS, "longrope phi-3", "longrope phi-3-small"])
def test_long_windows_are_read_in_chunks_with_the_same_rows(
    name: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = name.removeprefix("longrope ")
    model = longrope(kind) if kind != name else build(name)
    forward = open_forward(model, SAMPLE)
    ids = torch.randint(4, 500, (1, length), generator=torch.Generator().manual_seed(length))
    with torch.inference_mode():
        whole = forward.rows(ids)
        monkeypatch.setattr(head, "WHOLE_TOKENS", 32)
        monkeypatch.setattr(head, "CHUNK_TOKENS", 16)
        assert forward._can_be_cut
        lengths: list[int] = []
        hook = forward.body.register_forward_pre_hook(
            lambda _, __, words: lengths.append(words["input_ids"].shape[1]), with_kwargs=True
        )
        chunked = forward.rows(ids)
        hook.remove()
    assert len(lengths) > 1 or "longrope" in name
    assert sum(lengths) == length
    # The first chunk of a longrope model reaches behind the change; all others are short.
    assert max(lengths[1:], default=0) <= 16
    assert torch.allclose(chunked, whole, atol=2e-5 * float(whole.abs().max()))
