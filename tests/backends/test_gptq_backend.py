"""GPTQ through GPTQModel: every layer quantized, one checkpoint for all loaders, early refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import (
    calibration,
    disk_bytes,
    kl_divergence,
    logits,
    make_llama,
    save_tokenizer,
    token_ids,
)
from transformers import AutoModelForCausalLM

from evalkit.backends import _gptqmodel, for_scoring, gptq, parse_variant
from evalkit.backends import transformers as plain
from evalkit.errors import VariantError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.layers import unquantized_layers
from evalkit.models.resolve import resolve_model
from evalkit.models.storage import weight_bytes
from evalkit.progress import Event

# What the variant's divergence from the original stays below, for these random models.
BOUNDS = {"int8": 1e-4, "int4": 2e-2, "int3": 1e-1, "int2": 5e-1}


@pytest.fixture(scope="module", params=["llama", "phi"])
def source(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int4")
    gptq.quantize(source, parse_variant("int4"), out, "cpu", calibration())
    return out


def reference(source: Path) -> torch.Tensor:
    return logits(plain.load(source, parse_variant("fp32"), "cpu").model)


def test_one_checkpoint_for_all_loaders(source: Path, made: Path) -> None:
    loaded = gptq.load(made, parse_variant("int4"), "cpu")
    assert unquantized_layers(loaded.model) == []
    ours = logits(loaded.model)
    assert kl_divergence(reference(source), ours) < BOUNDS["int4"]
    standard = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float16)
    assert torch.equal(logits(standard), ours)
    gptqmodel = _gptqmodel.import_quietly()
    with _gptqmodel.silence():
        own = gptqmodel.GPTQModel.load(str(made), device="cpu", dtype=torch.float16)
    assert torch.equal(logits(own.model), ours)


def test_what_runs_and_what_stays_in_16_bit_is_named(made: Path) -> None:
    loaded = gptq.load(made, parse_variant("int4"), "cpu")
    assert loaded.kernel == "TorchAtenLinear int4 g128 (bfloat16)"
    assert {"lm_head", "model.embed_tokens"} <= set(loaded.kept_16bit)
    assert not any("proj" in name or "dense" in name for name in loaded.kept_16bit)


def test_bytes_by_category(source: Path, made: Path) -> None:
    from evalkit.models.shapes import decoder_shapes

    shapes = decoder_shapes(resolve_model(str(source))).values()
    loaded = gptq.load(made, parse_variant("int4"), "cpu")
    sizes = weight_bytes(loaded.model, loaded.formats)
    weights = sum(rows * columns for rows, columns in shapes)
    assert sizes["packed"] == weights // 2
    assert sizes["scales"] == weights // 128 * 2
    assert sizes["zeros"] == weights // 128 // 2
    assert sizes["group_index"] == 4 * sum(columns for _, columns in shapes)


def test_generation(made: Path) -> None:
    model = gptq.load(made, parse_variant("int4"), "cpu").model
    ids = token_ids(1, 40)
    out = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=1)
    assert out.shape == (1, 44)


@pytest.mark.parametrize(
    "text",
    [
        "int8@gptq",
        "int3",
        "int2,group_size=32",
        "int4,group_size=64",
        "int4,group_size=16",
        "int4,group_size=-1",
        "int4,desc_act=true,sym=false,damp_percent=0.1",
        "int4,dtype=bf16",
    ],
)
def test_every_option_quantizes_and_runs(phi: Path, text: str, tmp_path: Path) -> None:
    variant = parse_variant(text)
    gptq.quantize(phi, variant, tmp_path, "cpu", calibration())
    written = json.loads((tmp_path / "quantize_config.json").read_text())
    assert written["bits"] == int(variant.precision[3:])
    assert written["group_size"] == variant.option("group_size", 128)
    assert written["desc_act"] == variant.option("desc_act", False)
    assert written["sym"] == variant.option("sym", True)
    assert written["meta"]["damp_percent"] == variant.option("damp_percent", 0.05)
    loaded = gptq.load(tmp_path, variant, "cpu")
    expected = "bfloat16" if "bf16" in text else "float16"
    assert str(loaded.model.dtype) == f"torch.{expected}"
    native = logits(loaded.model)
    scored = logits(for_scoring(loaded, "cpu").model)
    assert kl_divergence(reference(phi), scored) < BOUNDS[variant.precision]
    # The kernel's own arithmetic is far closer to exact arithmetic than the quantizer's error.
    assert kl_divergence(scored, native) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("option", ["method=gptaq", "method=foem", "mse=2.4"])
def test_each_method_rounds_in_its_own_way(
    llama: Path, tmp_path: Path, option: str, made_plainly: dict[str, torch.Tensor]
) -> None:
    variant = parse_variant(f"int4,group_size=64,{option}")
    gptq.quantize(llama, variant, tmp_path, "cpu", calibration())
    found = load_file(tmp_path / "model.safetensors")
    assert {name: one.shape for name, one in found.items()} == {
        name: one.shape for name, one in made_plainly.items()
    }
    packed = [name for name in found if name.endswith("qweight")]
    assert not any(torch.equal(found[name], made_plainly[name]) for name in packed)
    loaded = for_scoring(gptq.load(tmp_path, variant, "cpu"), "cpu")
    assert kl_divergence(reference(llama), logits(loaded.model)) < BOUNDS["int4"]


@pytest.fixture(scope="module")
def made_plainly(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("plain")
    gptq.quantize(llama, parse_variant("int4,group_size=64"), out, "cpu", calibration())
    return load_file(out / "model.safetensors")


def test_the_size_on_disk_is_the_reported_one(tmp_path: Path) -> None:
    source, out = make_llama(tmp_path / "wide", intermediate=3072), tmp_path / "out"
    out.mkdir()
    variant = parse_variant("int4")
    gptq.quantize(source, variant, out, "cpu", calibration(2))
    loaded = gptq.load(out, variant, "cpu")
    reported = sum(weight_bytes(loaded.model, loaded.formats).values())
    assert disk_bytes(out) == pytest.approx(reported, rel=0.02)


def test_calibration_matters_and_results_repeat(phi: Path, tmp_path: Path) -> None:
    outputs = []
    for name, samples in (("a", calibration()), ("b", calibration()), ("c", calibration(2, 32))):
        out = tmp_path / name
        out.mkdir()
        gptq.quantize(phi, parse_variant("int4"), out, "cpu", samples)
        outputs.append(logits(gptq.load(out, parse_variant("int4"), "cpu").model))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_progress_and_silence(
    phi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[Event] = []
    gptq.quantize(
        phi, parse_variant("int4"), tmp_path, "cpu", calibration(2), listener=events.append
    )
    assert events[0].variant == "int4"
    assert {event.total for event in events} == {2}
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert capsys.readouterr().out == ""


def test_no_calibration_no_quantization(phi: Path, tmp_path: Path) -> None:
    with pytest.raises(VariantError, match=r"needs calibration text.*calibration=FILE"):
        gptq.quantize(phi, parse_variant("int4"), tmp_path, "cpu", None)
    with pytest.raises(VariantError, match="not quantized yet"):
        gptq.load(phi, parse_variant("int4"), "cpu")


def test_known_types_are_those_of_the_library() -> None:
    _gptqmodel.import_quietly()
    from gptqmodel.models import auto

    known = _gptqmodel.known_types()
    assert known <= set(auto.SUPPORTED_MODELS)
    assert {"llama", "qwen3", "phi3small", "gemma3_text"} <= known


def test_an_architecture_gptqmodel_does_not_know(tmp_path: Path) -> None:
    config = {
        "model_type": "roberta", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "is_decoder": True,
    }  # fmt: skip
    message = refusal(Checkpoint("tiny", tmp_path, config, "", ()), "int4")
    assert "GPTQModel cannot quantize the architecture 'roberta'" in message
    assert message.endswith("use int4@bitsandbytes")


def test_small_layers_whose_widths_do_not_fit_stay_as_they_are(tmp_path: Path) -> None:
    """One of 40 outputs among many refused the whole model."""
    config = json.loads((make_llama(tmp_path) / "config.json").read_text())
    config.update(num_attention_heads=4, num_key_value_heads=1, head_dim=40)
    gptq.check(Checkpoint("tiny", tmp_path, config, "", ()), parse_variant("int4,group_size=32"))


def test_errors_of_the_library_are_one_line(tmp_path: Path) -> None:
    source = make_llama(tmp_path / "source")
    (source / "tokenizer.json").unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(VariantError, match="GPTQModel cannot make int4@gptq") as caught:
        gptq.quantize(source, parse_variant("int4"), tmp_path / "out", "cpu", calibration(2))
    assert "\n" not in str(caught.value)


def refusal(checkpoint: Checkpoint, text: str) -> str:
    with pytest.raises(VariantError) as caught:
        gptq.check(checkpoint, parse_variant(text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_widths_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    checkpoint = resolve_model(str(make_llama(tmp_path, intermediate=172)))
    for text, instead in (("int4", "int4@bitsandbytes"), ("int8@gptq", "int8@bitsandbytes")):
        message = refusal(checkpoint, text)
        assert "model.layers.0.mlp.down_proj and 1 more" in message
        assert "172 inputs" in message
        assert f"use {instead}" in message
    from_config = dataclasses.replace(checkpoint, weight_files=())
    assert refusal(from_config, "int4") == refusal(checkpoint, "int4")


def test_a_width_of_outputs_alone(tmp_path: Path, llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    config.update(num_attention_heads=4, num_key_value_heads=1, head_dim=40, intermediate_size=32)
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint("tiny", tmp_path, config, "", ())
    message = refusal(checkpoint, "int4,group_size=32")
    assert "40 outputs are no multiple of 32" in message


def test_groups_that_do_not_divide_a_width_name_one_that_does(llama: Path) -> None:
    checkpoint = resolve_model(str(llama))
    message = refusal(checkpoint, "int4,group_size=256")
    assert "model.layers.0.mlp.gate_proj" in message
    assert "128 inputs are no multiple of 256" in message
    assert "use int4@gptq,group_size=128" in message
    gptq.check(checkpoint, parse_variant("int4,group_size=128"))
    gptq.check(checkpoint, parse_variant("int4,group_size=-1"))


def test_stories260k_is_refused_by_name(shared: Path) -> None:
    checkpoint = resolve_model(str(shared / "models" / "stories260k"))
    message = refusal(checkpoint, "int4")
    assert "down_proj" in message
    assert "172" in message


def test_a_quantized_source_is_refused(made: Path) -> None:
    assert "already quantized (gptq)" in refusal(resolve_model(str(made)), "int4")


def test_routers_are_no_obstacle(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_tokenizer(tmp_path)
    tensors = {
        "model.layers.0.mlp.gate.weight": torch.zeros(6, 128),
        "model.layers.0.mlp.up_proj.weight": torch.zeros(128, 128),
        "model.embed_tokens.weight": torch.zeros(250, 128),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    gptq.check(resolve_model(str(tmp_path)), parse_variant("int4"))
