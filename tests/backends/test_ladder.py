"""A bare word becomes the first method that the model takes; an explicit form stays what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalkit.backends import next_method, parse_variant, settled
from evalkit.errors import VariantError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.identity import Identity


def llama(hidden: int, **others: Any) -> Checkpoint:
    config = {
        "model_type": "llama", "vocab_size": 64, "hidden_size": hidden, "num_hidden_layers": 1,
        "intermediate_size": 2 * hidden, "num_attention_heads": 1,
    }  # fmt: skip
    return Checkpoint("a llama", Path("/nowhere"), config | others, Identity(""), ())


@pytest.mark.parametrize(
    ("word", "width", "expected"),
    [
        ("int4", 128, "int4@gptq,group_size=128"),
        ("int4", 192, "int4@gptq,group_size=64"),
        ("INT4", 96, "int4@gptq,group_size=32"),
        ("int4", 72, "int4@bitsandbytes,quant_type=nf4"),
        ("int3", 192, "int3@gptq,group_size=64"),
        ("int4,samples=4", 192, "int4@gptq,group_size=64,samples=4"),
        ("int8", 72, "int8@bitsandbytes"),
    ],
)
def test_the_first_step_that_the_widths_allow(word: str, width: int, expected: str) -> None:
    asked = parse_variant(word)
    found, note = settled(llama(width), asked)
    assert found.text == expected
    assert found.label == word
    if found.text == asked.text:
        assert note == ""
    else:
        assert note.startswith(f"{word} is {expected} here: {asked.text} cannot ")
        assert f"{width} inputs" in note and "use " not in note


def test_an_architecture_that_gptqmodel_does_not_know() -> None:
    found, note = settled(llama(128, model_type="strange"), parse_variant("int4"))
    assert found.text == "int4@bitsandbytes,quant_type=nf4"
    assert "GPTQModel cannot quantize the architecture 'strange'" in note


@pytest.mark.parametrize("word", ["int4@gptq", "int4,group_size=128", "int4@bitsandbytes", "fp16"])
def test_an_explicit_form_is_never_replaced(word: str) -> None:
    asked = parse_variant(word)
    assert settled(llama(72), asked) == (asked, "")


def test_where_no_method_takes_the_model_all_reasons_are_told() -> None:
    with pytest.raises(VariantError, match=r"int3: no method takes this model: .*=128.*=64.*=32"):
        settled(llama(72), parse_variant("int3"))
    made = llama(72, quantization_config={"quant_method": "gptq"})
    with pytest.raises(VariantError, match=r"already quantized \(gptq\)"):
        settled(made, parse_variant("int4"))


@pytest.mark.parametrize(
    ("word", "width", "expected"),
    [
        ("int4", 192, "int4@bitsandbytes,quant_type=nf4"),
        ("int4", 72, None),
        ("int4@gptq", 128, None),
        ("int3", 128, None),
        ("int8", 128, None),
    ],
)
def test_what_follows_where_a_backend_fails(word: str, width: int, expected: str | None) -> None:
    found = next_method(settled(llama(width), parse_variant(word))[0])
    assert (found.text if found else None) == expected
