"""kv_cache= and kv_rotation=: one option of every backend that loads here, and of no checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from scoring_models import build

from evalkit import plugins
from evalkit.backends import (
    cache_format,
    check,
    for_scoring,
    parse_variant,
    refuse_timing,
    spec_of,
    with_quantized_cache,
    without_cache,
)
from evalkit.backends._artifacts import artifact_name
from evalkit.errors import UsageError, VariantError
from evalkit.models.loading import Loaded
from evalkit.models.resolve import resolve_config

CONFIG: dict[str, Any] = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def test_every_backend_that_loads_models_has_the_option() -> None:
    for name in plugins.names("backends"):
        spec = spec_of(name)
        for precision in spec.precisions:
            named = {option.name for option in spec.options_for(precision)}
            assert ("kv_cache" in named) == ("kv_rotation" in named) == (not spec.served)


def test_the_words_name_a_format() -> None:
    variant = parse_variant("fp16,kv_cache=int4")
    assert variant.text == "fp16@transformers,kv_cache=int4"
    assert cache_format(variant) is not None
    assert cache_format(parse_variant("fp16,kv_cache=16bit")) is None
    assert parse_variant("fp16,kv_cache=16bit").text == "fp16@transformers"
    assert without_cache(variant).text == "fp16@transformers"


def test_a_checkpoint_takes_it_behind_its_path(tmp_path: Path) -> None:
    odd = tmp_path / "made,kv_cache=int8"
    odd.mkdir()
    for folder in (tmp_path, odd):
        variant = parse_variant(f"{folder},kv_cache=int4")
        assert (variant.checkpoint, dict(variant.options)) == (str(folder), {"kv_cache": "int4"})
        assert parse_variant(variant.text).text == variant.text
    assert parse_variant(str(odd)).options == ()
    hub = parse_variant("someone/a-model,kv_cache=fp8,kv_rotation=hadamard")
    assert hub.checkpoint == "someone/a-model" and len(hub.options) == 2
    with pytest.raises(UsageError, match="kv_cache=int5 is no value"):
        parse_variant(f"{tmp_path},kv_cache=int5")


def test_a_relative_folder_takes_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    assert parse_variant("made,kv_cache=int4").checkpoint == "made"


def test_a_quantized_checkpoint_is_the_same_whatever_the_cache(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 8}')
    checkpoint = resolve_config(str(tmp_path))
    names = {
        artifact_name(checkpoint, parse_variant(words))
        for words in ("int8", "int8,kv_cache=int8", "int8,kv_cache=int8,kv_rotation=hadamard")
    }
    assert len(names) == 1


@pytest.mark.parametrize(
    ("words", "config", "parts"),
    [
        ("fp16,kv_rotation=hadamard", CONFIG, ["kv_rotation", "add kv_cache=int4"]),
        ("fp16,kv_cache=int8", {**CONFIG, "kv_lora_rank": 64}, ["latents (MLA)", "leave it out"]),
        (
            "fp16,kv_cache=int8",
            {**CONFIG, "text_config": {"kv_lora_rank": 64}},
            ["latents (MLA)", "kv_cache"],
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    words: str, config: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 8}')
    checkpoint = dataclasses.replace(resolve_config(str(tmp_path)), config=config)
    with pytest.raises(VariantError) as caught:
        check(checkpoint, parse_variant(words))
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_nothing_is_timed_with_a_simulated_cache() -> None:
    refuse_timing(parse_variant("int8"))
    with pytest.raises(VariantError, match=r"not measured.* simulated for quality; .*bitsandbytes"):
        refuse_timing(parse_variant("int8,kv_cache=int8"))


@torch.inference_mode()
def test_a_model_that_is_loaded_again_has_the_cache_too() -> None:
    ids = torch.arange(5, 45)[None]
    plain = build("llama-tied")(input_ids=ids).logits
    loaded = Loaded(build("llama-tied"), "Linear", reload=lambda: build("llama-tied"))
    variant = parse_variant("fp32,kv_cache=int4")
    quantized = with_quantized_cache(loaded, variant)
    assert quantized.reload is not None
    first, again = (one(input_ids=ids).logits for one in (quantized.model, quantized.reload()))
    torch.testing.assert_close(first, again)
    assert not torch.allclose(first, plain, atol=1e-3)
    assert any("no packed cache runs" in note for note in quantized.notes)
    assert for_scoring(quantized, "cpu").model is quantized.model
    assert with_quantized_cache(loaded, parse_variant("fp32")) is loaded
