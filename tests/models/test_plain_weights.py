"""Weights by name: unpacked, fused from the parts that a library split, exchanged and put back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from evalkit.errors import VariantError
from evalkit.models.layer_format import LayerFormat
from evalkit.models.plain_weights import PlainWeights, exchanged


class Packed(nn.Module):
    """A packed layer: codes and a scale, which unpacking changes."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.register_buffer("codes", torch.randint(-8, 8, (outputs, inputs), dtype=torch.int8))
        self.register_buffer("scales", torch.rand(outputs, 1, dtype=torch.float16))
        self.bias = nn.Parameter(torch.zeros(outputs))


def unpack(layer: Packed) -> Tensor:
    layer.scales = layer.scales.float()
    return layer.codes.float() * layer.scales


FORMATS = (LayerFormat("codes", lambda module: isinstance(module, Packed), unpack=unpack),)


def split() -> nn.Module:
    """What GPTQModel makes of a fused projection and of fused experts."""
    model = nn.Module()
    model.mlp = nn.Module()
    model.mlp.gate_proj, model.mlp.up_proj = Packed(3, 4), Packed(3, 4)
    model.experts = nn.ModuleList()
    for _ in range(2):
        expert = nn.Module()
        expert.gate_proj, expert.up_proj = Packed(3, 4), Packed(3, 4)
        expert.down_proj = Packed(4, 3)
        model.experts.append(expert)
    return model


def test_packed_weights_are_read_and_left_as_they_are() -> None:
    model = split()
    found = PlainWeights(model, FORMATS)
    gate = model.mlp.gate_proj
    assert torch.equal(found["mlp.gate_proj.weight"], gate.codes.float() * gate.scales.float())
    assert gate.scales.dtype == torch.float16
    assert "mlp.gate_proj.bias" in found and "mlp.other.weight" not in found
    assert not found.is_plain("mlp.gate_proj.weight")
    with pytest.raises(KeyError):
        found["mlp.other.weight"]


def test_fused_weights_are_put_together_from_their_parts() -> None:
    found = PlainWeights(split(), FORMATS)
    parts = [found[f"mlp.{name}_proj.weight"] for name in ("gate", "up")]
    assert torch.equal(found["mlp.gate_up_proj.weight"], torch.cat(parts))
    assert found.stored_as("mlp.gate_up_proj.weight") == (
        "mlp.gate_proj.weight", "mlp.up_proj.weight")  # fmt: skip
    fused = found["experts.gate_up_proj"]
    assert fused.shape == (2, 6, 4)
    assert torch.equal(fused[1, 3:], found["experts.1.up_proj.weight"])
    assert found["experts.down_proj"].shape == (2, 4, 3)


def test_layers_that_nobody_can_unpack_are_refused() -> None:
    with pytest.raises(VariantError, match="codes layers cannot be unpacked"):
        PlainWeights(split(), (LayerFormat("codes", FORMATS[0].matches),))


def test_a_tied_head_keeps_its_weights_when_the_embedding_is_exchanged() -> None:
    model = nn.Module()
    model.embed, model.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    model.head.weight = model.embed.weight
    own = model.embed.weight
    assert list(PlainWeights(model)) == ["embed.weight", "head.weight"]
    with exchanged(model, {"embed.weight": torch.zeros(5, 4, dtype=torch.float64)}):
        assert not model.embed.weight.any() and model.embed.weight.dtype == own.dtype
        assert model.head.weight is own
    assert model.embed.weight is own
