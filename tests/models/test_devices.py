"""Words for devices; asking for a GPU that is not there never means the CPU."""

from __future__ import annotations

import pytest
import torch

from evalkit.errors import UsageError
from evalkit.models.devices import resolve_device


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    def initialises_cuda() -> bool:
        raise AssertionError("the command asks the driver's list, before any process measures")

    monkeypatch.setattr(torch.cuda, "is_available", initialises_cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


@pytest.mark.parametrize("gpus", [0], indirect=True)
def test_without_a_gpu(gpus: None) -> None:
    assert resolve_device("auto") == "cpu"
    assert resolve_device(" CPU ") == "cpu"
    with pytest.raises(UsageError, match=r"no CUDA for --device cuda: .*use --device cpu"):
        resolve_device("cuda")


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_with_two_gpus(gpus: None) -> None:
    assert resolve_device("auto") == "cuda"
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(UsageError, match=r"no GPU number 2 .*has 2 \(cuda:0 to cuda:1\)"):
        resolve_device("cuda:2")


def test_without_cuda_in_torch_or_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UsageError, match="built without CUDA"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    with pytest.raises(UsageError, match="no usable NVIDIA GPU or driver"):
        resolve_device("cuda")


@pytest.mark.parametrize("word", ["gpu", "cdua", "cuda:", "cuda:x", "", "cpu:0"])
def test_other_words(word: str) -> None:
    with pytest.raises(UsageError, match="unknown device") as caught:
        resolve_device(word)
    assert "cuda:N" in str(caught.value)
    if word == "cdua":
        assert "did you mean 'cuda'" in str(caught.value)
