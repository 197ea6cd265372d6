"""Shapes from a configuration against real models: parameters, cache and bytes alive."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

import evalkit.models.phi3_small  # noqa: F401  registers the architecture
from evalkit import plugins
from evalkit.analysis.architecture import Attention, ModelShape
from evalkit.analysis.footprint import (
    Scheme,
    decode_bytes,
    kv_cache_bytes,
    prefill_bytes,
    weight_bytes,
)
from evalkit.backends import parse_variant
from evalkit.errors import ModelError
from evalkit.models.activations import LiveBytes, cache_bytes
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.resolve import resolve_config
from evalkit.models.shape import model_shape
from evalkit.models.storage import weight_bytes as stored_bytes

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
LLAMA = {**SIZES, "model_type": "llama", "intermediate_size": 192}
PHI = {
    **SIZES,
    "model_type": "phi3small",
    "ff_intermediate_size": 128,
    "blocksparse_block_size": 16,
    "blocksparse_num_local_blocks": 4,
    "blocksparse_vert_stride": 4,
}
GPT2 = {
    "model_type": "gpt2", "vocab_size": 320, "n_embd": 64, "n_layer": 3, "n_head": 4,
    "n_positions": 512, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
MISTRAL = {**LLAMA, "model_type": "mistral", "sliding_window": 128}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
# It reads token after token, so few of them.
MAMBA = {
    "model_type": "mamba", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2,
    "state_size": 8, "conv_kernel": 4, "max_position_embeddings": 64,
}  # fmt: skip
ARCHITECTURES = {
    "llama": LLAMA, "phi3small": PHI, "gpt2": GPT2, "mistral": MISTRAL, "mixtral": MIXTRAL,
}  # fmt: skip
PLAIN = {2: Scheme("BF16", 16, 1.0, ""), 4: Scheme("FP32", 32, 1.0, "", rest_bytes=4)}


def real_model(config: dict[str, Any], dtype: torch.dtype = torch.bfloat16) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    plain = {k: v for k, v in config.items() if k != "model_type"}
    made = AutoConfig.for_model(config["model_type"], **plain)
    return AutoModelForCausalLM.from_config(made, dtype=dtype).eval()


def shape_of(config: dict[str, Any], *elements: int) -> ModelShape:
    return model_shape(str(config["model_type"]), config, elements or (2,))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_are_those_of_the_real_model(name: str) -> None:
    config = ARCHITECTURES[name]
    model, shape = real_model(config), shape_of(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.tied == (
        model.get_output_embeddings().weight is model.get_input_embeddings().weight
    )
    assert weight_bytes(shape, PLAIN[2]).total == sum(stored_bytes(model, ()).values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_kv_cache_is_that_of_the_real_model(name: str) -> None:
    config = ARCHITECTURES[name]
    model, shape = real_model(config), shape_of(config)
    with torch.inference_mode():
        cache = model(torch.zeros((2, 60), dtype=torch.long), use_cache=True).past_key_values
    assert kv_cache_bytes(shape, PLAIN[2], 2, 60) == cache_bytes(cache)


@pytest.mark.parametrize(("element", "dtype"), [(2, torch.bfloat16), (4, torch.float32)])
@pytest.mark.parametrize("name", ["llama", "phi3small", "gpt2"])
def test_activations_are_those_of_the_real_model(
    name: str, element: int, dtype: torch.dtype
) -> None:
    config = ARCHITECTURES[name]
    model, shape = real_model(config, dtype), shape_of(config, element)
    for batch, length in ((1, 20), (3, 61), (5, 7)):
        prefill, decode = measured_bytes(model, batch, length)
        cache = kv_cache_bytes(shape, PLAIN[element], batch, length)
        step = kv_cache_bytes(shape, PLAIN[element], batch, length + 1)
        assert prefill_bytes(shape, PLAIN[element], batch, length) == prefill - cache
        assert decode_bytes(shape, PLAIN[element], batch, length) == decode - step


def measured_bytes(model: Any, batch: int, length: int) -> tuple[int, int]:
    """Bytes alive at the peak of a prefill and of the step behind it, ids not counted."""
    gc.collect()
    ids = torch.zeros((batch, length), dtype=torch.long)
    with torch.inference_mode(), LiveBytes() as live:
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        prefill = int(live.take().alive.max())
        cache = output.past_key_values
        del output
        model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
        return prefill, int(live.take().alive.max())


@pytest.mark.parametrize("length", [100, 300])
def test_sparse_layers_of_long_prompts_are_planned_to_a_twentieth(length: int) -> None:
    model, shape = real_model(PHI, torch.float32), shape_of(PHI, 4)
    prefill, _ = measured_bytes(model, 2, length)
    planned = prefill_bytes(shape, PLAIN[4], 2, length) + kv_cache_bytes(shape, PLAIN[4], 2, length)
    assert planned == pytest.approx(prefill, rel=0.05)


@pytest.mark.parametrize(
    "words",
    [
        "int8@bitsandbytes",
        "int4@bitsandbytes,quant_type=nf4",
        "int4@bitsandbytes,quant_type=nf4,double_quant=true",
    ],
)
def test_stored_bytes_of_a_scheme_are_those_of_the_backend(words: str, tmp_path: Any) -> None:
    variant = parse_variant(words)
    backend = plugins.load("backends", variant.backend)
    real_model(LLAMA, torch.float16).save_pretrained(tmp_path)
    loaded = backend.load(tmp_path, variant, "cpu")
    assert weight_bytes(shape_of(LLAMA), backend.scheme(variant)).total == pytest.approx(
        sum(stored_bytes(loaded.model, loaded.formats).values()), rel=1e-3
    )


def test_phi_3_small_needs_no_hub() -> None:
    shape = model_shape("phi-3-small", resolve_config("phi-3-small", offline=True).config)
    assert shape.parameters == 7_392_272_384
    assert shape.linear_elements == 6_979_321_856
    assert (shape.tied, shape.max_context, shape.hidden, shape.layers) == (True, 8192, 4096, 32)
    assert shape.attention == (Attention(16, 2048, 1024, 8), Attention(16, 2048))
    long = resolve_config("phi-3-small-128k", offline=True)
    assert long.config["max_position_embeddings"] == 131072


def test_windows_and_experts_are_read_off_the_model() -> None:
    assert shape_of(MISTRAL).attention == (Attention(3, 64, window=128),)
    mixtral = shape_of(MIXTRAL)
    assert mixtral.experts == 3 * 4 * 3 * 64 * 192
    assert mixtral.expert_share == 0.5
    assert {linear.name.rpartition(".")[2] for linear in mixtral.linears} == {
        "q_proj", "k_proj", "v_proj", "o_proj",
    }  # fmt: skip


def test_a_recurrent_state_is_planned_as_what_it_is() -> None:
    """Mamba has no keys and values; its state and convolutions take the same at every length."""
    shape = shape_of(MAMBA)
    assert shape.state == 2 * 64 * (8 + 4)
    assert kv_cache_bytes(shape, PLAIN[2], 3, 10) == kv_cache_bytes(shape, PLAIN[2], 3, 5000) > 0


def test_fused_experts_are_told_from_other_parameters_of_three_dimensions() -> None:
    """A state space's convolutions and decays were planned as experts."""
    assert shape_of(MAMBA).experts == 0
    assert shape_of(MIXTRAL).experts == 3 * 4 * 3 * 64 * 192


def test_a_padding_id_is_no_obstacle_and_fp32_is_planned_with_experts() -> None:
    assert not shape_of({**GPT2, "pad_token_id": 0}).estimated
    assert not shape_of(MIXTRAL, 4).estimated
    # Its configuration refuses a padding id of None.
    assert shape_of({**LLAMA, "model_type": "modernbert-decoder"}).hidden == 64


def test_a_configuration_that_cannot_be_built_is_one_line() -> None:
    with pytest.raises(ModelError, match="cannot be built"):
        shape_of({**LLAMA, "num_attention_heads": 5})


def test_checkpoint_scheme_follows_its_configuration(tmp_path: Any) -> None:
    import json

    made = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": False}
    config = {**LLAMA, "quantization_config": made}
    (tmp_path / "config.json").write_text(json.dumps(config))
    variant = parse_variant(str(tmp_path))
    found = plugins.load("backends", "checkpoint").scheme(variant)
    assert (found.bits, found.group_size, found.zero_bits) == (4, 64, 4)
    assert isinstance(resolve_config(str(tmp_path)), Checkpoint)
