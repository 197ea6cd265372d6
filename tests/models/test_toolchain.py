"""What Triton needs is found as Triton finds it."""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path

import pytest

from evalkit.models.toolchain import missing_for_triton


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with triton, gcc and headers; its PATH."""
    programs, headers = tmp_path / "bin", tmp_path / "include"
    for file in (programs / "gcc", programs / "cc-12", headers / "Python.h"):
        file.parent.mkdir(exist_ok=True)
        file.touch(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: str(headers))
    return programs


def test_nothing_is_missing(bin_folder: Path) -> None:
    assert missing_for_triton() is None


def test_each_missing_piece_is_named(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bin_folder / "gcc").unlink()
    assert missing_for_triton() == "a C compiler (gcc)"
    (bin_folder.parent / "include" / "Python.h").unlink()
    assert missing_for_triton() == "a C compiler (gcc) and Python's headers (Python.h)"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert str(missing_for_triton()).startswith("the package triton and")


@pytest.mark.parametrize(("named", "found"), [("cc-12", True), ("no-such-cc", False)])
def test_the_compiler_in_cc_goes_first(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch, named: str, found: bool
) -> None:
    monkeypatch.setitem(os.environ, "CC", named)
    assert (missing_for_triton() is None) == found


def test_debians_scheme_is_not_asked(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders = {"posix_prefix": bin_folder.parent / "include"}
    monkeypatch.setattr(sysconfig, "get_default_scheme", lambda: "posix_local")
    monkeypatch.setattr(
        sysconfig, "get_path", lambda name, scheme: str(folders.get(scheme, tmp_path))
    )
    assert missing_for_triton() is None
