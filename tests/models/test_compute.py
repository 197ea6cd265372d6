"""Float32 arithmetic for quality on CPU: the same weights, exactly unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from evalkit.backends import bitsandbytes, for_scoring, parse_variant
from evalkit.backends import transformers as plain
from evalkit.errors import ModelError
from evalkit.models.compute import weights_only
from evalkit.models.layer_format import LayerFormat
from evalkit.models.layers import linear_modules
from evalkit.models.loading import Loaded


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("compute")
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.1,
        attention_bias=True,
    )
    LlamaForCausalLM(config).half().save_pretrained(path)
    return path


def logits(loaded: Loaded) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.model(torch.arange(32)[None]).logits


def test_16_bit_weights_keep_their_values(source: Path) -> None:
    loaded = plain.load(source, parse_variant("fp16"), "cpu")
    weights = [p.detach().clone() for p in loaded.model.parameters()]
    scored = for_scoring(loaded, "cpu")
    for before, after in zip(weights, scored.model.parameters(), strict=True):
        assert after.dtype == torch.float32
        assert torch.equal(before, after.half())
    assert scored.model.dtype == torch.float32
    assert scored.kernel == "Linear (float32)"
    assert any("float32" in note for note in scored.notes)
    # fp16 weights in float32 are the fp32 variant of the same files.
    full = plain.load(source, parse_variant("fp32"), "cpu")
    assert torch.equal(logits(scored), logits(full))


def test_float32_is_left_alone(source: Path) -> None:
    loaded = plain.load(source, parse_variant("fp32"), "cpu")
    assert for_scoring(loaded, "cpu") is loaded


def test_other_devices_are_left_alone(source: Path) -> None:
    loaded = plain.load(source, parse_variant("fp16"), "cpu")
    assert for_scoring(loaded, "cuda") is loaded


@pytest.mark.parametrize("text", ["fp16", "int4@bitsandbytes"])
def test_a_second_call_gives_the_same_answer(source: Path, text: str) -> None:
    variant = parse_variant(text)
    loaded = (bitsandbytes if "int4" in text else plain).load(source, variant, "cpu")
    logits(loaded)
    first = for_scoring(loaded, "cpu")
    assert for_scoring(loaded, "cpu") is first
    assert len(first.notes) == 1


@pytest.mark.parametrize("options", ["", ",quant_type=fp4", ",double_quant=true"])
def test_4_bit_weights_are_unpacked_exactly(source: Path, options: str) -> None:
    import bitsandbytes as library

    loaded = bitsandbytes.load(source, parse_variant(f"int4@bitsandbytes{options}"), "cpu")
    layer: Any = loaded.model.model.layers[0].mlp.up_proj
    state = layer.weight.quant_state
    if state.nested:
        scales = library.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    else:
        scales = state.absmax
    packed = layer.weight.data.reshape(-1)
    codes = torch.stack([packed >> 4, packed & 15], dim=1).reshape(-1).long()
    by_hand = state.code[codes].reshape(-1, 64) * scales[:, None]
    scored = for_scoring(loaded, "cpu")
    unpacked = scored.model.model.layers[0].mlp.up_proj.weight
    assert torch.equal(unpacked, by_hand.reshape(128, 64))
    assert scored.kernel.endswith("as Linear (float32)")
    assert torch.isfinite(logits(scored)).all()


def test_kernels_that_repacked_are_loaded_again(source: Path) -> None:
    variant = parse_variant("int4@bitsandbytes")
    expected = logits(for_scoring(bitsandbytes.load(source, variant, "cpu"), "cpu"))
    used = bitsandbytes.load(source, variant, "cpu")
    logits(used)
    assert torch.equal(logits(for_scoring(used, "cpu")), expected)


def test_llm_int8_layers_run_as_they_are(source: Path) -> None:
    loaded = bitsandbytes.load(source, parse_variant("int8"), "cpu")
    native = logits(loaded)
    scored = for_scoring(loaded, "cpu")
    assert scored.kernel == loaded.kernel
    assert any("LLM.int8() layers as they are" in note for note in scored.notes)
    out = logits(scored)
    assert out.dtype == torch.float32
    assert (out - native.float()).abs().mean() < 0.02 * native.float().std()


def test_too_little_memory_is_said(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    loaded = plain.load(source, parse_variant("fp16"), "cpu")
    scored = for_scoring(loaded, "cpu")
    assert scored.model.dtype == torch.float16
    assert any("float32 would need" in note for note in scored.notes)


class Packed(nn.Module):
    """A made-up library's layer: whole numbers and one scale, which only its backend can read."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = float(linear.weight.detach().abs().max()) / 127
        self.register_buffer("codes", (linear.weight / self.scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs, self.codes.to(inputs.dtype) * self.scale, self.bias)


def packed(source: Path, **said: Any) -> Loaded:
    """The model in layers of `Packed`; the backend says `said` of them, or nothing."""
    loaded = plain.load(source, parse_variant("fp16"), "cpu")
    for name, layer in list(linear_modules(loaded.model)):
        loaded.model.set_submodule(name, Packed(layer))
    formats = (LayerFormat("made up", lambda m: isinstance(m, Packed), **said),) if said else ()
    return Loaded(loaded.model, "Packed", formats=formats)


def test_layers_are_unpacked_as_their_backend_says(source: Path) -> None:
    loaded = packed(source, unpack=lambda layer: layer.codes.float() * layer.scale)
    layer: Any = loaded.model.model.layers[0].mlp.up_proj
    scored = for_scoring(loaded, "cpu")
    weight = scored.model.model.layers[0].mlp.up_proj.weight
    assert torch.equal(weight, layer.codes.float() * layer.scale)
    assert scored.kernel == "Packed as Linear (float32)"
    assert logits(scored).dtype == torch.float32


def test_layers_that_are_more_than_their_weights_run_as_they_are(source: Path) -> None:
    scored = for_scoring(packed(source, runs_as_is=True), "cpu")
    assert isinstance(scored.model.model.layers[0].mlp.up_proj, Packed)
    assert scored.kernel == "Packed"
    assert scored.notes == (
        "quality on CPU: made up layers as they are, everything else in float32",
    )
    assert logits(scored).dtype == torch.float32


@pytest.mark.parametrize("said", [{}, {"kernel": lambda layer, dtype: "Packed"}])
def test_layers_that_nobody_unpacks_keep_their_kernels(source: Path, said: Any) -> None:
    scored = for_scoring(packed(source, **said), "cpu")
    assert scored.model.dtype == torch.float16
    assert scored.notes == (
        "quality is measured with the variant's own kernels: they are not of a kind that is"
        " unpacked to float32",
    )


def test_repacked_layers_are_loaded_again_or_refused(source: Path) -> None:
    said = {"unpack": lambda layer: layer.codes.float(), "is_repacked": lambda layer: True}
    with pytest.raises(ModelError, match="load it again"):
        for_scoring(packed(source, **said), "cpu")
    again = packed(source, **said)
    again.reload = lambda: packed(source).model
    assert for_scoring(again, "cpu").model is not again.model


def test_weights_alone_are_run_in_another_dtype_for_a_while(source: Path) -> None:
    def unpack(layer: Any) -> torch.Tensor:
        # As GPTQModel's layers are changed by being unpacked.
        layer.scale, layer.codes = layer.scale * 1.0, layer.codes.float()
        return layer.codes * layer.scale

    loaded = packed(source, unpack=unpack)
    own = logits(loaded)
    expected = logits(for_scoring(packed(source, unpack=unpack), "cpu"))
    parameters = dict(loaded.model.named_parameters())
    with weights_only(loaded, torch.float32) as possible:
        assert possible
        assert loaded.model.dtype == torch.float32
        assert torch.equal(logits(loaded), expected)
    assert torch.equal(logits(loaded), own)
    for name, after in loaded.model.named_parameters():
        assert after is parameters[name] and after.dtype == torch.float16
    assert loaded.model.model.layers[0].mlp.up_proj.codes.dtype == torch.int8


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"kernel": lambda layer, dtype: "Packed"},
        {"unpack": lambda layer: layer.codes.float(), "runs_as_is": True},
        {"unpack": lambda layer: layer.codes.float(), "is_repacked": lambda layer: True},
    ],
)
def test_where_weights_alone_cannot_be_had_nothing_is_changed(source: Path, said: Any) -> None:
    loaded = packed(source, **said)
    with weights_only(loaded, torch.float32) as possible:
        assert not possible
        assert loaded.model.dtype == torch.float16
    with weights_only(plain.load(source, parse_variant("fp16"), "cpu"), torch.float32) as possible:
        assert not possible
