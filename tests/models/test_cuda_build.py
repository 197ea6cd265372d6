"""What this machine lacks to compile for a card: a folder of stand-ins is all the machine has."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from evalkit.models.cuda_build import HEADERS, capability, install_line, missing_for_cuda_build


class Machine:
    """A machine that has what was put into it, with a torch of CUDA 13.0."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "cuda"
        (self.home / "bin").mkdir(parents=True)
        self.tools = folder / "tools"
        self.tools.mkdir()

    def tool(self, name: str) -> None:
        self._program(self.tools / name, "")

    def nvcc(self, release: str) -> None:
        said = f"Cuda compilation tools, release {release}, V{release}.88"
        self._program(self.home / "bin" / "nvcc", f"echo '{said}'")

    def headers(self, folder: Path, *but: str) -> None:
        folder.mkdir(parents=True)
        for name in set(HEADERS) - set(but):
            (folder / name).touch()

    @staticmethod
    def _program(path: Path, line: str) -> None:
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("PATH", f"{made.tools}")
    monkeypatch.setenv("CUDA_HOME", str(made.home))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return made


def whole(machine: Machine) -> None:
    machine.tool("g++")
    machine.tool("ninja")
    machine.nvcc("13.0")
    machine.headers(machine.home / "include")


def test_a_whole_machine(machine: Machine) -> None:
    whole(machine)
    assert missing_for_cuda_build() is None
    machine.nvcc("13.2")
    assert missing_for_cuda_build() is None


def test_a_bare_machine(machine: Machine) -> None:
    missing = missing_for_cuda_build()
    assert missing == ("g++ and ninja and nvcc of CUDA 13 and CUDA's headers (cuda_runtime_api.h)")
    assert install_line(missing) == (
        "sudo apt install g++ && pip install ninja && sudo apt install cuda-toolkit-13-0"
    )


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda machine: (machine.tools / "ninja").unlink(), "ninja"),
        (lambda machine: (machine.tools / "g++").unlink(), "g++"),
        (lambda machine: machine.nvcc("12.4"), "nvcc of CUDA 13 (found 12.4)"),
        (
            lambda machine: (machine.home / "include" / "cusparse.h").unlink(),
            "CUDA's headers (cusparse.h)",
        ),
    ],
)
def test_one_thing_is_missing(
    machine: Machine, change: Callable[[Machine], object], missing: str
) -> None:
    whole(machine)
    change(machine)
    assert missing_for_cuda_build() == missing


def test_headers_of_torchs_own_packages_do(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.tool("g++")
    machine.tool("ninja")
    machine.nvcc("13.0")
    machine.headers(tmp_path / "nvidia" / "cu13" / "include")
    spec = importlib.util.spec_from_loader("nvidia", None, is_package=True)
    assert spec is not None and spec.submodule_search_locations is not None
    spec.submodule_search_locations.append(str(tmp_path / "nvidia"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert missing_for_cuda_build() is None


def test_the_compiler_is_looked_for_where_torch_looks(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(machine)
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setenv("PATH", f"{machine.tools}:{machine.home / 'bin'}")
    assert missing_for_cuda_build() is None


def test_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(device: str) -> tuple[int, int]:
        asked.append(device)
        return 8, 9

    monkeypatch.setattr(torch.cuda, "get_device_capability", answer)
    assert capability("cpu") is None
    assert capability("cuda:1") == (8, 9)
    assert asked == ["cuda:1"]
