"""Bytes by category against hand counts; tied weights once, subclasses and states included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from evalkit.backends import _bitsandbytes
from evalkit.models.packed_parameters import Unpacking, pack
from evalkit.models.shapes import meta_model
from evalkit.models.storage import parameter_count, quantized_weights, weight_bytes

HIDDEN, INTERMEDIATE, VOCABULARY = 64, 128, 256
# q, k, v, o with two key/value heads of 16, then gate, up and down.
LINEAR = HIDDEN * (64 + 32 + 32 + 64) + 3 * HIDDEN * INTERMEDIATE
ROWS = 64 + 32 + 32 + 64 + 2 * INTERMEDIATE + HIDDEN


def llama(**changes: Any) -> PreTrainedModel:
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).half()


def test_a_plain_model() -> None:
    model = llama()
    assert weight_bytes(model, ()) == {
        "embedding": 2 * VOCABULARY * HIDDEN,
        "linear": 2 * LINEAR,
        "norm": 2 * 3 * HIDDEN,
    }
    assert parameter_count(model) == VOCABULARY * HIDDEN + LINEAR + 3 * HIDDEN


def test_an_untied_head_counts_apart() -> None:
    model = llama(tie_word_embeddings=False)
    assert weight_bytes(model, ())["head"] == 2 * VOCABULARY * HIDDEN
    assert parameter_count(model) == 2 * VOCABULARY * HIDDEN + LINEAR + 3 * HIDDEN


def test_biases() -> None:
    assert weight_bytes(llama(attention_bias=True), ())["bias"] == 2 * (64 + 32 + 32 + 64)


def test_the_meta_device_agrees() -> None:
    model = llama()
    config = {**model.config.to_dict(), "dtype": "float16"}
    on_meta = meta_model(config).half()
    assert weight_bytes(on_meta, ()) == weight_bytes(model, ())


def test_scales_of_llm_int8_before_and_after_it_runs(tmp_path: Any) -> None:
    from transformers import BitsAndBytesConfig

    llama().save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.float16
    )
    before = weight_bytes(model, _bitsandbytes.FORMATS)
    assert before["packed"] == LINEAR
    assert before["scales"] == 4 * ROWS
    with torch.inference_mode():
        model(torch.arange(16)[None])
    assert weight_bytes(model, _bitsandbytes.FORMATS) == before
    assert parameter_count(model) == parameter_count(llama())


@pytest.mark.parametrize("nested", [False, True])
def test_scales_of_4_bit(tmp_path: Any, nested: bool) -> None:
    from transformers import BitsAndBytesConfig

    llama().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=nested
    )
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=config, dtype=torch.float16
    )
    sizes = weight_bytes(model, _bitsandbytes.FORMATS)
    assert sizes["packed"] == LINEAR // 2
    blocks = LINEAR // 64
    if nested:
        # One byte a block, one float32 for 256 blocks and an offset for each of seven layers.
        layers = [64 * 64, 32 * 64, 32 * 64, 64 * 64, *[HIDDEN * INTERMEDIATE] * 3]
        seconds = sum(-(-size // 64 // 256) for size in layers)
        assert sizes["scales"] == blocks + 4 * seconds + 4 * 7
        assert sizes["codebook"] == 7 * (16 + 256) * 4
    else:
        assert sizes["scales"] == 4 * blocks
        assert sizes["codebook"] == 7 * 16 * 4


def test_tensor_subclasses_of_torchao(tmp_path: Any) -> None:
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    llama().save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        quantization_config=TorchAoConfig(Int8WeightOnlyConfig(version=2)),
        dtype=torch.float16,
    )
    sizes = weight_bytes(model, ())
    assert sizes["packed"] == LINEAR
    assert sizes["scales"] == 4 * ROWS
    assert "linear" not in sizes


def test_bits_over_the_quantized_weights_and_over_the_whole_model(tmp_path: Any) -> None:
    """NF4 has a float32 scale for 64 weights: 4.5 bits, and a table of 16 values a layer."""
    from transformers import BitsAndBytesConfig

    llama(attention_bias=True).save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=config, dtype=torch.float16
    )
    formats = _bitsandbytes.FORMATS
    packed, weights = quantized_weights(model, formats)
    assert weights == LINEAR
    assert 8 * packed == 4.5 * LINEAR + 7 * 16 * 32
    sizes = weight_bytes(model, formats)
    rest = 2 * (VOCABULARY * HIDDEN + 3 * HIDDEN + 64 + 32 + 32 + 64)
    assert sum(sizes.values()) - packed == rest


def test_an_unquantized_model_has_no_quantized_weights() -> None:
    assert quantized_weights(llama(), ()) == (0, 0)


def test_packed_experts_are_quantized_weights() -> None:
    module = torch.nn.Module()
    module.weights = torch.nn.Parameter(torch.zeros(2, 4, 8))
    model = llama()
    model.model.layers[0].mlp.experts = module

    class Eight(Unpacking):
        def __init__(self) -> None:
            super().__init__(torch.Size((2, 4, 8)), torch.float16)
            self.register_buffer("scales", torch.ones(2, 4, 1))

        def forward(self, stored: torch.Tensor) -> torch.Tensor:
            return stored.to(self.dtype)

    pack(module, "weights", torch.zeros(2, 4, 8, dtype=torch.int8), Eight())
    assert quantized_weights(model, ()) == (64 + 4 * 8, 64)
