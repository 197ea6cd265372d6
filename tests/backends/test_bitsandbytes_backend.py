"""LLM.int8(), NF4 and FP4: written once in the standard format, the same logits everywhere."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import (
    disk_bytes,
    kl_divergence,
    logits,
    make_llama,
    save_tokenizer,
    token_ids,
)
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
)

from evalkit.backends import KernelChoice, bitsandbytes, for_scoring, kernel_for, parse_variant
from evalkit.backends import transformers as plain
from evalkit.backends._bitsandbytes import empty_layer, prepare_layers, quantized_weight
from evalkit.backends._bitsandbytes_convert import _packed_experts, convert, packs_enough
from evalkit.errors import VariantError
from evalkit.models.layers import packed_share, unquantized_layers
from evalkit.models.packed_parameters import unpackings
from evalkit.models.resolve import resolve_model
from evalkit.models.storage import weight_bytes

VARIANTS = [
    "int8@bitsandbytes",
    "int8@bitsandbytes,threshold=0",
    "int4@bitsandbytes",
    "int4@bitsandbytes,quant_type=fp4",
    "int4@bitsandbytes,double_quant=true",
    "int4@bitsandbytes,dtype=bf16",
]


@pytest.fixture(params=["llama", "phi"])
def source(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.mark.parametrize("text", VARIANTS)
def test_what_is_written_loads_everywhere_with_the_same_logits(
    source: Path, text: str, tmp_path: Path
) -> None:
    variant = parse_variant(text)
    bitsandbytes.quantize(source, variant, tmp_path, "cpu")
    direct = bitsandbytes.load(source, variant, "cpu")
    made = bitsandbytes.load(tmp_path, variant, "cpu")
    standard = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert unquantized_layers(made.model) == []
    sizes = weight_bytes(direct.model, direct.formats)
    assert sizes["scales"] > 0
    assert weight_bytes(made.model, made.formats) == sizes
    expected = logits(direct.model)
    assert torch.equal(logits(made.model), expected)
    assert torch.equal(logits(standard), expected)


@pytest.mark.parametrize("text", VARIANTS)
def test_quantization_is_real_and_mild(source: Path, text: str) -> None:
    variant = parse_variant(text)
    reference = logits(for_scoring(plain.load(source, parse_variant("fp32"), "cpu"), "cpu").model)
    loaded = bitsandbytes.load(source, variant, "cpu")
    divergence = kl_divergence(reference, logits(loaded.model))
    bound = 1e-3 if variant.precision == "int8" else 5e-2
    assert 1e-7 < divergence < bound
    packed = weight_bytes(loaded.model, loaded.formats)["packed"]
    parameters = sum(shape[0] * shape[1] for shape in _decoder_shapes(source))
    assert packed == parameters * (1 if variant.precision == "int8" else 0.5)


def _decoder_shapes(source: Path) -> list[tuple[int, int]]:
    from evalkit.models.shapes import decoder_shapes

    return list(decoder_shapes(resolve_model(str(source))).values())


def test_the_size_on_disk_is_the_reported_one(tmp_path: Path) -> None:
    source, out = make_llama(tmp_path / "wide", intermediate=4096), tmp_path / "out"
    out.mkdir()
    variant = parse_variant("int8")
    bitsandbytes.quantize(source, variant, out, "cpu")
    loaded = bitsandbytes.load(out, variant, "cpu")
    reported = sum(weight_bytes(loaded.model, loaded.formats).values())
    assert disk_bytes(out) == pytest.approx(reported, rel=0.02)


def test_what_stays_in_16_bit_and_what_runs_is_named(phi: Path) -> None:
    loaded = bitsandbytes.load(phi, parse_variant("int8"), "cpu")
    assert loaded.kernel == "Linear8bitLt (int8 × int8, threshold 6)"
    assert loaded.kept_16bit == (
        "lm_head",
        "model.embed_tokens",
        "model.final_layernorm",
        "model.layers.*.input_layernorm",
        "model.layers.*.post_attention_layernorm",
    )
    assert any("batch" in note for note in loaded.notes)
    four = bitsandbytes.load(phi, parse_variant("int4@bitsandbytes,quant_type=fp4"), "cpu")
    assert four.kernel.startswith("Linear4bit fp4 (")


def test_widths_the_fused_cpu_kernel_cannot_take_run_on_the_general_one(tmp_path: Path) -> None:
    source = make_llama(tmp_path, intermediate=172)
    loaded = bitsandbytes.load(source, parse_variant("int4@bitsandbytes"), "cpu")
    assert "Linear4bit nf4 (float16)" in loaded.kernel
    native = logits(loaded.model)
    assert kl_divergence(logits(for_scoring(loaded, "cpu").model), native) < 1e-3


@pytest.mark.parametrize("text", ["int8@bitsandbytes", "int4@bitsandbytes"])
def test_generation(source: Path, text: str) -> None:
    model = bitsandbytes.load(source, parse_variant(text), "cpu").model
    ids = token_ids(1, 40)
    out = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=1)
    assert out.shape == (1, 44)


def test_a_quantized_source_is_refused(llama: Path, tmp_path: Path) -> None:
    bitsandbytes.quantize(llama, parse_variant("int8"), tmp_path, "cpu")
    with pytest.raises(VariantError, match="already quantized"):
        bitsandbytes.check(resolve_model(str(tmp_path)), parse_variant("int4@bitsandbytes"))


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = MixtralConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
        num_experts_per_tok=1,
    )
    path = tmp_path_factory.mktemp("mixtral")
    torch.manual_seed(0)
    MixtralForCausalLM(config).half().save_pretrained(path)
    return path


# Codes, and a scale for a row or for 64 weights: of attention 16 and of experts 48 × 1,024 weights.
@pytest.mark.parametrize(("text", "bytes_a_weight"), [("int8", 1.0), ("int4@bitsandbytes", 0.5)])
def test_experts_in_one_parameter_are_packed(
    mixtral: Path, text: str, bytes_a_weight: float
) -> None:
    variant = parse_variant(text)
    bitsandbytes.check(resolve_model(str(mixtral)), variant)
    loaded = bitsandbytes.load(mixtral, variant, "cpu")
    assert unquantized_layers(loaded.model) == []
    assert packed_share(loaded.model) == 1.0
    held = weight_bytes(loaded.model, loaded.formats)
    weights = 12 * 1024 + 2 * 3 * 64 * 64
    assert held["packed"] == weights * bytes_a_weight
    rows = 192 + 2 * 192
    assert held["scales"] == (4 * 192 + 2 * 384 if text == "int8" else weights // 64 * 4), rows
    assert "of experts, unpacked (float16)" in loaded.kernel
    full = plain.load(mixtral, parse_variant("fp32"), "cpu").model
    own = logits(loaded.model)
    bound = 1e-3 if text == "int8" else 5e-2
    assert 1e-9 < kl_divergence(logits(full), own) < bound
    scoring = for_scoring(loaded, "cpu")
    assert not any(unpackings(scoring.model))
    assert kl_divergence(logits(scoring.model), own) < 1e-5


def test_packed_experts_have_no_file_format(mixtral: Path, tmp_path: Path) -> None:
    with pytest.raises(VariantError, match="made on loading and has no file format; use int8@gptq"):
        bitsandbytes.quantize(mixtral, parse_variant("int8"), tmp_path, "cpu")
    assert not any(tmp_path.iterdir())


def test_layers_of_another_class_and_shared_ones_are_packed(tmp_path: Path) -> None:
    config = FalconConfig(
        vocab_size=256, hidden_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    model = FalconForCausalLM(config)
    one, other = model.transformer.h
    other.mlp.dense_h_to_4h.weight = one.mlp.dense_h_to_4h.weight
    for precision in ({"load_in_8bit": True}, {"load_in_4bit": True}):
        made = copy.deepcopy(model)
        assert not packs_enough(made)
        ids = torch.tensor([[5, 6, 7]])
        with torch.inference_mode():
            wanted = made(input_ids=ids).logits
            convert(made, BitsAndBytesConfig(**precision), "cpu")
            one, other = made.transformer.h
            held = one.mlp.dense_h_to_4h.weight, other.mlp.dense_h_to_4h.weight
            assert held[0].data_ptr() == held[1].data_ptr()
            for _ in range(2):
                assert kl_divergence(wanted, made(input_ids=ids).logits) < 5e-2
        assert packed_share(made) == 1.0


def test_experts_that_hold_inputs_first_have_a_scale_for_each_output() -> None:
    module = torch.nn.Module()
    module.is_transposed = True  # type: ignore[assignment]
    weights = torch.ones(2, 3, 4) * torch.tensor([1.0, 2.0, 4.0, 8.0])
    stored, unpacking = _packed_experts(module, weights, BitsAndBytesConfig(load_in_8bit=True))
    assert bool((stored == 127).all())
    assert torch.equal(unpacking(stored), weights)


def test_eight_bit_layers_take_the_four_dimensions_of_latent_attention() -> None:
    config = BitsAndBytesConfig(load_in_8bit=True)
    layer = empty_layer(32, 64, False, config)
    layer.weight = quantized_weight(layer, torch.randn(32, 64).half(), torch.device("cpu"))
    model = torch.nn.Sequential(layer)
    prepare_layers(model)  # type: ignore[arg-type]
    inputs = torch.randn(2, 3, 4, 64).half()
    with torch.inference_mode():
        assert torch.equal(model(inputs), model(inputs.flatten(0, 2)).unflatten(0, (2, 3, 4)))


def test_transposed_linear_layers_are_quantized(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=256, n_embd=64, n_layer=1, n_head=2, n_positions=128)
    GPT2LMHeadModel(config).half().save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    loaded = bitsandbytes.load(tmp_path, parse_variant("int8"), "cpu")
    assert unquantized_layers(loaded.model) == []
    assert loaded.kernel == "Linear8bitLt (int8 × int8, threshold 6)"


def test_its_kernel_on_a_card() -> None:
    eight, four = parse_variant("int8"), parse_variant("int4@bitsandbytes")
    for on in (None, (7, 5), (8, 9)):
        assert kernel_for(eight, {}, on) == KernelChoice("Linear8bitLt")
    assert kernel_for(four, {}, (7, 0)) == KernelChoice("Linear4bit")
    with pytest.raises(VariantError, match=r"needs compute capability 7\.5, and this card"):
        kernel_for(eight, {}, (7, 0))
