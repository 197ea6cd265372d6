"""Rounding to nearest: the values that the definition gives, in GPTQ's checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import logits
from transformers import AutoModelForCausalLM

from evalkit.analysis.footprint import weight_bytes as planned_bytes
from evalkit.backends import checkpoint, gptq, parse_variant, rtn
from evalkit.demo_data import demo_directory
from evalkit.metrics import size
from evalkit.models.layer_format import format_of
from evalkit.models.resolve import resolve_config
from evalkit.models.shape import model_shape
from evalkit.models.storage import weight_bytes


@pytest.fixture(scope="module")
def made(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rtn")
    rtn.quantize(llama, parse_variant("int4@rtn,group_size=64"), out, "cpu")
    return out


def test_every_weight_takes_the_nearest_step(llama: Path, made: Path) -> None:
    loaded = rtn.load(made, parse_variant("int4@rtn,group_size=64"), "cpu")
    name = "model.layers.1.mlp.down_proj"
    weight = load_file(llama / "model.safetensors")[f"{name}.weight"].float()
    groups = weight.reshape(weight.shape[0], -1, 64)
    scale = groups.abs().amax(-1, keepdim=True) * 2 / 15
    steps = (groups / scale).round().clamp(-8, 7)
    layer = loaded.model.get_submodule(name)
    layout = format_of(layer, loaded.formats)
    assert layout is not None and layout.unpack is not None
    # Scales are stored in float16.
    expected = (steps * scale.half().float()).reshape_as(weight)
    assert torch.equal(layout.unpack(layer), expected)


def test_plain_transformers_loads_it_with_the_same_logits(made: Path) -> None:
    own = rtn.load(made, parse_variant("int4@rtn,group_size=64"), "cpu").model
    plain = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float16)
    assert torch.equal(logits(own), logits(plain))
    assert json.loads((made / "config.json").read_text())["quantization_config"]["bits"] == 4


def test_it_needs_no_calibration_and_weighs_what_gptq_weighs(llama: Path) -> None:
    assert not rtn.SPEC.needs_calibration and rtn.SPEC.keeps
    shape = model_shape("llama", resolve_config(str(llama)).config, {2})
    for options in ("", ",group_size=64", ",sym=false"):
        variants = [parse_variant(f"int4@{name}{options}") for name in ("gptq", "rtn")]
        ours = planned_bytes(shape, rtn.scheme(variants[1]))
        assert ours == planned_bytes(shape, gptq.scheme(variants[0]))


def test_expected_bytes_are_those_of_the_demo(tmp_path: Path) -> None:
    variant = parse_variant("int4@rtn")
    rtn.quantize(demo_directory() / "model", variant, tmp_path, "cpu")
    loaded = rtn.load(tmp_path, variant, "cpu")
    sizes = weight_bytes(loaded.model, loaded.formats)
    scheme = rtn.scheme(variant)
    shape = model_shape("demo", resolve_config("demo").config, {scheme.rest_bytes})
    assert planned_bytes(shape, scheme).total == pytest.approx(sum(sizes.values()), rel=0.01)


def test_a_name_and_values_of_int4_do_not_make_int8_smaller(llama: Path, tmp_path: Path) -> None:
    """Bytes are read off what is loaded: codes of 8 bit of which sixteen are used stay 8 bit."""
    folder = tmp_path / "model-int4-g64"
    rtn.quantize(llama, parse_variant("int8@rtn,group_size=64"), folder, "cpu")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name in [one for one in tensors if one.endswith(".qweight")]:
        # Four codes of 8 bit in each int32: the lower half of each is emptied.
        tensors[name] = tensors[name] & torch.tensor(-0x0F0F0F10, dtype=torch.int32)
    save_file(tensors, file, metadata={"format": "pt"})
    loaded = checkpoint.load(llama, parse_variant(str(folder)), "cpu")
    probe: Any = SimpleNamespace(model=loaded.model, formats=loaded.formats, unpacked=None)
    _, _, quantized = size.measure(probe)
    assert quantized.values[0] > 8
