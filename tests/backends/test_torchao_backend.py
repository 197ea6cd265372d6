"""torchao's INT8 and FP8: standard checkpoints, the same logits, exact bytes, random weights."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import evalkit
from evalkit.analysis.architecture import Linear, ModelShape
from evalkit.analysis.footprint import weight_bytes as planned_bytes
from evalkit.backends import Capability, KernelChoice, kernel_for, parse_variant, torchao
from evalkit.demo_data import demo_directory
from evalkit.errors import UsageError, VariantError
from evalkit.models.compute import for_scoring
from evalkit.models.resolve import resolve_config, resolve_model
from evalkit.models.shape import model_shape
from evalkit.models.storage import weight_bytes
from evalkit.progress import ignore

pytestmark = pytest.mark.skipif(
    not any(True for d in importlib.metadata.distributions() if d.name == "torchao"),
    reason="torchao is not installed",
)
IDS = torch.arange(4, 44)[None]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_llama(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("words", "held"),
    [
        ("int8@torchao", "Int8Tensor"),
        ("int8@torchao,activations=dynamic,dtype=fp16", "Int8Tensor"),
        ("fp8", "Float8Tensor"),
        ("fp8@torchao,dtype=fp16", "Float8Tensor"),
    ],
)
def test_a_checkpoint_reloads_with_the_same_logits(
    llama: Path, tmp_path: Path, words: str, held: str
) -> None:
    out = evalkit.quantize(words, model=str(llama), out=tmp_path / "out", progress=ignore)
    mine = torchao.load(out, parse_variant(words), "cpu").model
    plain = AutoModelForCausalLM.from_pretrained(out)
    with torch.inference_mode():
        assert torch.equal(mine(IDS).logits, plain(IDS).logits)
    assert type(mine.model.layers[0].mlp.up_proj.weight).__name__ == held
    assert kernel_for(parse_variant(words), {}, None) == KernelChoice(f"Linear {held}")


@pytest.mark.parametrize("words", ["int8@torchao", "fp8@torchao"])
def test_bytes_are_counted_in_storage_and_agree_with_the_plan_and_the_disk(
    tmp_path: Path, words: str
) -> None:
    demo = demo_directory() / "model"
    out = evalkit.quantize(words, model="demo", out=tmp_path / "out", progress=ignore)
    variant = parse_variant(words)
    loaded = torchao.load(out, variant, "cpu")
    sizes = weight_bytes(loaded.model, loaded.formats)
    assert sizes["packed"] == sum(rows * columns for rows, columns in torchao_shapes(demo))
    total = sum(sizes.values())
    assert (out / "model.safetensors").stat().st_size == pytest.approx(total, rel=0.02)
    scheme = torchao.scheme(variant)
    shape = model_shape("demo", resolve_config(str(demo)).config, {scheme.rest_bytes})
    assert planned_bytes(shape, scheme).total == pytest.approx(total, rel=0.005)


def torchao_shapes(path: Path) -> list[tuple[int, int]]:
    from evalkit.models.shapes import decoder_shapes

    return list(decoder_shapes(resolve_model(str(path))).values())


@pytest.mark.parametrize("words", ["int8@torchao,dtype=fp16", "fp8@torchao,dtype=fp16"])
def test_weight_only_layers_are_scored_in_float32(llama: Path, words: str) -> None:
    loaded = torchao.load(llama, parse_variant(words), "cpu")
    own = loaded.model(IDS).logits.float()
    scored = for_scoring(loaded, "cpu")
    assert scored.model.dtype == torch.float32
    assert type(scored.model.model.layers[0].mlp.up_proj.weight) is torch.nn.Parameter
    assert torch.allclose(scored.model(IDS).logits, own, atol=0.02 * float(own.std()))


def test_dynamic_layers_are_scored_by_their_own_kernels(llama: Path) -> None:
    loaded = torchao.load(llama, parse_variant("int8@torchao,activations=dynamic"), "cpu")
    assert any("own kernels" in note for note in for_scoring(loaded, "cpu").notes)


def test_fp8_weights_are_e4m3_numbers_times_a_scale_a_row(llama: Path) -> None:
    """Each within half a step of E4M3: a sixteenth of the weight, or of the least normal number."""
    checkpoint = load_file(llama / "model.safetensors")
    loaded = torchao.load(llama, parse_variant("fp8"), "cpu")
    name = "model.layers.1.mlp.down_proj"
    packed = loaded.model.get_submodule(name)
    layout = next(one for one in loaded.formats if one.matches(packed))
    assert layout.unpack is not None
    weight = checkpoint[f"{name}.weight"].bfloat16().float()
    step = torch.maximum(weight.abs(), weight.abs().amax(1, keepdim=True) / 448 * 2**-6) / 16
    assert ((layout.unpack(packed) - weight).abs() <= step * 1.001).all()
    steps = layout.unpack(packed) / packed.weight.scale
    assert torch.equal(steps.to(torch.float8_e4m3fn).float(), steps)


def test_fp8_of_activations_is_for_cards_that_multiply_it(llama: Path) -> None:
    variant = parse_variant("fp8,activations=dynamic")
    message = "needs CUDA: on a CPU use fp8@torchao$"
    with pytest.raises(VariantError, match=message):
        torchao.load(llama, variant, "cpu")
    with pytest.raises(VariantError, match=message):
        evalkit.quantize(variant.text, model=str(llama), out=llama / "no", progress=ignore)
    with pytest.raises(VariantError, match="give bf16 only; use dtype=bf16, or activations=16bit"):
        torchao.check(resolve_model(str(llama)), parse_variant(f"{variant.text},dtype=fp16"))
    scheme = torchao.scheme(variant)
    assert scheme.int8 and not torchao.scheme(parse_variant("fp8")).int8


@pytest.mark.parametrize(("words", "held"), [("int8@torchao", "Int8"), ("fp8", "Float8")])
def test_random_weights_are_packed_layer_by_layer(llama: Path, words: str, held: str) -> None:
    checkpoint = resolve_config(str(llama))
    model = torchao.load_random(checkpoint, parse_variant(words), "cpu").model
    assert type(model.model.layers[1].self_attn.q_proj.weight).__name__ == f"{held}Tensor"
    with torch.inference_mode():
        assert torch.isfinite(model(IDS).logits).all()


def test_int4_needs_cuda_and_fitting_groups(llama: Path) -> None:
    with pytest.raises(VariantError, match="needs CUDA"):
        torchao.load(llama, parse_variant("int4@torchao,group_size=32"), "cpu")
    with pytest.raises(VariantError, match="are no multiple of 128"):
        torchao.check(resolve_model(str(llama)), parse_variant("int4@torchao"))
    with pytest.raises(UsageError, match="allowed are 16bit, dynamic"):
        parse_variant("int8@torchao,activations=8bit")


def test_int4_takes_bfloat16_only_and_says_so(llama: Path) -> None:
    variant = parse_variant("int4@torchao,group_size=32,dtype=fp16")
    with pytest.raises(VariantError, match="weights take bf16 only; use dtype=bf16"):
        torchao.check(resolve_model(str(llama)), variant)
    torchao.check(resolve_model(str(llama)), parse_variant("int4@torchao,group_size=32"))


def test_padding_of_int4_is_in_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torchao's own tensors, on no device; SmolLM2's and Gemma 3's widths."""
    from torchao.quantization import Int4TilePackedTo4dTensor

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    widths = [(576, 576), (192, 576), (1536, 576), (576, 1536), (6912, 1152), (4096, 4096)]
    for size in (64, 128):
        scheme = torchao.scheme(parse_variant(f"int4@torchao,group_size={size}"))
        for rows, columns in widths:
            full = torch.empty(rows, columns, dtype=torch.bfloat16, device="meta")
            packed = Int4TilePackedTo4dTensor.from_hp(full, [1, size])
            parts = [getattr(packed, name) for name in packed.__tensor_flatten__()[0]]
            shape = model_of([Linear("layer", rows, columns)])
            planned = planned_bytes(shape, scheme, scheme.cuda)
            assert planned.total == sum(part.nbytes for part in parts)
    layers = [Linear(str(shape), *shape) for shape in (*widths[:3], widths[1], widths[0])]
    scheme = torchao.scheme(parse_variant("int4@torchao,group_size=64"))
    unpadded = sum(one.outputs * one.inputs / 2 for one in layers)
    packed = planned_bytes(model_of(layers), scheme, scheme.cuda).packed
    assert packed / unpadded == pytest.approx(1.78, 0.01)


