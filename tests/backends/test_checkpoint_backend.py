"""Checkpoints that are already quantized, by every method there is a library for."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import kl_divergence, logits, make_llama, save_tokenizer
from transformers import AutoModelForCausalLM

from evalkit.backends import (
    _gptqmodel_kernels,
    bitsandbytes,
    checkpoint,
    for_scoring,
    gptq,
    kernel_for,
    parse_variant,
)
from evalkit.backends import transformers as plain
from evalkit.errors import VariantError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.resolve import resolve_model
from evalkit.models.storage import weight_bytes


@pytest.fixture(scope="module")
def base(llama: Path) -> Checkpoint:
    return resolve_model(str(llama))


def reference(base: Checkpoint) -> torch.Tensor:
    return logits(plain.load(base.path, parse_variant("fp32"), "cpu").model)


def load(base: Checkpoint, path: Path) -> Any:
    variant = parse_variant(str(path))
    checkpoint.check(base, variant)
    return checkpoint.load(base.path, variant, "cpu")


@pytest.mark.parametrize("text", ["int8", "int4@bitsandbytes"])
def test_bitsandbytes(base: Checkpoint, text: str, tmp_path: Path) -> None:
    variant = parse_variant(text)
    bitsandbytes.quantize(base.path, variant, tmp_path, "cpu")
    ours, direct = load(base, tmp_path), bitsandbytes.load(tmp_path, variant, "cpu")
    assert ours.kernel == direct.kernel
    assert ours.kept_16bit == direct.kept_16bit
    assert torch.equal(logits(ours.model), logits(direct.model))


def test_gptq(base: Checkpoint, tmp_path: Path) -> None:
    from tiny_checkpoints import calibration

    variant = parse_variant("int4,group_size=-1")
    gptq.quantize(base.path, variant, tmp_path, "cpu", calibration(2))
    ours, direct = load(base, tmp_path), gptq.load(tmp_path, variant, "cpu")
    assert ours.kernel == direct.kernel
    assert torch.equal(logits(ours.model), logits(direct.model))


@pytest.mark.parametrize("described_in_config", [True, False])
def test_the_names_of_autogptq(base: Checkpoint, tmp_path: Path, described_in_config: bool) -> None:
    made, old = tmp_path / "made", tmp_path / "old"
    write_gptq(base, made)
    expected = logits(load(base, made).model)
    shutil.copytree(made, old)
    tensors = load_file(old / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.bias"
    named = old / "gptq_model-4bit-64g.safetensors"
    # AutoGPTQ writes a bias for layers that have none.
    save_file(tensors | {name: torch.zeros(128, dtype=torch.float16)}, named, {"format": "pt"})
    (old / "model.safetensors").unlink()
    config = json.loads((old / "config.json").read_text())
    description = config["quantization_config"]
    if not described_in_config:
        del config["quantization_config"]
        del description["quant_method"]
    config["torch_dtype"] = config.pop("dtype")
    (old / "config.json").write_text(json.dumps(config))
    (old / "quantize_config.json").write_text(json.dumps(description))
    assert torch.equal(logits(load(base, old).model), expected)
    # Where the weights are missing, that is said before anything is loaded.
    (old / "gptq_model-4bit-64g.safetensors").unlink()
    with pytest.raises(VariantError, match="has no weights"):
        checkpoint.content(
            parse_variant(str(old)), offline=True, allow_pickle=False, trust_remote_code=False,
            hash_cache=None,
        )  # fmt: skip


def write_gptq(base: Checkpoint, out: Path) -> None:
    """A GPTQ checkpoint of random codes, which takes no quantizer."""
    shutil.copytree(base.path, out)
    tensors = {}
    draw = torch.Generator().manual_seed(0)
    for name, weight in load_file(out / "model.safetensors").items():
        if "proj" not in name:
            tensors[name] = weight
            continue
        rows, columns = weight.shape
        start, groups = name.removesuffix("weight"), columns // 64
        codes = torch.randint(-(2**31), 2**31 - 1, (columns // 8, rows), generator=draw)
        tensors[f"{start}qweight"] = codes.to(torch.int32)
        # A zero point of 8 in each nibble, stored less one.
        tensors[f"{start}qzeros"] = torch.full((groups, rows // 8), 0x77777777, dtype=torch.int32)
        tensors[f"{start}scales"] = torch.full((groups, rows), 0.01, dtype=torch.float16)
        tensors[f"{start}g_idx"] = (torch.arange(columns) // 64).to(torch.int32)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": True,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config))


def test_its_kernel_on_a_card_is_that_of_its_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTQMODEL_TORCH_EXTENSIONS_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(_gptqmodel_kernels, "missing_for_cuda_build", lambda: "nvcc")
    monkeypatch.setattr(_gptqmodel_kernels, "missing_for_triton", lambda: None)

    def kernel(**made: Any) -> str | None:
        (tmp_path / "config.json").write_text(
            json.dumps({"model_type": "llama", "quantization_config": made})
        )
        choice = kernel_for(parse_variant(str(tmp_path)), {"layers.0": (192, 576)}, (9, 0))
        return choice.kernel if choice else None

    assert kernel(quant_method="gptq", bits=4, group_size=64) == "TritonV2Linear"
    assert kernel(quant_method="awq", bits=4, group_size=64, version="gemm") == (
        "AwqGEMMTritonLinear"
    )
    # GPTQModel itself has one kernel for each of these.
    assert kernel(quant_method="awq", bits=4, group_size=64, version="gemv") is None
    assert kernel(quant_method="bitsandbytes", load_in_8bit=True) is None


def test_torchao(base: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    AutoModelForCausalLM.from_pretrained(
        base.path,
        dtype=torch.float16,
        quantization_config=TorchAoConfig(Int8WeightOnlyConfig(version=2)),
        device_map={"": "cpu"},
    ).save_pretrained(tmp_path)
    loaded = load(base, tmp_path)
    assert loaded.kernel == "Linear Int8Tensor (float16)"
    assert not any("proj" in name for name in loaded.kept_16bit)
    assert 0 < kl_divergence(reference(base), logits(loaded.model)) < 1e-2
    scored = for_scoring(loaded, "cpu")
    assert scored.notes == ("quality on CPU: the same weights in float32 arithmetic",)
    assert kl_divergence(logits(loaded.model), logits(scored.model)) < 1e-4


def pack_awq(weight: torch.Tensor, group: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Round to 4 bit in AWQ's GEMM layout; also the (outputs, inputs) weights it stands for."""
    columns = weight.float().t().reshape(-1, group, weight.shape[0])
    low, high = columns.amin(1, keepdim=True), columns.amax(1, keepdim=True)
    scale = ((high - low) / 15).clamp(min=1e-5).half().float()
    zero = (-low / scale).round().clamp(0, 15)
    codes = (columns / scale + zero).round().clamp(0, 15)
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def words(values: torch.Tensor) -> torch.Tensor:
        eight = values.long().reshape(values.shape[0], -1, 8)[..., order]
        packed = (eight << (4 * torch.arange(8))).sum(-1)
        return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)

    flat = codes.reshape(-1, weight.shape[0])
    tensors = {
        "qweight": words(flat),
        "qzeros": words(zero.squeeze(1)),
        "scales": scale.squeeze(1).half(),
    }
    return tensors, ((codes - zero) * scale).reshape(-1, weight.shape[0]).t()


