"""AWQ made here: on a CPU too, in AutoAWQ's format, for every loader; its kernels and bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import calibration, kl_divergence, logits
from transformers import AutoModelForCausalLM

from evalkit.backends import (
    Capability,
    _gptqmodel,
    awq,
    for_scoring,
    kernel_for,
    parse_variant,
    rtn,
)
from evalkit.backends import transformers as plain
from evalkit.backends._gptqmodel_layers import FORMATS, fill_at_random
from evalkit.errors import UsageError, VariantError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.layer_format import format_of

GROUPS = "group_size=64"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama", "phi"])
def test_one_checkpoint_for_all_loaders_better_than_rounding(
    request: pytest.FixtureRequest, tmp_path: Path, model: str
) -> None:
    source: Path = request.getfixturevalue(model)
    variant = parse_variant(f"int4@awq,{GROUPS}")
    made, rounded = tmp_path / "awq", tmp_path / "rtn"
    made.mkdir()
    rounded.mkdir()
    awq.quantize(source, variant, made, "cpu", calibration())
    written = json.loads((made / "config.json").read_text())["quantization_config"]
    assert {"quant_method": "awq", "bits": 4, "zero_point": True}.items() <= written.items()
    loaded = awq.load(made, variant, "cpu")
    assert loaded.kernel == "TorchAtenAwqLinear int4 g64 (bfloat16)"
    standard = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float16)
    assert torch.equal(logits(standard), logits(loaded.model))
    floor = parse_variant(f"int4@rtn,{GROUPS},sym=false")
    rtn.quantize(source, floor, rounded, "cpu")
    exact = logits(plain.load(source, parse_variant("fp32"), "cpu").model)
    damage = [
        kl_divergence(exact, logits(for_scoring(one, "cpu").model))
        for one in (loaded, rtn.load(rounded, floor, "cpu"))
    ]
    assert damage[0] < damage[1]


@pytest.mark.parametrize(
    ("words", "on", "kernel"),
    [
        ("int4@awq", None, "TorchAtenAwqLinear"),
        ("int4@awq,group_size=-1", None, "AwqTorchLinear"),
        ("int4@awq,kernel=triton", (8, 9), "AwqGEMMTritonLinear"),
    ],
)
def test_its_kernel(
    monkeypatch: pytest.MonkeyPatch, words: str, on: Capability, kernel: str
) -> None:
    monkeypatch.setattr("evalkit.backends._gptqmodel_kernels.missing_for_triton", lambda: None)
    found = kernel_for(parse_variant(words), {"layer": (128, 256)}, on)
    assert found is not None and found.kernel == kernel


def test_what_it_does_not_take_is_refused(llama: Path) -> None:
    with pytest.raises(UsageError, match="does not make 'int8'"):
        parse_variant("int8@awq")
    with pytest.raises(UsageError, match="dtype=bf16 is no value of awq: allowed are fp16"):
        parse_variant("int4@awq,dtype=bf16")
    with pytest.raises(VariantError, match="needs calibration text"):
        awq.quantize(llama, parse_variant("int4@awq"), llama, "cpu")
    odd = json.loads((llama / "config.json").read_text()) | {"intermediate_size": 200}
    with pytest.raises(VariantError, match="200 inputs are no multiple of 128; use int4@"):
        awq.check(Checkpoint("odd", llama.parent, odd, "", ()), parse_variant("int4@awq"))


def test_random_weights_are_symmetric_around_the_zero_point() -> None:
    _gptqmodel.import_quietly()
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear

    class Memory:
        def give(self, module: torch.nn.Module) -> None:
            pass

    layer = AwqTorchLinear(4, 64, False, False, 256, 128, register_buffers=True)
    torch.manual_seed(0)
    assert fill_at_random(layer, Memory())  # type: ignore[arg-type]
    layout = format_of(layer, FORMATS)
    assert layout is not None and layout.unpack is not None
    steps = layout.unpack(layer) / layer.scales.float()[0, 0]
    assert (int(steps.min()), int(steps.max())) == (-8, 7)
