"""What each backend calls its variants, and which settings of a run change their numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalkit import plugins
from evalkit.backends import label, parse_variant, run_settings
from evalkit.records import Variant

LABELS = {
    "fp32": "fp32",
    "fp16": "fp16",
    "bf16": "bf16",
    "fp16@transformers,offload=true": "fp16 offload",
    "int8": "int8 LLM.int8()",
    "int8@bitsandbytes,threshold=0": "int8 LLM.int8() threshold=0.0",
    "int4@bitsandbytes": "int4 NF4",
    "int4@bitsandbytes,double_quant=true": "int4 NF4 double_quant",
    "int4": "int4 GPTQ g128",
    "int4@bitsandbytes,quant_type=fp4": "int4 FP4",
    "int4,calibration_seed=2": "int4 GPTQ seed 2 g128",
    "int4,group_size=-1,sym=false": "int4 GPTQ g-1 no sym",
    "int8@gptq": "int8 GPTQ g128",
    "int4,method=gptaq,group_size=64": "int4 GPTAQ g64",
    "int4,method=foem,mse=2.4": "int4 FOEM g128 mse=2.4",
    "int4@rtn": "int4 RTN g128",
    "int4@awq,group_size=64": "int4 AWQ g64",
    "int8@torchao": "int8 torchao",
    "int8@torchao,activations=dynamic": "int8 torchao dynamic",
    "fp8": "fp8 torchao",
    "fp8@torchao,activations=dynamic": "fp8 torchao dynamic",
    "int4@torchao": "int4 torchao g128",
    "q8_0@gguf": "GGUF Q8_0",
    "q4_k_m@gguf": "GGUF Q4_K_M",
    "served@endpoint,url=http://host:8000": "served endpoint http://host:8000",
    "someone/a-model-awq": "someone/a-model-awq",
    "fp16,kv_cache=int4": "fp16 KV int4",
    "int4,kv_cache=int8": "int4 GPTQ g128 KV int8",
    "int8,kv_cache=fp8,kv_rotation=hadamard": "int8 LLM.int8() KV fp8 hadamard",
    "someone/a-model-awq,kv_cache=int4": "someone/a-model-awq KV int4",
}


@pytest.mark.parametrize("words", LABELS)
def test_labels_are_in_the_words_of_the_field(words: str) -> None:
    assert label(parse_variant(words)) == LABELS[words]


def test_every_backend_is_labelled_here() -> None:
    assert {parse_variant(words).backend for words in LABELS} >= set(plugins.names("backends"))


@pytest.mark.parametrize("words", [*LABELS, "int8@bitsandbytes,threshold=4"])
def test_only_llm_int8_with_16_bit_columns_depends_on_the_batch(words: str) -> None:
    expected = {"int8", "int8@bitsandbytes,threshold=4", "int8,kv_cache=fp8,kv_rotation=hadamard"}
    variant = parse_variant(words)
    if variant.checkpoint is None:
        assert run_settings(variant) == (("batch_tokens",) if words in expected else ())


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, ("batch_tokens",)),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 0.0}, ()),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ()),
        ({"quant_method": "gptq", "bits": 8}, ()),
        (None, ()),
    ],
)
def test_a_checkpoint_depends_on_what_its_method_depends_on(
    tmp_path: Path, made: object, expected: tuple[str, ...]
) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    config |= {"quantization_config": made} if made else {}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run_settings(parse_variant(str(tmp_path))) == expected


def test_a_checkpoint_that_is_gone_depends_on_nothing(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    assert run_settings(Variant("checkpoint", "checkpoint", checkpoint=gone)) == ()
