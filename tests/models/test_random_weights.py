"""Random weights: the real architecture in the target precision, never the whole in 16 bit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from evalkit import plugins
from evalkit.backends import parse_variant
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.layers import unquantized_layers
from evalkit.models.loading import Loaded
from evalkit.models.random_weights import Memory
from evalkit.models.resolve import resolve_config
from evalkit.models.storage import parameter_count, weight_bytes

VARIANTS = [
    "fp32",
    "fp16",
    "int8",
    "int8@bitsandbytes,threshold=0",
    "int4@bitsandbytes",
    "int4@bitsandbytes,double_quant=true",
    "int4",
    "int4,desc_act=true",
    "int4,group_size=-1",
    "int8@gptq",
    "int3,group_size=32",
    "int2",
    "int4,dtype=bf16",
]


def llama() -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": 256,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "attention_bias": True,
    }


def phi() -> dict[str, Any]:
    config = dict(resolve_config("phi-3-small").config)
    config.update(
        vocab_size=256,
        hidden_size=128,
        ff_intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=1,
    )
    return config


def load(config: dict[str, Any], text: str, seed: int = 0) -> Loaded:
    variant = parse_variant(text)
    checkpoint = Checkpoint("tiny", Path(), config, "", ())
    backend = plugins.load("backends", variant.backend)
    loaded: Loaded = backend.load_random(checkpoint, variant, "cpu", seed=seed)
    return loaded


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(48)[None]).logits.float()


@pytest.mark.parametrize("make", [llama, phi])
@pytest.mark.parametrize("text", VARIANTS)
def test_every_variant_runs(make: Any, text: str) -> None:
    loaded = load(make(), text)
    model = loaded.model
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    dtype = {"fp32": torch.float32}.get(text, torch.bfloat16 if "bf16" in text else torch.float16)
    full = [p for p in model.parameters() if p.is_floating_point()]
    assert {parameter.dtype for parameter in full} == {dtype}
    out = logits(model)
    assert torch.isfinite(out).all()
    assert out.std() > 1e-3
    assert any("random weights" in note for note in loaded.notes)
    if text not in ("fp32", "fp16"):
        assert unquantized_layers(model) == []


@pytest.mark.parametrize("text", ["fp16", "int8", "int4@bitsandbytes", "int4"])
def test_bytes_are_those_of_the_real_variant(text: str, tmp_path: Path) -> None:
    """Against the same architecture saved, quantized and loaded by the usual way."""
    from evalkit.backends._artifacts import Calibration, write_checkpoint
    from evalkit.models.resolve import resolve_model

    random = load(phi(), "fp16").model
    random.save_pretrained(tmp_path / "source")
    _save_tokenizer(tmp_path / "source")
    variant = parse_variant(text)
    checkpoint = resolve_model(str(tmp_path / "source"))
    backend = plugins.load("backends", variant.backend)
    source = checkpoint.path
    if backend.SPEC.quantizes:
        samples = [[(7 * i + j) % 256 for j in range(48)] for i in range(4)]
        calibration = Calibration(samples, "x")
        source = write_checkpoint(tmp_path / "out", checkpoint, variant, "cpu", calibration).path
    usual = backend.load(source, variant, "cpu")
    ours = load(phi(), text)
    sizes = weight_bytes(ours.model, ours.formats)
    assert sizes == weight_bytes(usual.model, usual.formats)
    assert ours.kernel == usual.kernel
    assert ours.kept_16bit == usual.kept_16bit
    assert parameter_count(ours.model) == parameter_count(usual.model)


def _save_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(256)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", pad_token="w1")
    fast.save_pretrained(path)


def test_packed_words_that_are_parameters_keep_their_dtype() -> None:
    """Marlin's layers, which a CPU cannot run, hold their weights so."""
    layer = torch.nn.Module()
    with torch.device("meta"):
        words = torch.empty(4, 4, dtype=torch.int32)
        layer.qweight = torch.nn.Parameter(words, requires_grad=False)
        layer.scales = torch.nn.Parameter(torch.empty(4))
    Memory(torch.device("cpu"), torch.float16).give(layer)
    assert (layer.qweight.dtype, layer.scales.dtype) == (torch.int32, torch.float16)


@pytest.mark.parametrize("text", ["fp16", "int8", "int4@bitsandbytes", "int4"])
def test_seeds(text: str) -> None:
    first = logits(load(llama(), text).model)
    assert torch.equal(logits(load(llama(), text).model), first)
    assert not torch.equal(logits(load(llama(), text, seed=1).model), first)


def test_a_tied_head_stays_tied_and_counts_once() -> None:
    loaded = load(phi(), "int4")
    model = loaded.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    sizes = weight_bytes(model, loaded.formats)
    assert sizes["embedding"] == 256 * 128 * 2
    assert "head" not in sizes


def test_rotary_frequencies_are_real_not_random() -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    ours = load(llama(), "fp16").model.model.rotary_emb.inv_freq
    usual = AutoModelForCausalLM.from_config(LlamaConfig(**llama())).model.rotary_emb.inv_freq
    assert torch.equal(ours, usual)
    assert ours.dtype == torch.float32


def test_packed_zero_points_are_the_middle_of_the_codes() -> None:
    """A packed layer of all-middle codes must unpack to zero weights."""
    for text, bits in (("int8@gptq", 8), ("int4", 4), ("int3", 3), ("int2", 2)):
        model = load(llama(), f"{text},group_size=32").model
        layer = model.model.layers[0].mlp.up_proj
        stream = sum((1 << (bits - 1)) << (bits * k) for k in range(32))
        words = [(stream >> (32 * i)) & 0xFFFFFFFF for i in range(bits)]
        column = torch.tensor(words).to(torch.int32).repeat(layer.qweight.shape[0] // bits)
        layer.qweight.copy_(column[:, None].expand_as(layer.qweight))
        assert type(layer).dequantize_weight(layer).abs().max() == 0


def test_the_full_model_is_never_held_in_16_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floating point memory asked for at once stays near one layer's, beside the 16-bit rest."""
    from evalkit.backends import _bitsandbytes

    sizes: list[int] = []
    original = _bitsandbytes.random_weight

    def watch(layer: Any, device: torch.device) -> Any:
        sizes.append(layer.weight.numel())
        return original(layer, device)

    monkeypatch.setattr(_bitsandbytes, "random_weight", watch)
    load(phi(), "int8")
    assert len(sizes) == 2 * 4
    assert max(sizes) == 512 * 128


def test_a_width_that_cannot_be_packed_is_refused_here_too() -> None:
    from evalkit.errors import VariantError

    config = {**llama(), "intermediate_size": 172}
    with pytest.raises(VariantError, match=r"down_proj.*172"):
        load(config, "int4")
    load(config, "int4@bitsandbytes")


def test_the_embedded_configurations_are_the_released_ones() -> None:
    checkpoint = resolve_config("phi-3-small")
    config = checkpoint.config
    assert (config["hidden_size"], config["num_hidden_layers"]) == (4096, 32)
    assert config["max_position_embeddings"] == 8192
    assert checkpoint.weight_files == ()
    long = resolve_config("phi-3-small-128k").config
    assert long["max_position_embeddings"] == 131072
    json.dumps(dataclasses.asdict(checkpoint), default=str)