def model_of(linears: list[Linear]) -> ModelShape:
    return ModelShape(
        name="layers", layers=1, hidden=0, vocab=0, heads=1, kv_heads=1, head_dim=1,
        intermediate=0, max_context=0, linears=tuple(linears), embedding=0, head=0, tied=True,
        other=0, attention=(), prefill={}, decode={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "on", "kernel"),
    [
        ("int8@torchao", None, "Linear Int8Tensor"),
        ("int8@torchao", (8, 9), "Linear Int8Tensor"),
        ("fp8", (8, 6), "Linear Float8Tensor"),
        ("fp8,activations=dynamic", (8, 9), "Linear Float8Tensor"),
        ("fp8,activations=dynamic", (8, 6), "needs compute capability 8.9, and this card has 8.6"),
        ("int4@torchao", (9, 0), "Linear Int4TilePackedTo4dTensor"),
        ("int4@torchao", (7, 5), "needs compute capability 8.0, and this card has 7.5"),
        ("int4@torchao", None, "needs CUDA"),
    ],
)
def test_its_kernel_on_a_card(words: str, on: Capability, kernel: str) -> None:
    if kernel.startswith("needs"):
        with pytest.raises(VariantError, match=kernel):
            kernel_for(parse_variant(words), {}, on)
    else:
        assert kernel_for(parse_variant(words), {}, on) == KernelChoice(kernel)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_int4_on_cuda(tmp_path: Path) -> None:
    variant = parse_variant("int4@torchao")
    model = torchao.load(demo_directory() / "model", variant, "cuda").model
    with torch.inference_mode():
        assert torch.isfinite(model(IDS.cuda()).logits).all()
