"""A dozen families of architectures: planned, loaded, and as exact as plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from zoo import checks
from zoo.build import build

from evalkit.models.loading import load_causal_lm
from evalkit.scoring import head

FAMILIES = (
    "llama", "gpt2", "opt", "bart", "roberta", "mamba", "jamba", "gemma2", "olmoe", "falcon",
    "bloom", "phi3", "gpt_neox", "starcoder2",
)  # fmt: skip
# Without their kernels they read token by token.
RECURRENT = ("mamba", "jamba")


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in RECURRENT)) for name in FAMILIES],
)
def test_a_family_is_exact(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "WHOLE_TOKENS", 96)
    monkeypatch.setattr(head, "CHUNK_TOKENS", 32)
    path = build(model_type, tmp_path / model_type)
    model = load_causal_lm(path, dtype="float32", device="cpu")
    with torch.inference_mode():
        assert checks.log_likelihoods(path, model) == ""
        assert checks.greedy_tokens(path, model) == ""
        assert checks.long_window(model, 96) == ""


@pytest.mark.slow
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_is_held_whole(model_type: str, tmp_path: Path) -> None:
    found = checks.examine(model_type, tmp_path, whole_tokens=512)
    assert found.state in ("works", "refused"), found