def test_awq(base: Checkpoint, tmp_path: Path) -> None:
    tensors, dense = load_file(base.path / "model.safetensors"), {}
    for name in [name for name in tensors if ".layers." in name and tensors[name].dim() == 2]:
        packed, exact = pack_awq(tensors.pop(name), 64)
        dense[name] = exact
        tensors |= {name.replace("weight", key): value for key, value in packed.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = {
        **base.config,
        "quantization_config": {
            "quant_method": "awq",
            "bits": 4,
            "group_size": 64,
            "zero_point": True,
            "version": "gemm",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_tokenizer(tmp_path)
    loaded = load(base, tmp_path)
    assert "int4 g64" in loaded.kernel
    exact = plain.load(base.path, parse_variant("fp32"), "cpu").model
    exact.load_state_dict(dense, strict=False)
    assert kl_divergence(logits(exact), logits(loaded.model)) < 1e-4
    scored = for_scoring(loaded, "cpu")
    assert kl_divergence(logits(exact), logits(scored.model)) < 1e-9
    fresh = load(base, tmp_path)
    assert weight_bytes(fresh.model, fresh.formats)["packed"] == sum(
        weight.numel() // 2 for weight in dense.values()
    )


def refusal(base: Checkpoint, path: Path) -> str:
    with pytest.raises(VariantError) as caught:
        checkpoint.check(base, parse_variant(str(path)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def quantized(base: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "quantized"
    shutil.copytree(base.path, path)
    edit(path, quantization_config={"quant_method": "gptq"})
    return path


def edit(path: Path, **changes: object) -> None:
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**content, **changes}))


def test_what_is_not_quantized_is_refused(base: Checkpoint) -> None:
    message = refusal(base, base.path)
    assert "is not quantized" in message
    assert "--model" in message


def test_an_unknown_method(base: Checkpoint, quantized: Path) -> None:
    edit(quantized, quantization_config={"quant_method": "awk"})
    message = refusal(base, quantized)
    assert "'awk'" in message
    assert "did you mean 'awq'" in message


def test_a_missing_library(
    base: Checkpoint, quantized: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    edit(quantized, quantization_config={"quant_method": "compressed-tensors"})
    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert "`pip install compressed-tensors`" in refusal(base, quantized)


def test_another_vocabulary(base: Checkpoint, tmp_path: Path) -> None:
    other = make_llama(tmp_path / "other", vocabulary=300)
    edit(other, quantization_config={"quant_method": "gptq"})
    assert "vocabulary of 300" in refusal(base, other)


def test_no_config(base: Checkpoint, tmp_path: Path) -> None:
    assert "has no config.json" in refusal(base, tmp_path)


def test_its_identity_is_its_content(base: Checkpoint, quantized: Path) -> None:
    first = checkpoint.resolve(parse_variant(str(quantized))).identity
    moved = quantized.rename(quantized.parent / "moved")
    assert checkpoint.resolve(parse_variant(str(moved))).identity == first
    edit(moved, quantization_config={"quant_method": "gptq", "bits": 3})
    assert checkpoint.resolve(parse_variant(str(moved))).identity != first
    (moved / "model.safetensors").unlink()
    with pytest.raises(VariantError, match="has no weights"):
        checkpoint.resolve(parse_variant(str(moved)))
