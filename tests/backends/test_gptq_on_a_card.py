"""GPTQ on a card that is not there: the card and dtype asked for, and what is settled before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_checkpoints import calibration

from evalkit import plugins
from evalkit.backends import (
    _artifacts,
    _gptqmodel_kernels,
    _gptqmodel_quantize,
    gptq,
    parse_variant,
)
from evalkit.backends._artifacts import Calibration, artifact_name, write_checkpoint
from evalkit.backends._gptqmodel import import_quietly
from evalkit.errors import VariantError
from evalkit.models import cuda_build
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.resolve import resolve_model
from evalkit.progress import Event

SAMPLES = Calibration(calibration(2, 32), "text-1")


@pytest.fixture(scope="module")
def checkpoint(llama: Path) -> Checkpoint:
    return resolve_model(str(llama))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What GPTQModel is asked for; it stops there."""
    found: dict[str, Any] = {}

    def config(**settings: Any) -> Any:
        found["config"] = settings
        return settings

    def load(source: str, settings: Any, **options: Any) -> Any:
        found["load"] = options
        raise OSError("reached")

    library = SimpleNamespace(QuantizeConfig=config, GPTQModel=SimpleNamespace(load=load))
    monkeypatch.setattr(_gptqmodel_quantize, "import_quietly", lambda: library)
    monkeypatch.setattr(_gptqmodel_quantize, "_check_written", lambda *_: None)
    return found


@pytest.mark.parametrize(
    ("device", "words", "dtype"),
    [
        ("cuda", "int4", torch.float16),
        ("cuda:1", "int4,dtype=bf16", torch.bfloat16),
        ("cpu", "int4,dtype=bf16", torch.float32),
    ],
)
def test_the_card_and_the_dtype_asked_for(
    asked: dict[str, Any],
    llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    words: str,
    dtype: torch.dtype,
) -> None:
    current: list[str] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    with pytest.raises(OSError, match="reached"):
        gptq.quantize(llama, parse_variant(words), tmp_path, device, calibration(2))
    assert current == ([device] if device == "cuda:1" else [])
    # A device that is given to both is refused by the library.
    assert "device" not in asked["load"]
    assert asked["config"]["device"] == device.partition(":")[0]
    assert asked["load"]["dtype"] == dtype
    only = asked["config"]["compute_device_filter"]
    cards = [torch.device("cuda:0"), torch.device("cuda:1")]
    if device == "cpu":
        assert only is None
    else:
        assert only(cards) == [cards[1 if device == "cuda:1" else 0]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("int4", {"gptaq": None, "foem": None, "mse": 0.0, "act_group_aware": True}),
        ("int4,method=gptaq", {"gptaq": {}, "foem": None, "act_group_aware": False}),
        ("int4,method=foem,mse=2.4", {"gptaq": None, "foem": {}, "mse": 2.4}),
        ("int3@rtn,sym=false", {"bits": 3, "sym": False, "weight_only": {"method": "rtn"}}),
        ("int4@awq,group_size=64", {"method": "awq", "format": "gemm", "sym": False}),
    ],
)
def test_each_method_is_asked_for_by_the_librarys_words(
    asked: dict[str, Any], llama: Path, tmp_path: Path, words: str, expected: dict[str, Any]
) -> None:
    variant = parse_variant(words)
    backend = plugins.load("backends", variant.backend)
    with pytest.raises(OSError, match="reached"):
        backend.quantize(llama, variant, tmp_path, "cpu", calibration(2))
    assert expected.items() <= asked["config"].items()
    import_quietly()
    from gptqmodel import QuantizeConfig

    made = QuantizeConfig(**asked["config"])
    assert made.bits == int(words[3]) and made.format == ("gemm" if "awq" in words else "gptq")
    assert made.uses_weight_only_lifecycle() == ("rtn" in words)
    if "gptq" in variant.backend:
        assert (made.gptaq is not None, made.foem is not None) == (
            "gptaq" in words,
            "foem" in words,
        )


def test_each_method_is_another_artifact(checkpoint: Checkpoint) -> None:
    words = ["int4", "int4,method=gptaq", "int4,method=foem", "int4,mse=2.4", "int4@rtn"]
    assert len({artifact_name(checkpoint, parse_variant(word)) for word in words}) == len(words)


@pytest.fixture
def ada(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A card of capability 8.9 without nvcc, where quantizing is only noted."""
    begun: list[str] = []
    monkeypatch.setenv("GPTQMODEL_TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(cuda_build, "capability", lambda device: (8, 9))
    monkeypatch.setattr(_gptqmodel_kernels, "missing_for_cuda_build", lambda: "nvcc")
    monkeypatch.setattr(_gptqmodel_kernels, "missing_for_triton", lambda: None)
    monkeypatch.setattr(gptq, "prepare", lambda: None)

    def quantize(source: Path, *_: Any, **__: Any) -> None:
        begun.append(source.name)

    monkeypatch.setattr(gptq, "quantize", quantize)
    return begun


def test_the_kernel_is_settled_before_anything_is_quantized(
    ada: list[str], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    def made(words: str, events: list[Event]) -> None:
        write_checkpoint(
            tmp_path / words, checkpoint, parse_variant(words), "cuda", SAMPLES,
            listener=events.append,
        )  # fmt: skip

    events: list[Event] = []
    with pytest.raises(VariantError, match=r"kernel=marlin cannot run .* needs nvcc"):
        made("int4,kernel=marlin", events)
    assert not ada and not events
    made("int4", events)
    assert ada
    assert [event.message for event in events] == [
        "TritonV2Linear: MarlinLinear is faster, but it is compiled first, which needs nvcc; to"
        " mend it: sudo apt install cuda-toolkit"
    ]


def test_an_artifact_of_another_kind_of_device_is_another(checkpoint: Checkpoint) -> None:
    variant = parse_variant("int4")
    name = artifact_name(checkpoint, variant)
    assert name == artifact_name(checkpoint, variant, device="cpu")
    assert name != artifact_name(checkpoint, variant, device="cuda")
    assert artifact_name(checkpoint, variant, device="cuda") == artifact_name(
        checkpoint, variant, device="cuda:1"
    )
    # What runs a checkpoint is nothing of the checkpoint's.
    assert name == artifact_name(checkpoint, parse_variant("int4,kernel=triton"))


@pytest.mark.parametrize(
    ("words", "device", "dtype"),
    [
        ("int4", "cpu", "float32"),
        ("int4", "cuda", "float16"),
        ("int4,dtype=bf16", "cuda", "bfloat16"),
        ("int4@rtn", "cpu", "float32"),
        ("int4@awq", "cpu", "float16"),
        ("int8", "cpu", "float16"),
    ],
)
def test_the_dtype_is_named_in_the_artifact(words: str, device: str, dtype: str) -> None:
    assert _artifacts._arithmetic(parse_variant(words), device) == dtype
