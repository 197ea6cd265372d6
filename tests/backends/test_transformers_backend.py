"""The unquantized variants."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_checkpoints import kl_divergence, logits

from evalkit.backends import parse_variant
from evalkit.backends import transformers as plain
from evalkit.errors import VariantError
from evalkit.models.checkpoint import Checkpoint


@pytest.mark.parametrize(
    ("text", "dtype"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")]
)
@pytest.mark.parametrize("name", ["llama", "phi"])
def test_each_precision(name: str, text: str, dtype: str, request: pytest.FixtureRequest) -> None:
    source: Path = request.getfixturevalue(name)
    loaded = plain.load(source, parse_variant(text), "cpu")
    assert loaded.kernel == f"Linear ({dtype})"
    assert loaded.kept_16bit == ()
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}
    reference = logits(plain.load(source, parse_variant("fp32"), "cpu").model)
    assert kl_divergence(reference, logits(loaded.model)) < 1e-3


def test_a_quantized_checkpoint_has_no_full_weights() -> None:
    config = {"quantization_config": {"quant_method": "gptq"}}
    checkpoint = Checkpoint("x", Path("some/dir"), config, "", ())
    with pytest.raises(VariantError, match=r"some/dir is already quantized \(gptq\).*--model"):
        plain.check(checkpoint, parse_variant("fp16"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_cuda(phi: Path) -> None:
    loaded = plain.load(phi, parse_variant("fp16"), "cuda")
    assert {p.device.type for p in loaded.model.parameters()} == {"cuda"}
