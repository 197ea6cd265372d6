"""What is written is read rightly by tools of transformers 4's time, and by 5 as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from evalkit.backends._older_readers import (
    with_older_names,
    write_older_names,
    write_tied_head,
)

LONG = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"rope_type": "default", "rope_theta": 1e5}, {"rope_theta": 1e5}),
        (
            {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "attention_factor": None},
            {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
        ),
        (
            {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 4096}
            | LONG,
            {"rope_theta": 1e4, "original_max_position_embeddings": 4096}
            | {"rope_scaling": {"type": "longrope"} | LONG},
        ),
        (
            {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
            {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
        ),
        (
            {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            {
                "rope_theta": 1e6, "rope_local_base_freq": 1e4,
                "rope_scaling": {"type": "linear", "factor": 8.0},
            },
        ),
        (None, {}),
    ],
)  # fmt: skip
def test_the_old_names(parameters: Any, expected: dict[str, Any]) -> None:
    config = {"dtype": "float16", "rope_parameters": parameters}
    added = with_older_names(config)
    new = {name: value for name, value in added.items() if name not in config}
    assert new == {"torch_dtype": "float16"} | expected
    nested = with_older_names({"text_config": config, "quantization_config": {"dtype": "int4"}})
    assert nested["text_config"] == added
    assert nested["quantization_config"] == {"dtype": "int4"}


ORIGINAL = {"original_max_position_embeddings": 512}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, **ORIGINAL,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "parameters"),
    [
        ("llama", {"rope_type": "default", "rope_theta": 1e5}),
        ("llama", LLAMA3),
        ("qwen3", {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0} | ORIGINAL),
        ("phi3", {"rope_type": "longrope", "rope_theta": 1e4} | LONG | ORIGINAL),
        ("gemma3_text", {}),
    ],
)
def test_transformers_5_reads_the_same(model_type: str, parameters: Any, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = AutoConfig.for_model(model_type, **sizes)
    config.rope_parameters = config.rope_parameters | parameters
    config.dtype = "bfloat16"
    config.save_pretrained(tmp_path)
    before = AutoConfig.from_pretrained(tmp_path)
    write_older_names(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert {"rope_theta", "torch_dtype"} <= set(written)
    after = AutoConfig.from_pretrained(tmp_path)
    for kind, expected in _sets(before.rope_parameters).items():
        found = _sets(after.rope_parameters)[kind]
        assert {name: found[name] for name in expected} == expected
    assert after.dtype == before.dtype


def _sets(parameters: dict[str, Any]) -> dict[str, Any]:
    """The values of each kind of layer; of one kind where they are not told apart."""
    nested = all(isinstance(value, dict) for value in parameters.values())
    return parameters if nested else {"": parameters}


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_written_out_and_read_as_tied(tmp_path: Path, tied: bool) -> None:
    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = AutoConfig.for_model("llama", **sizes, num_attention_heads=1, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    write_tied_head(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert set(written) == set(held) | {"lm_head.weight"}
    expected = "model.embed_tokens.weight" if tied else "lm_head.weight"
    assert torch.equal(written["lm_head.weight"], held[expected])
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


def test_a_form_that_would_be_read_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    AutoConfig.for_model("llama").save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_text()
    monkeypatch.setattr(
        "evalkit.backends._older_readers.with_older_names",
        lambda config: config | {"vocab_size": 7},
    )
    write_older_names(tmp_path)
    assert (tmp_path / "config.json").read_text() == before
