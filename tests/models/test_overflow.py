"""Where numbers end: the layer is named, whether it overflows itself or the sum around it does."""

from __future__ import annotations

from typing import Any

import torch
from scoring_models import build

from evalkit.models.overflow import first_not_finite

IDS = torch.arange(12)[None]


def bfloat16_model() -> Any:
    """Each weight fits float16; what its second MLP gives does not."""
    model = build("llama-tied").bfloat16()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1e4)
        model.model.layers[1].mlp.up_proj.weight.mul_(100)
    return model


def test_the_layer_that_overflows_is_named() -> None:
    model = bfloat16_model()
    assert first_not_finite(model, IDS) == ""
    assert first_not_finite(model.half(), IDS) == "model.layers.1.mlp.down_proj"
    assert not any(module._forward_hooks for module in model.modules())


def test_a_sum_that_overflows_is_its_block() -> None:
    model = build("llama-tied").half()
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(6e4)

    def large(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.full_like(output, 6e4)

    model.model.layers[0].mlp.register_forward_hook(large)
    assert first_not_finite(model, IDS) == "model.layers.0"


def test_damaged_weights_are_named_too() -> None:
    model = build("llama-tied")
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight[0, 0] = float("nan")
    assert first_not_finite(model, IDS) == "model.layers.0.self_attn.k_proj"
