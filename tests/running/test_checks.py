"""The doctor's checks: each planted fault is found, healthy variants have none."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from evalkit.backends import parse_variant
from evalkit.demo_data import demo_directory
from evalkit.models.kernels import kernel_names
from evalkit.models.loading import load_causal_lm, load_tokenizer
from evalkit.running.doctor.checks import (
    CHEAP,
    THOROUGH,
    examine,
    neighbours_do_not_matter,
    weights_are_finite,
)
from evalkit.running.doctor.loaded_variant import LoadedVariant, mean_loss
from evalkit.texts.documents import load_text


@pytest.fixture(scope="module")
def demo() -> LoadedVariant:
    """The demo model in float32 on a page of its town."""
    path = demo_directory() / "model"
    model = load_causal_lm(path, dtype=torch.float32, device="cpu")
    tokenizer = load_tokenizer(path)
    page = "\n".join(load_text(str(demo_directory() / "text" / "town_test.txt")).documents[:9])
    ids = tuple(tokenizer(page)["input_ids"][:200])
    variant = LoadedVariant(
        model, parse_variant("fp32"), "cpu", kernel_names(model), tokenizer, ids, None
    )
    return LoadedVariant(**(vars(variant) | {"baseline": mean_loss(variant)}))


def changed(loaded: LoadedVariant, **changes: Any) -> LoadedVariant:
    return LoadedVariant(**(vars(loaded) | {"model": copy.deepcopy(loaded.model)} | changes))


def found(variant: LoadedVariant) -> dict[str, str]:
    """Level by check of everything but information."""
    findings = examine(variant, THOROUGH)
    for one in findings:
        assert one.what
        assert one.why
        assert one.fix
        assert "\n" not in one.line
    return {one.check: one.level for one in findings if one.level != "information"}


def test_a_healthy_model_has_no_finding(demo: LoadedVariant) -> None:
    assert examine(demo, THOROUGH) == []
    assert len(demo.ids) == 200


def layer(model: Any) -> Any:
    return model.model.layers[1].mlp.down_proj


def nan_weight(model: Any) -> None:
    layer(model).weight.data[0, 0] = float("nan")


def infinite_bias(model: Any) -> None:
    layer(model).bias.data[3] = float("inf")


def zero_scales(model: Any) -> None:
    layer(model).register_buffer("scales", torch.zeros(4))


def untied_head(model: Any) -> None:
    head = model.lm_head
    head.weight = nn.Parameter(torch.randn_like(head.weight))


def offloaded(model: Any) -> None:
    model.hf_device_map = {"model.layers.1": "disk", "": "cpu"}


def without_memory(model: Any) -> None:
    layer(model).extra = nn.Parameter(torch.empty(2, device="meta"))


def nan_logits(model: Any) -> None:
    model.lm_head.register_forward_hook(lambda *_: torch.full((1,), float("nan")) * _[2])


def unmasked_ids(model: Any) -> None:
    model.config.dummy_token_indices = [5, 6]
    # The model itself masks them; a loader that loses the mask does not.
    model.dummy_ids = torch.empty(0, dtype=torch.long)


def small_embedding(model: Any) -> None:
    model.resize_token_embeddings(1000)


def noise(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)


def coarse(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(("up_proj.weight", "down_proj.weight")):
            scale = parameter.data.abs().amax(-1, keepdim=True)
            parameter.data = (parameter.data / scale).round() * scale


def neighbours(model: Any) -> None:
    forward = layer(model).forward

    def mixed(self: Any, x: Any) -> Any:
        return forward(x + 0.5 * x.mean(0, keepdim=True).roll(1, -1) * (x.shape[0] > 1))

    layer(model).forward = types.MethodType(mixed, layer(model))


def dropout(model: Any) -> None:
    layer(model).register_forward_hook(lambda _, __, out: nn.functional.dropout(out, 0.2, True))


def forgetful_cache(model: Any) -> None:
    rotary = model.model.rotary_emb
    forward = rotary.forward
    rotary.forward = lambda positions, *rest: forward(positions - positions[..., :1], *rest)


def unbound_clip(model: Any) -> None:
    layer(model).register_buffer("input_max", torch.tensor(torch.inf))


def untrained_scale(model: Any) -> None:
    model.model.register_buffer("correct_output_scale", torch.zeros(4))


@pytest.mark.parametrize("unusual", [unbound_clip, untrained_scale])
def test_what_damages_no_output_is_no_defect(
    demo: LoadedVariant, unusual: Callable[[Any], None]
) -> None:
    variant = changed(demo)
    unusual(variant.model)
    assert examine(variant, [weights_are_finite]) == []


FAULTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "a NaN weight": (nan_weight, "weights"),
    "an infinite bias": (infinite_bias, "weights"),
    "scales of zero": (zero_scales, "scales"),
    "an untied head": (untied_head, "tied head"),
    "an offloaded layer": (offloaded, "devices"),
    "NaN logits": (nan_logits, "logits"),
    "unmasked ids": (unmasked_ids, "masked ids"),
    "a small embedding": (small_embedding, "tokenizer"),
    "noise for weights": (noise, "perplexity"),
    "weights of one bit": (coarse, "perplexity"),
    "neighbours in a batch": (neighbours, "batch neighbours"),
    "dropout left on": (dropout, "determinism"),
    "positions lost behind the cache": (forgetful_cache, "cache"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(demo: LoadedVariant, fault: str) -> None:
    plant, check = FAULTS[fault]
    variant = changed(demo)
    with torch.no_grad():
        plant(variant.model)
    if fault == "a small embedding":
        variant = changed(variant, ids=tuple(i % 1000 for i in demo.ids))
    assert check in found(variant)


def test_weights_without_memory_are_found_before_anything_runs(demo: LoadedVariant) -> None:
    variant = changed(demo)
    without_memory(variant.model)
    assert "devices" in {one.check for one in examine(variant, CHEAP)}


def test_an_unquantized_layer_in_a_quantized_variant(demo: LoadedVariant) -> None:
    findings = examine(changed(demo, variant=parse_variant("int4")), CHEAP)
    assert [one.check for one in findings] == ["layers"]
    assert "left unquantized" in findings[0].what


def test_a_quantized_layer_in_the_baseline(demo: LoadedVariant) -> None:
    variant = changed(demo)
    weight = layer(variant.model).weight
    layer(variant.model).weight = nn.Parameter(weight.data.to(torch.int8), requires_grad=False)
    findings = examine(variant, CHEAP)
    assert "quantized although fp32" in findings[0].what


class Doubled:
    """A tokenizer that begins a text with two BOS tokens, of an id the model does not expect."""

    bos_token_id, chat_template = 7, "{{ nothing"

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [7, 7, 8]}

    def get_vocab(self) -> dict[str, int]:
        return {"a": 8}

    def apply_chat_template(self, *_: Any, **__: Any) -> str:
        raise ValueError("unexpected end of template")


def test_faults_of_the_tokenizer(demo: LoadedVariant) -> None:
    levels = found(changed(demo, tokenizer=Doubled()))
    assert levels == {"BOS": "warning", "chat template": "warning"}
    lines = [one.what for one in examine(changed(demo, tokenizer=Doubled()), THOROUGH)]
    assert "two BOS tokens" in lines[0]


def test_a_fault_in_what_a_library_holds_beside_its_weights(tmp_path: Path) -> None:
    """The scales of 4-bit weights are no parameters: the backend's formats name them."""
    from evalkit.backends import bitsandbytes

    variant = parse_variant("int4@bitsandbytes")
    loaded = bitsandbytes.load(tiny.make_llama(tmp_path), variant, "cpu")
    variant = LoadedVariant(loaded.model, variant, "cpu", loaded.kernel, formats=loaded.formats)
    assert examine(variant, CHEAP) == []
    layer: Any = loaded.model.get_submodule("model.layers.0.mlp.up_proj")
    layer.weight.quant_state.absmax[0] = float("nan")
    (finding,) = examine(variant, CHEAP)
    assert finding.what == "NaN or infinite values in model.layers.0.mlp.up_proj.absmax"


