"""What of a model is its text model, and what of that is a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_llama
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from evalkit.errors import ModelError
from evalkit.models.loading import load_causal_lm
from evalkit.models.shapes import decoder_linears
from evalkit.models.text_stack import full_matrices, fused_experts, tower_note

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}

XLNET = {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 32, "initializer_range": 0.5}


def on_meta(config: PreTrainedConfig) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def test_convolutions_and_norms_are_no_matrices() -> None:
    model = on_meta(CONFIG_MAPPING["mamba"](vocab_size=64, hidden_size=32, num_hidden_layers=1))
    names = {name.rpartition("mixer.")[2] for name in full_matrices(model)}
    assert names == {"A_log", "in_proj.weight", "x_proj.weight", "out_proj.weight"}


def test_experts_in_one_parameter_are_matrices_and_no_linear_layers() -> None:
    config = CONFIG_MAPPING["mixtral"](
        **SIZES, num_key_value_heads=1, intermediate_size=48, num_local_experts=2
    )
    model = on_meta(config)
    assert {name.rpartition(".")[2] for name in fused_experts(model)} == {
        "gate_up_proj", "down_proj"
    }  # fmt: skip
    assert {name.rpartition(".")[2] for name in decoder_linears(model)} == {
        "q_proj", "k_proj", "v_proj", "o_proj"
    }  # fmt: skip


def test_a_reader_of_pictures_is_no_part_of_the_text_model() -> None:
    vision = {**SIZES, "intermediate_size": 32, "image_size": 32, "patch_size": 16}
    config = CONFIG_MAPPING["git"](**SIZES, intermediate_size=32, vision_config=vision)
    model = on_meta(config)
    assert not any("image_encoder" in name for name in full_matrices(model))
    assert "git.image_encoder" in tower_note(model)
    assert tower_note(on_meta(CONFIG_MAPPING["gpt2"](n_layer=1, n_embd=8, n_head=1))) == ""


def test_what_is_no_causal_language_model_is_told_in_one_line(tmp_path: Path) -> None:
    config = CONFIG_MAPPING["bert"](**SIZES, intermediate_size=32, initializer_range=0.5)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match="reads in both directions"):
        load_causal_lm(tmp_path / "bert", dtype="float32", device="cpu")
    config = CONFIG_MAPPING["xlnet"](vocab_size=64, **XLNET)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "xlnet")
    with pytest.raises(ModelError, match="XLNetLMHeadModel that reads in both directions, so"):
        load_causal_lm(tmp_path / "xlnet", dtype="float32", device="cpu")
    CONFIG_MAPPING["t5"](d_model=32, num_layers=1, num_heads=2).save_pretrained(tmp_path / "t5")
    with pytest.raises(ModelError, match="no causal language model of this type"):
        load_causal_lm(tmp_path / "t5", dtype="float32", device="cpu")


def test_a_llama_is_all_text(tmp_path: Path) -> None:
    model = load_causal_lm(make_llama(tmp_path), dtype="float32", device="cpu")
    assert len(full_matrices(model)) == 2 * 7 == len(decoder_linears(model))
