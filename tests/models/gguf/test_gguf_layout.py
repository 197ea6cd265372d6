"""From a model to a file and back: values, order of rows, names; transformers reads the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize, quantize
from gguf_files import Written
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from evalkit.errors import ModelError
from evalkit.models.gguf.check import check_file, check_type
from evalkit.models.gguf.header import read_gguf_header
from evalkit.models.gguf.names import ROTATION
from evalkit.models.gguf.unpack import load_gguf
from evalkit.models.gguf.write import write_gguf
from evalkit.models.loading import load_causal_lm
from evalkit.models.resolve import resolve_config

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip


def loaded(file: Path, source: Path) -> Any:
    return load_gguf(read_gguf_header(file), source, dtype=torch.float32, device="cpu")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_a_file_holds_the_models_weights_as_its_type_rounds_them(
    llama: Path, written: Written, kind: str
) -> None:
    """What is unpacked is the package gguf's rounding of each matrix, rows in their places."""
    original = load_causal_lm(llama, dtype=torch.float32, device="cpu").state_dict()
    found = loaded(written(kind), llama).state_dict()
    assert found.keys() == original.keys()
    for name, values in original.items():
        own = GGMLQuantizationType[kind]
        if values.dim() < 2:
            own = GGMLQuantizationType.F32
        elif name == "lm_head.weight" and kind[0] == "Q":
            own = GGMLQuantizationType.Q8_0
        expected = dequantize(quantize(values.numpy(), own), own)
        np.testing.assert_array_equal(found[name].numpy(), expected, err_msg=name)


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, tie_word_embeddings=True),
        Qwen2Config(**SIZES, tie_word_embeddings=False),
        Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True),
        LlamaConfig(**SIZES, attention_bias=True, tie_word_embeddings=False),
        LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    ],
    ids=["mistral", "qwen2", "qwen3", "llama-bias", "llama3"],
)
def test_every_architecture_that_is_written_comes_back(
    config: Any, llama: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for values in model.parameters():
        torch.nn.init.normal_(values)
    config.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((llama / "tokenizer.json").read_bytes())
    write_gguf(model, tmp_path, file := tmp_path / "model.gguf", GGMLQuantizationType.F32)
    check_file(read_gguf_header(file), resolve_config(str(tmp_path)))
    found = loaded(file, tmp_path)
    for name, values in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], values), name
    ids = torch.arange(1, 60)[None]
    assert torch.equal(found(ids).logits, model.eval()(ids).logits)


def test_transformers_own_reader_unpacks_the_same_weights(llama: Path, written: Written) -> None:
    file = written("Q4_0")
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).state_dict()
    for name, values in loaded(file, llama).state_dict().items():
        assert torch.equal(values, theirs[name]), name


def test_llama_3_divides_frequencies_by_the_factors_of_the_file(
    llama: Path, tmp_path: Path
) -> None:
    config = LlamaConfig(**SIZES, rope_parameters=LLAMA3)
    model = AutoModelForCausalLM.from_config(config)
    write_gguf(model, llama, file := tmp_path / "model.gguf", GGMLQuantizationType.F32)
    tensor = read_gguf_header(file).tensors[ROTATION]
    factors = np.frombuffer(file.read_bytes()[tensor.offset :], np.float32, tensor.shape[0])
    plain = 500000.0 ** (-np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / factors, model.model.rotary_emb.inv_freq.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model_type", "qwen2", "general.architecture llama and .* has qwen2"),
        ("model_type", "gpt2", "model type 'gpt2' has no layout"),
        ("hidden_size", 128, "llama.embedding_length 64 and .* has hidden_size 128"),
        ("num_hidden_layers", 3, "llama.block_count 2 and .* has num_hidden_layers 3"),
        ("num_key_value_heads", 4, "attention.head_count_kv 2 and .* num_key_value_heads 4"),
        ("rms_norm_eps", 1e-5, "layer_norm_rms_epsilon"),
        ("head_dim", 32, "attention.key_length 16 and .* has head_dim 32"),
        ("vocab_size", 321, "a vocabulary of 320 and .* has 321"),
        ("rope_parameters", {"rope_theta": 5e5}, "rope.freq_base 10000.0 and .* 500000.0"),
        ("rope_parameters", LLAMA3 | {"rope_theta": 1e4}, "rope.scaling.type default"),
    ],
)
def test_a_file_of_another_model_is_refused_by_the_field_that_differs(
    llama: Path, written: Written, tmp_path: Path, field: str, value: object, words: str
) -> None:
    config = json.loads((llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(ModelError, match=words):
        check_file(read_gguf_header(written("F32")), resolve_config(str(tmp_path)))


def test_a_file_with_another_vocabulary_is_refused_by_the_word(
    llama: Path, written: Written, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    content = json.loads((llama / "tokenizer.json").read_text())
    word = next(w for w, index in content["model"]["vocab"].items() if index == 300)
    content["model"]["vocab"]["other"] = content["model"]["vocab"].pop(word)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=f"token 300 {word!r} and .* has 'other'"):
        check_file(read_gguf_header(written("F32")), resolve_config(str(tmp_path)))


def test_a_type_that_cannot_be_unpacked_is_refused_by_its_name(tmp_path: Path) -> None:
    check_type(tmp_path, "Q6_K")
    with pytest.raises(ModelError, match="tensors of type Q8_K cannot be unpacked"):
        check_type(tmp_path, "Q8_K")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"blk.1.attn_q", b"blk.1.attn_z", r"lacks the tensor blk\.1\.attn_q\.weight"),
        (b"output_norm.", b"output_more.", r"lacks the tensor output_norm\.weight"),
    ],
)
def test_a_file_that_lacks_a_weight_is_never_loaded_with_a_random_one(
    llama: Path, written: Written, tmp_path: Path, old: bytes, new: bytes, words: str
) -> None:
    (file := tmp_path / "model.gguf").write_bytes(written("F32").read_bytes().replace(old, new))
    with pytest.raises(ModelError, match=words):
        loaded(file, llama)
