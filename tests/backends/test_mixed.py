"""Mixes: what a plan file may say, what is made of it, and that it weighs what was predicted."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import disk_bytes, logits
from transformers import AutoModelForCausalLM

from evalkit.analysis.footprint import weight_bytes as planned_bytes
from evalkit.backends import _gptqmodel_dynamic as dynamic
from evalkit.backends import _mixed, check, gptq, kernel_for, label, parse_variant, rtn, torchao
from evalkit.backends._artifacts import artifact_name
from evalkit.errors import EvalkitError
from evalkit.models.layer_format import format_of
from evalkit.models.resolve import resolve_config, resolve_model
from evalkit.models.shape import model_shape
from evalkit.models.shapes import decoder_shapes
from evalkit.models.storage import weight_bytes
from evalkit.records import Mix, Variant

LAYER = "model.layers.{}.{}".format
FORMATS = {
    **{LAYER(0, f"self_attn.{x}_proj"): "int8,group_size=64" for x in "qkv"},
    LAYER(0, "self_attn.o_proj"): "16bit",
    LAYER(1, "mlp.down_proj"): "int8,group_size=32",
}


def plan(folder: Path, mix: Mix | str, name: str = "plan.yaml") -> Path:
    file = folder / name
    file.write_text(mix if isinstance(mix, str) else mix.text, encoding="utf-8")
    return file


def mixed(file: Path, backend: str = "rtn", more: str = "") -> Variant:
    return parse_variant(f"mixed@{backend},plan={file}{more}")


def mix_of(default: str, named: Mapping[str, str]) -> Mix:
    return Mix(default, tuple(sorted(named.items())))


def predicted(model: Path, variant: Variant, backend: Any) -> float:
    scheme = backend.scheme(variant)
    shape = model_shape("llama", resolve_config(str(model)).config, {scheme.rest_bytes})
    return planned_bytes(shape, scheme).total


def needs(package: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(package)
    return pytest.mark.skipif(found is None, reason=f"{package} is not installed")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default: int4\n", "is no plan: its first line must be `schema: evalkit.mix/1`"),
        ("schema: evalkit.mix/1\ndefualt: int4\n", "'defualt': .*; did you mean 'default'"),
        ("schema: evalkit.mix/1\nmodules: {}\n", "default is None: give a format such as int4"),
        ("schema: evalkit.mix/1\ndefault: 4\n", "default is 4: give a format such as int4"),
        ("schema: evalkit.mix/1\ndefault: int4\nmodules: [a]\n", "no list of NAME: FORMAT lines"),
        ("schema: evalkit.mix/1\ndefault: int5\n", "'int5': unknown precision 'int5'"),
        ("schema: evalkit.mix/1\ndefault: int4,sym=false\n", "allowed are int8, .*with group_size"),
        ("schema: evalkit.mix/1\ndefault: int4@awq\n", "'int4@awq' is no format of a module"),
        ("schema: evalkit.mix/1\ndefault: int4,group_size=7\n", "group_size=7 is no value of rtn"),
        ("schema: evalkit.mix/1\ndefault: 16bit\n", "leaves every module in 16bit"),
        (
            "schema: evalkit.mix/1\ndefault: int4\nmodules: {model.layers.0.mlp.up: int8}\n",
            "no linear layer 'model.layers.0.mlp.up'; did you mean 'model.layers.0.mlp.up_proj'",
        ),
        (
            "schema: evalkit.mix/1\ndefault: int4,group_size=512\n",
            "int4,group_size=512 cannot hold model.layers.0.mlp.down_proj: 256 inputs are no"
            " multiple of 512; give it another format, or 16bit",
        ),
        ("schema: [\n", "is not YAML"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said_in_one_line(
    llama: Path, tmp_path: Path, text: str, message: str
) -> None:
    variant = mixed(plan(tmp_path, text))
    with pytest.raises(EvalkitError, match=message) as raised:
        check(resolve_model(str(llama)), variant)
    assert "\n" not in str(raised.value)


def test_a_variant_without_a_plan_says_how_to_name_one(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(EvalkitError, match="write mixed@gptq,plan=FILE"):
        check(resolve_model(str(llama)), parse_variant("mixed@gptq"))
    with pytest.raises(EvalkitError, match="cannot read"):
        check(resolve_model(str(llama)), mixed(tmp_path / "none.yaml"))
    with pytest.raises(EvalkitError, match=r"group_size.* is for int8, int4, int3, int2"):
        parse_variant("mixed@gptq,group_size=64,plan=x")
    with pytest.raises(EvalkitError, match="write mixed@gptq or mixed@rtn or mixed@torchao"):
        parse_variant("mixed")


def test_a_plan_is_known_by_what_it_says_and_read_back(llama: Path, tmp_path: Path) -> None:
    mix = mix_of("int4,group_size=64", FORMATS)
    one, other = mixed(plan(tmp_path, mix)), mixed(plan(tmp_path, mix.text + "\n# x\n", "b.yml"))
    assert _mixed.read_mix(one) == mix
    checkpoint = resolve_model(str(llama))
    assert artifact_name(checkpoint, one) == artifact_name(checkpoint, other)
    assert rtn.content(one) == rtn.content(other) != ""
    changed = mixed(plan(tmp_path, mix_of("int4,group_size=32", FORMATS), "c.yml"))
    assert artifact_name(checkpoint, one) != artifact_name(checkpoint, changed)
    assert rtn.content(parse_variant("int4@rtn")) == ""
    assert label(one) == "mixed RTN plan" and label(mixed(Path("x/best.yaml"), "gptq")) == (
        "mixed GPTQ best"
    )


def test_the_most_frequent_format_is_the_default() -> None:
    mix = Mix.of({"a": "int8", "b": "int4", "c": "int4"})
    assert mix == Mix("int4", (("a", "int8"),))
    assert [mix.format_of(name) for name in "abc"] == ["int8", "int4", "int4"]
    assert mix.identity == Mix("int4", (("a", "int8"), ("b", "int4"))).identity


def test_rules_match_the_joined_names_that_vllm_asks_for(llama: Path, tmp_path: Path) -> None:
    variant = mixed(plan(tmp_path, mix_of("int4,group_size=64", FORMATS)), "gptq", ",sym=false")
    parts = _mixed.parts(variant, gptq.SPEC, decoder_shapes(resolve_model(str(llama))))
    assert all(part is None or part.option("sym", True) is False for part in parts.values())
    made = {
        **gptq._made(dynamic.most_frequent(parts)),
        "dynamic": dynamic.rules(parts, gptq._asked),
    }
    for name in ("q_proj", "v_proj", "qkv_proj"):
        found = dynamic.settings_of(made, LAYER(0, f"self_attn.{name}"))
        assert found is not None and (found["bits"], found["group_size"]) == (8, 64)
    assert dynamic.settings_of(made, LAYER(0, "self_attn.o_proj")) is None
    down, up = (dynamic.settings_of(made, LAYER(1, f"mlp.{x}_proj")) for x in ("down", "gate_up"))
    assert down is not None and (down["bits"], down["group_size"]) == (8, 32)
    assert up is not None and (up["bits"], up["group_size"]) == (4, 64)
    # Layer 1 is no prefix of layer 10.
    assert dynamic.settings_of(made, LAYER(10, "mlp.down_proj")) == made


@needs("gptqmodel")
class TestRounded:
    """By rounding, in GPTQ's container: the same path as GPTQ, in seconds."""

    @pytest.fixture(scope="class")
    def made(self, llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Variant, Path]:
        folder = tmp_path_factory.mktemp("mixed")
        variant = mixed(plan(folder, mix_of("int4,group_size=64", FORMATS)))
        out = folder / "out"
        out.mkdir()
        rtn.quantize(llama, variant, out, "cpu")
        return variant, out

    def test_each_module_holds_what_its_format_gives(
        self, llama: Path, made: tuple[Variant, Path]
    ) -> None:
        variant, out = made
        loaded = rtn.load(out, variant, "cpu")
        original = load_file(llama / "model.safetensors")
        for name, bits, size in (
            (LAYER(0, "self_attn.q_proj"), 8, 64),
            (LAYER(1, "mlp.down_proj"), 8, 32),
            (LAYER(1, "mlp.up_proj"), 4, 64),
        ):
            layer: Any = loaded.model.get_submodule(name)
            assert (layer.bits, layer.group_size) == (bits, size)
            layout = format_of(layer, loaded.formats)
            assert layout is not None and layout.unpack is not None
            weight = original[f"{name}.weight"].float()
            groups = weight.reshape(weight.shape[0], -1, size)
            scale = groups.abs().amax(-1, keepdim=True) * 2 / (2**bits - 1)
            steps = (groups / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            expected = (steps * scale.half().float()).reshape_as(weight)
            assert torch.equal(layout.unpack(layer), expected)
        kept = loaded.model.get_submodule(LAYER(0, "self_attn.o_proj"))
        assert torch.equal(kept.weight, original[LAYER(0, "self_attn.o_proj.weight")])

    def test_it_weighs_what_was_predicted(self, llama: Path, made: tuple[Variant, Path]) -> None:
        variant, out = made
        loaded = rtn.load(out, variant, "cpu")
        size = sum(weight_bytes(loaded.model, loaded.formats).values())
        assert predicted(llama, variant, rtn) == pytest.approx(size, rel=0.005)
        assert disk_bytes(out) == pytest.approx(size, rel=0.05)
        chosen = kernel_for(variant, decoder_shapes(resolve_model(str(llama))), None)
        assert chosen is not None and chosen.kernel == "TorchLinear"
        assert loaded.kernel.count("TorchLinear int") == 3

    def test_a_plan_that_was_changed_since_is_told(
        self, tmp_path: Path, made: tuple[Variant, Path]
    ) -> None:
        other = mixed(plan(tmp_path, mix_of("int4,group_size=64", {})))
        with pytest.raises(EvalkitError, match=r"holds .*o_proj otherwise than its plan says"):
            rtn.load(made[1], other, "cpu")

    @pytest.mark.slow
    def test_another_process_gives_the_same_logits(self, made: tuple[Variant, Path]) -> None:
        variant, out = made
        here = logits(rtn.load(out, variant, "cpu").model)
        assert torch.equal(here, elsewhere(out))


@needs("gptqmodel")
@pytest.mark.slow
def test_gptq_makes_a_mix(llama: Path, tmp_path: Path) -> None:
    from tiny_checkpoints import calibration

    variant = mixed(plan(tmp_path, mix_of("int4,group_size=64", FORMATS)), "gptq")
    out = tmp_path / "out"
    out.mkdir()
    gptq.quantize(llama, variant, out, "cpu", calibration())
    loaded = gptq.load(out, variant, "cpu")
    size = sum(weight_bytes(loaded.model, loaded.formats).values())
    assert predicted(llama, variant, gptq) == pytest.approx(size, rel=0.005)
    assert torch.equal(logits(loaded.model), elsewhere(out))
    assert "dynamic" in json.loads((out / "config.json").read_text())["quantization_config"]


@needs("torchao")
def test_torchao_mixes_load_in_plain_transformers(llama: Path, tmp_path: Path) -> None:
    named = {LAYER(0, "self_attn.q_proj"): "16bit", LAYER(1, "mlp.down_proj"): "fp8"}
    variant = mixed(plan(tmp_path, mix_of("int8", named)), "torchao")
    out = tmp_path / "out"
    out.mkdir()
    torchao.quantize(llama, variant, out, "cpu")
    mine = torchao.load(out, variant, "cpu")
    plain = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(logits(mine.model), logits(plain))
    held = [
        type(plain.get_submodule(n).weight.data).__name__ for n in (*named, LAYER(0, "mlp.up_proj"))
    ]
    assert held == ["Tensor", "Float8Tensor", "Int8Tensor"]
    size = sum(weight_bytes(mine.model, mine.formats).values())
    assert predicted(llama, variant, torchao) == pytest.approx(size, rel=0.005)
    # Converted on loading it is the same.
    assert torch.equal(logits(torchao.load(llama, variant, "cpu").model), logits(plain))


@needs("torchao")
def test_torchao_says_which_format_of_a_mix_needs_a_card(llama: Path, tmp_path: Path) -> None:
    named = {LAYER(0, "self_attn.q_proj"): "int4,group_size=64"}
    variant = mixed(plan(tmp_path, mix_of("int8", named)), "torchao")
    with pytest.raises(EvalkitError, match=r"int4@torchao.* needs CUDA"):
        torchao.load(llama, variant, "cpu")
    chosen = kernel_for(variant, {}, (8, 9))
    assert chosen is not None
    assert chosen.kernel == "Linear Int8Tensor, Linear Int4TilePackedTo4dTensor"


@pytest.mark.parametrize("backend", ["gptq", "torchao"])
def test_random_weights_are_not_mixed(llama: Path, tmp_path: Path, backend: str) -> None:
    variant = mixed(plan(tmp_path, Mix("int8")), backend)
    loader = {"gptq": gptq.load_random, "torchao": torchao.load_random}[backend]
    with pytest.raises(EvalkitError, match="cannot be made of random weights: leave it out"):
        loader(resolve_config(str(llama)), variant, "cpu")


def test_unquantized_modules_count_in_the_plan(llama: Path, tmp_path: Path) -> None:
    checkpoint = resolve_config(str(llama))
    shape = model_shape("llama", checkpoint.config, {2})
    named = {one.name: "int8,group_size=128" for one in shape.linears[:3]}
    scheme = gptq.scheme(mixed(plan(tmp_path, mix_of("16bit", named)), "gptq"))
    assert scheme.quantized
    uniform = gptq.scheme(parse_variant("int8@gptq"))
    less = planned_bytes(dataclasses.replace(shape, linears=shape.linears[:3]), uniform).quantized
    full = sum(one.outputs * one.inputs * 2 for one in shape.linears[:3])
    assert planned_bytes(shape, scheme).total == shape.parameters * 2 - full + less


def elsewhere(out: Path) -> torch.Tensor:
    """The logits of the checkpoint in a new process, by its own loader and nothing of evalkit."""
    file = out.parent / "logits.pt"
    words = f"""
import os, torch
os.environ["GPTQMODEL_CPU_WORKERS"] = "2"
os.environ["GPTQ_TORCH_TRITON_DEQUANT"] = "0"
from gptqmodel import GPTQModel
model = GPTQModel.load({str(out)!r}, device="cpu", dtype=torch.float16, backend="gptq_torch").model
for module in model.modules():
    # Compiling what unpacks takes a minute.
    vars(module).pop("dequantize_weight", None)
ids = torch.randint(0, 256, (1, 64), generator=torch.Generator().manual_seed(3))
with torch.inference_mode():
    torch.save(model(input_ids=ids).logits.float(), {str(file)!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: torch.Tensor = torch.load(file)
    return found
