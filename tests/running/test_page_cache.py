"""Files in the page cache or on the disk, and what loading is timed without."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from evalkit.running.page_cache import page_cache_state, weight_files_of
from evalkit.scoring import device_memory


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name in ("a.safetensors", "b.safetensors", "config.json"):
        (tmp_path / name).write_bytes(bytes(100_000))
    return weight_files_of(tmp_path)


def test_only_weights_are_looked_at(files: list[Path], tmp_path: Path) -> None:
    assert [file.name for file in files] == ["a.safetensors", "b.safetensors"]
    assert weight_files_of(files[0]) == [files[0]]
    assert page_cache_state([]) == "unknown"
    assert page_cache_state([tmp_path / "org/name-on-the-hub"]) == "unknown"


@pytest.mark.parametrize(
    ("cold", "state"),
    [(set(), "warm"), ({"a", "b"}, "cold"), ({"a"}, "partly cold")],
)
def test_the_system_says_what_is_in_memory(
    cold: set[str], state: str, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: dict[int, str] = {}
    opener = os.open

    def watched(path: Any, *rest: Any) -> int:
        handle = opener(path, *rest)
        opened[handle] = Path(path).stem
        return handle

    def preadv(handle: int, buffers: Any, offset: int, flags: int) -> int:
        assert flags == 8
        if opened[handle] in cold:
            raise BlockingIOError
        return 1

    monkeypatch.setattr(os, "RWF_NOWAIT", 8, raising=False)
    monkeypatch.setattr(os, "open", watched)
    monkeypatch.setattr(os, "preadv", preadv, raising=False)
    assert page_cache_state(files) == state


def test_a_system_that_does_not_say(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "RWF_NOWAIT", 8, raising=False)
    monkeypatch.setattr(os, "preadv", refuse, raising=False)
    assert page_cache_state(files) == "unknown"
    monkeypatch.delattr(os, "RWF_NOWAIT")
    assert page_cache_state(files) == "unknown"


def test_the_context_is_made_on_the_card_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    monkeypatch.setattr(torch, "zeros", lambda *_, device: done.append(("zeros", device)))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append(("wait", device)))
    device_memory.begin_context("cpu")
    device_memory.wait_for("cpu")
    assert not done
    device_memory.begin_context("cuda:1")
    assert done == [("zeros", "cuda:1"), ("wait", "cuda:1")]
