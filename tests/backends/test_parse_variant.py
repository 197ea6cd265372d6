"""Words to variants: canonical in, canonical out; every mistake is named with the way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit import plugins
from evalkit.backends import BARE, Option, parse_variant, resolved_options, spec_of
from evalkit.errors import UsageError
from evalkit.records import OptionValue, from_json, to_json
from evalkit.records import Variant as VariantRecord

SPECS = [spec_of(name) for name in plugins.names("backends") if name != "checkpoint"]


def values_of(option: Option) -> st.SearchStrategy[OptionValue]:
    if isinstance(option.default, bool):
        return st.booleans()
    if option.allowed:
        return st.sampled_from(option.allowed)
    if isinstance(option.default, str):
        return st.from_regex(r"[\w./-]{1,20}", fullmatch=True)
    low, high = option.minimum, option.maximum
    if isinstance(option.default, int):
        return st.integers(int(low or 0), int(high or 10**6))
    return st.floats(low or 0.0, high or 1e6, allow_nan=False)


@st.composite
def words(draw: st.DrawFn) -> str:
    spec = draw(st.sampled_from(SPECS))
    precision = draw(st.sampled_from(spec.precisions))
    chosen = (
        draw(st.lists(st.sampled_from(spec.options_for(precision)), unique=True))
        if (spec.options_for(precision))
        else []
    )
    parts = [f"{option.name}={draw(values_of(option))!s}" for option in chosen]
    return ",".join([f"{precision}@{spec.name}", *parts])


@given(words())
def test_the_canonical_form_parses_to_itself(text: str) -> None:
    variant = parse_variant(text)
    again = parse_variant(variant.text)
    assert (again.text, again.options) == (variant.text, variant.options)
    assert variant.asked == text
    assert from_json(VariantRecord, to_json(variant)) == variant


@given(words())
def test_options_keep_their_value_whether_written_or_default(text: str) -> None:
    variant = parse_variant(text)
    spec = spec_of(variant)
    resolved = resolved_options(spec, variant)
    for part in text.split(",")[1:]:
        key, _, value = part.partition("=")
        assert str(resolved[key]) == value
    for option in spec.options_for(variant.precision):
        written = option.name in dict(variant.options)
        assert written == (option.shown or resolved[option.name] != option.default)


@pytest.mark.parametrize("word", BARE)
def test_bare_names_stand_for_their_backend(word: str) -> None:
    variant = parse_variant(word)
    assert variant.text == parse_variant(BARE[word]).text
    assert variant.label == word


def test_bare_names_take_options_and_keep_the_preset() -> None:
    assert parse_variant("int4").text == "int4@gptq,group_size=128"
    assert parse_variant("int4,group_size=64").text == "int4@gptq,group_size=64"
    assert parse_variant("int4,desc_act=TRUE").text == "int4@gptq,desc_act=true,group_size=128"
    assert parse_variant(" INT8@BitsAndBytes , threshold=0 ").text == (
        "int8@bitsandbytes,threshold=0.0"
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["empty", "PRECISION"]),
        ("in8", ["'in8'", "int8", "did you mean 'int8'"]),
        ("nf4", ["'nf4'", "int4"]),
        ("gptq", ["'gptq' is a backend", "int8@gptq"]),
        ("int4@", ["no backend", "int4@BACKEND"]),
        ("int4@gtpq", ["'gtpq'", "did you mean 'gptq'"]),
        ("int5@gptq", ["'int5'", "did you mean"]),
        ("fp16@gptq", ["'gptq' does not make 'fp16'", "transformers"]),
        ("int3@bitsandbytes", ["does not make 'int3'", "made by gptq"]),
        ("int4@gptq,groupsize=64", ["'groupsize'", "did you mean 'group_size'"]),
        ("int4@gptq,group_size", ["'group_size'", "KEY=VALUE"]),
        ("int4@gptq,group_size=", ["KEY=VALUE"]),
        ("int4@gptq,group_size=100", ["group_size=100", "64, 128"]),
        ("int4@gptq,group_size=big", ["group_size=big", "64, 128"]),
        ("int4@gptq,sym=maybe", ["sym=maybe", "true, false"]),
        ("int4@gptq,damp_percent=2", ["damp_percent=2", "0.001 to 0.999"]),
        ("int4@gptq,damp_percent=nan", ["damp_percent=nan", "numbers"]),
        ("int4@gptq,samples=0", ["samples=0", "whole numbers from 1"]),
        ("int4@gptq,samples=1.5", ["samples=1.5", "whole numbers"]),
        ("int4@gptq,sym=true,sym=false", ["'sym' is given twice"]),
        ("int4@bitsandbytes,quant_type=nf5", ["quant_type=nf5", "nf4, fp4", "did you mean 'nf4'"]),
        ("int8@bitsandbytes,quant_type=nf4", ["for int4, not for int8", "threshold"]),
        ("int8@bitsandbytes,threshold=-1", ["threshold=-1", "numbers from 0"]),
        ("fp16,dtype=bf16", ["option of fp16@transformers 'dtype'", "kv_rotation, offload"]),
        ("fp16,kv_cache=int3", ["kv_cache=int3", "16bit, int8, fp8, int4", "did you mean"]),
        ("served@endpoint,kv_cache=int4", ["'kv_cache'", "served@endpoint"]),
        ("./nowhere,kv_cache=int4", ["no directory './nowhere'"]),
        ("./nowhere", ["no directory './nowhere'", "hub id"]),
        ("/a/b/c", ["no directory '/a/b/c'"]),
    ],
)
def test_a_mistake_is_one_line_with_the_value_and_what_is_allowed(
    text: str, parts: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_variant(text)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_directory_or_a_hub_id_is_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-gptq").mkdir()
    (tmp_path / "int4").mkdir()
    monkeypatch.chdir(tmp_path)
    for text in ("my-gptq", "./my-gptq", str(tmp_path / "my-gptq"), "someone/Model-GPTQ", "./int4"):
        variant = parse_variant(text)
        assert (variant.backend, variant.checkpoint) == ("checkpoint", text)
        assert parse_variant(variant.text) == variant
    assert parse_variant("int4").backend == "gptq"


def test_a_path_as_an_option_value_is_no_checkpoint() -> None:
    variant = parse_variant("int4,calibration=/data/Text.txt")
    assert variant.option("calibration", "") == "/data/Text.txt"


def test_a_file_as_a_variant_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(UsageError, match="is a file"):
        parse_variant(str(file))


def test_parsing_imports_no_heavy_library() -> None:
    code = (
        "import sys; from evalkit.backends import parse_variant; parse_variant('int4');"
        "print([m for m in ('torch', 'transformers', 'gptqmodel') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
