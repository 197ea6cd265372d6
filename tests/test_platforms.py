"""Windows and macOS lack calls of Linux: what evalkit uses of them has another way, or one line."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from evalkit.backends import _artifacts
from evalkit.errors import StoreError, UsageError
from evalkit.metrics import memory
from evalkit.processors import threads
from evalkit.scoring.row_file import Layout, RowFile
from evalkit.serving.http import Address
from evalkit.serving.process import served
from evalkit.store import files

ROOT = Path(__file__).resolve().parents[1] / "evalkit"
# Calls that Windows or macOS lack, or that do something else there (os.kill with 0 sends Ctrl-C).
OS = {
    "fork", "kill", "killpg", "getpgid", "setpgid", "setsid", "getsid", "getuid", "geteuid",
    "getppid", "pread", "preadv", "pwrite", "pwritev", "posix_fallocate", "posix_fadvise",
    "sched_getaffinity", "statvfs", "fstatvfs", "uname", "sysconf", "getloadavg", "nice", "chown",
    "mkfifo", "wait", "waitpid", "sendfile", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "sync",
}  # fmt: skip
SIGNALS = {"SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGSTOP"}
MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog"}
# Those that are used, each where its absence is asked for first. A new one needs a test below.
USED = {
    ("metrics/memory.py", "resource"),
    ("processors.py", "sched_getaffinity"),
    ("running/page_cache.py", "preadv"),
    ("scoring/row_file.py", "posix_fallocate"),
}


def _platform_calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            known = {"os": OS, "signal": SIGNALS}.get(node.value.id, set())
            if node.attr in known:
                yield node.attr
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in {*MODULES, "os", "signal"}:
            names = {alias.name for alias in node.names}
            yield from names & (OS | SIGNALS) or ({node.module} & MODULES)


def test_calls_of_one_platform_are_known() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), call)
        for path in ROOT.rglob("*.py")
        for call in _platform_calls(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == USED


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform without any of them; pytest itself asks for the user, for `tmp_path`."""
    for name in OS - {"getuid"}:
        monkeypatch.delattr(os, name, raising=False)
    for name in MODULES - {"posix"}:
        monkeypatch.setitem(sys.modules, name, None)


def test_processors_are_counted(elsewhere: None) -> None:
    assert threads() == os.cpu_count()


def test_a_file_is_flushed_and_its_directory_is_left_alone(elsewhere: None, tmp_path: Path) -> None:
    opened: list[Path] = []
    real = os.open

    def open_(path: Path, flags: int, *rest: int) -> int:
        assert not Path(path).is_dir(), "Windows cannot open a directory"
        assert flags & os.O_RDWR, "Windows flushes only what is open for writing"
        opened.append(path)
        return real(path, flags, *rest)

    file = tmp_path / "run.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "open", open_)
        files.write_json(file, {"a": 1})
    assert len(opened) == 1 and files.read_json(file) == {"a": 1}


def _row_file(path: Path) -> tuple[RowFile, torch.Tensor]:
    windows: Any = SimpleNamespace(scored=np.array([4, 6]))
    rows = torch.arange(40, dtype=torch.float32).reshape(10, 4)
    layout = Layout("hidden", "float32", 4, 100, 2, 10, "hash", "llama", "")
    return RowFile.create(path, windows, layout), rows


def test_rows_are_written_and_read_at_their_place(
    elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    file, rows = _row_file(tmp_path / "rows.bin")
    file.write(np.array([1]), rows[4:])
    assert file.written() == 1
    file.write(np.array([0]), rows[:4])
    assert file.written() == 2
    file.sync()
    assert torch.equal(file.read(np.array([0, 1])), rows)
    assert torch.equal(file.read(np.array([1])), rows[4:])
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(StoreError, match="10 are free"):
        _row_file(tmp_path / "large.bin")


def test_what_a_dead_process_left_is_removed(
    elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: pid == 22)
    for pid in (11, 22):
        (tmp_path / f".making-{pid}-abc").mkdir()
    _artifacts.remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".making-22-abc"]


@pytest.mark.parametrize(
    ("platform", "counters", "peak"),
    [("win32", {"peak_wset": 7000}, 7000), ("darwin", {}, 9000), ("freebsd", {}, 9000 * 1024)],
)
def test_the_high_water_mark(
    platform: str, counters: dict[str, int], peak: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has its own counter; macOS counts in bytes what others count in kilobytes."""
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=9000))
    monkeypatch.setitem(sys.modules, "resource", None if platform == "win32" else usage)
    monkeypatch.setattr(sys, "platform", platform)
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=1, **counters))
    monkeypatch.setattr(psutil, "Process", lambda: process)
    monkeypatch.setattr(Path, "read_text", _no_file)
    assert memory.high_water_mark() == peak


def _no_file(*_: object, **__: object) -> str:
    raise FileNotFoundError


def test_a_server_is_not_started_and_that_is_said(elsewhere: None, tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"start the server yourself and omit --serve, .* WSL2"),
        served("python -m server", Address("http://127.0.0.1:9"), tmp_path / "log", lambda: None),
    ):
        pass
    with served("", Address("http://127.0.0.1:9"), tmp_path / "log", lambda: None):
        pass