def test_a_method_that_looks_at_the_whole_batch_is_no_fault(demo: LoadedVariant) -> None:
    levels = {}
    for words in ("int8", "int8@bitsandbytes,threshold=0"):
        variant = changed(demo, variant=parse_variant(words))
        neighbours(variant.model)
        (finding,) = neighbours_do_not_matter(variant)
        levels[words] = finding.level
    assert levels == {"int8": "information", "int8@bitsandbytes,threshold=0": "warning"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize("variant", [
    "fp32", "fp16", "bf16", "int8", "int4@bitsandbytes",
    pytest.param("int4", marks=pytest.mark.slow),
])  # fmt: skip
def test_healthy_variants_of_the_demo_have_no_finding(variant: str, store: Path) -> None:
    import evalkit
    from evalkit.progress import ignore

    diagnosis = evalkit.doctor(variant, model="demo", out=store, progress=ignore)
    assert diagnosis.healthy(strict=True), diagnosis.findings
    assert diagnosis.kernel
    assert len(diagnosis.checks) == len(THOROUGH) + 1


@pytest.mark.slow
def test_calibration_on_the_text_itself_is_a_warning(store: Path, tmp_path: Path) -> None:
    import evalkit
    from evalkit.progress import ignore

    text = demo_directory() / "text" / "town_test.txt"
    diagnosis = evalkit.doctor(
        f"int4@gptq,group_size=128,calibration={text},samples=8", model="demo", text=str(text),
        out=store, progress=ignore,
    )  # fmt: skip
    assert [(one.check, one.level) for one in diagnosis.findings][-1] == ("calibration", "warning")
    assert diagnosis.healthy()
    assert not diagnosis.healthy(strict=True)


def test_a_broken_checkpoint_is_a_failed_row_before_anything_is_measured(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    import evalkit
    from evalkit.progress import ignore

    model = tiny.make_llama(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    text = tmp_path / "text.txt"
    text.write_text(tiny.documents(1, 3), encoding="utf-8")
    result = evalkit.compare(
        "fp32", model=str(model), text=[str(text)], out=tmp_path / "store", progress=ignore
    )
    assert result.rows[0].status == "failed"
    assert "NaN or infinite values in model.layers.0.mlp.up_proj.weight" in result.rows[0].message
