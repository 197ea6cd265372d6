"""A GGUF file as a model: the checkpoint it was made of comes back, tokenizer and all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from gguf_files import Written
from transformers import AutoTokenizer

from evalkit.errors import ModelError
from evalkit.models.gguf.as_checkpoint import as_checkpoint, config_of
from evalkit.models.gguf.header import read_gguf_header
from evalkit.models.gguf.tokenizer import PRE_TOKENIZERS, check_tokenizer
from evalkit.models.loading import load_causal_lm
from evalkit.models.resolve import is_here, resolve_config, resolve_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evalkit" / "gguf"


def test_the_model_of_a_file_is_the_one_it_was_made_of(
    llama: Path, written: Written, cache: Path
) -> None:
    file = written("F32")
    checkpoint = resolve_model(str(file))
    assert checkpoint.path.parent == cache and is_here(str(file))
    assert resolve_config(str(file)).config == checkpoint.config
    original, found = (
        load_causal_lm(path, dtype="auto", device="cpu") for path in (llama, checkpoint.path)
    )
    assert found.dtype == torch.float32
    ids = torch.arange(1, 60)[None]
    with torch.inference_mode():
        assert torch.equal(original(ids).logits, found(ids).logits)
    text = "the old red house, 42 birds!"
    mine, theirs = (AutoTokenizer.from_pretrained(path) for path in (llama, checkpoint.path))
    assert mine(text).input_ids == theirs(text).input_ids
    assert (mine.eos_token, mine.bos_token) == (theirs.eos_token, theirs.bos_token)
    check_tokenizer(checkpoint.path)


def test_it_is_unpacked_once_and_into_types_that_hold_its_values(
    llama: Path, written: Written, cache: Path
) -> None:
    found = as_checkpoint(written("F16"))
    assert json.loads((found / "config.json").read_text())["dtype"] == "float16"
    before = (found / "model-00001.safetensors").stat().st_mtime_ns
    assert as_checkpoint(written("F16")) == found
    assert (found / "model-00001.safetensors").stat().st_mtime_ns == before
    assert sorted(path.name for path in cache.iterdir()) == sorted([found.name, "hashes.json"])


def test_what_a_file_cannot_say_of_a_model_is_refused(written: Written) -> None:
    header = read_gguf_header(written("F32"))
    other = dataclasses.replace(
        header, metadata=header.metadata | {"general.architecture": "gemma3"}
    )
    with pytest.raises(ModelError, match="architecture 'gemma3': a model is made of llama"):
        config_of(other)
    stretched = header.metadata | {"llama.rope.scaling.type": "yarn"}
    with pytest.raises(ModelError, match="stretches its rotation"):
        config_of(dataclasses.replace(header, metadata=stretched))


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_each_known_rule_of_cutting_words_has_its_name(
    llama: Path, tmp_path: Path, name: str
) -> None:
    from evalkit.models.gguf.tokenizer import _words_before_merging

    content = json.loads((llama / "tokenizer.json").read_text())
    assert _words_before_merging(llama, content | {"pre_tokenizer": PRE_TOKENIZERS[name]}) == name
    with pytest.raises(ModelError, match="whose name in llama"):
        _words_before_merging(llama, content | {"pre_tokenizer": {"type": "Whitespace"}})
