"""Checkpoints of llm-compressor, packed by hand: their values, bytes and names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import disk_bytes, kl_divergence, logits, save_tokenizer

from evalkit.backends import checkpoint, for_scoring, parse_variant
from evalkit.backends import transformers as plain
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.resolve import resolve_model
from evalkit.models.storage import weight_bytes

pytest.importorskip("compressed_tensors")
Packed = tuple[dict[str, torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def base(llama: Path) -> Checkpoint:
    return resolve_model(str(llama))


def words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes of a row in 32-bit words, the first in the lowest bits."""
    shifts = bits * torch.arange(32 // bits)
    packed = (codes.long().reshape(codes.shape[0], -1, 32 // bits) << shifts).sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def symmetric(bits: int, group: int) -> Callable[[torch.Tensor], Packed]:
    def pack(weight: torch.Tensor) -> Packed:
        rows, columns = weight.shape
        groups = weight.float().reshape(rows, -1, group or columns)
        scale = (groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 0.5)).half().float()
        steps = (groups / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        tensors = {
            "weight_packed": words(steps.reshape(rows, columns) + 2 ** (bits - 1), bits),
            "weight_scale": scale.squeeze(-1).half(),
            "weight_shape": torch.tensor([rows, columns]),
        }
        return tensors, (steps * scale).reshape(rows, columns)

    return pack


def asymmetric(weight: torch.Tensor) -> Packed:
    rows, columns = weight.shape
    groups = weight.float().reshape(rows, -1, 64)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / 15).half().float()
    zero = (-low / scale).round().clamp(0, 15)
    codes = (groups / scale + zero).round().clamp(0, 15)
    tensors = {
        "weight_packed": words(codes.reshape(rows, columns), 4),
        "weight_scale": scale.squeeze(-1).half(),
        # Zero points are packed down the outputs.
        "weight_zero_point": words(zero.squeeze(-1).t(), 4).t().contiguous(),
        "weight_shape": torch.tensor([rows, columns]),
    }
    return tensors, ((codes - zero) * scale).reshape(rows, columns)


def fp8(weight: torch.Tensor) -> Packed:
    scale = (weight.float().abs().amax(-1, keepdim=True) / 448).half().float()
    stored = (weight.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
    return {"weight": stored, "weight_scale": scale.half()}, stored.float() * scale


# Name of the format, its weights in config.json, how they are packed, bytes a weight.
FORMATS: dict[str, tuple[str, dict[str, Any], Callable[[torch.Tensor], Packed], float]] = {
    "int4 g64": (
        "pack-quantized",
        {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 64},
        symmetric(4, 64),
        0.5,
    ),
    "int4 g64 with zero points": (
        "pack-quantized",
        {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 64},
        asymmetric,
        0.5,
    ),
    "int8": (
        "pack-quantized",
        {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
        symmetric(8, 0),
        1,
    ),
    "fp8": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"},
        fp8,
        1,
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_values_bytes_and_kernel(
    base: Checkpoint, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    layout, weights, pack, size = FORMATS[name]
    dense = write(base, tmp_path, layout, weights, pack)
    variant = parse_variant(str(tmp_path))
    checkpoint.check(base, variant)
    loaded = checkpoint.load(base.path, variant, "cpu")
    assert not capsys.readouterr().err.strip()
    assert loaded.kernel == f"Linear (float16) unpacked from compressed-tensors {name[:8].strip()}"
    assert not any("proj" in one for one in loaded.kept_16bit)
    sizes = weight_bytes(loaded.model, loaded.formats)
    shapes = 2 * 8 * len(dense) if layout == "pack-quantized" else 0
    assert sizes["packed"] == size * sum(one.numel() for one in dense.values()) + shapes
    assert sum(sizes.values()) == pytest.approx(disk_bytes(tmp_path), rel=0.05)

    exact = plain.load(base.path, parse_variant("fp32"), "cpu").model
    exact.load_state_dict(dense, strict=False)
    scored = for_scoring(loaded, "cpu")
    assert kl_divergence(logits(exact), logits(scored.model)) < 1e-9
    assert "the same weights in float32" in scored.notes[-1]


def test_what_has_run_is_loaded_again_to_be_scored(base: Checkpoint, tmp_path: Path) -> None:
    layout, weights, pack, _ = FORMATS["int4 g64"]
    dense = write(base, tmp_path, layout, weights, pack)
    loaded = checkpoint.load(base.path, parse_variant(str(tmp_path)), "cpu")
    own = logits(loaded.model)
    exact = plain.load(base.path, parse_variant("fp32"), "cpu").model
    exact.load_state_dict(dense, strict=False)
    assert kl_divergence(logits(exact), own) < 1e-4
    assert kl_divergence(logits(exact), logits(for_scoring(loaded, "cpu").model)) < 1e-9


def test_quantized_activations_are_scored_as_they_run(base: Checkpoint, tmp_path: Path) -> None:
    layout, weights, pack, _ = FORMATS["fp8"]
    inputs = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
    write(base, tmp_path, layout, weights, pack, input_activations=inputs)
    loaded = checkpoint.load(base.path, parse_variant(str(tmp_path)), "cpu")
    assert any("own kernels" in note for note in for_scoring(loaded, "cpu").notes)


def write(
    base: Checkpoint,
    out: Path,
    layout: str,
    weights: dict[str, Any],
    pack: Callable[[torch.Tensor], Packed],
    **others: Any,
) -> dict[str, torch.Tensor]:
    """Write the checkpoint; the result is the weights that it stands for."""
    tensors, dense = load_file(base.path / "model.safetensors"), {}
    for name in [name for name in tensors if ".layers." in name and tensors[name].dim() == 2]:
        packed, dense[name] = pack(tensors.pop(name))
        tensors |= {name.replace("weight", key): value for key, value in packed.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    group = {"targets": ["Linear"], "weights": weights, **others}
    made = {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    config = {**base.config, "quantization_config": made}
    (out / "config.json").write_text(json.dumps(config))
    save_tokenizer(out)
    return dense
