"""A disk that is full or read-only, a store that is a file, a clock set back: one line each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import evalkit
from evalkit.cli import main

# Runs evalkit with a limit on the size of each file: the write that crosses it fails, as on a
# full disk, and where the number says so only from the n-th file on.
LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from evalkit.cli import main
sys.argv = ["evalkit", *sys.argv[2:]]
main()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_llama(tmp_path_factory.mktemp("disk") / "model")


@pytest.fixture
def words(model: Path, tmp_path: Path) -> list[str]:
    text = tmp_path / "text.txt"
    text.write_text(tiny.documents(1, 8), encoding="utf-8")
    return [
        "compare", "fp32", "fp16", "--model", str(model), "--text", str(text),
        "--out", str(tmp_path / "store"), "--format", "json",
    ]  # fmt: skip


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, timeout=300
    )


def command(words: list[str]) -> int:
    """The exit code of the command, run in this process: its children start without a delay."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, 20_000])
def test_a_write_that_does_not_fit(words: list[str], tmp_path: Path, size: int) -> None:
    line = last_line(run("-c", LIMITED, str(size), *words))
    assert "choose another --out" in line, line
    whole_again(words, tmp_path / "store")


def whole_again(words: list[str], store: Path) -> None:
    """What was written is whole, and with room the command goes on and leaves no half files."""
    for path in store.glob("runs/*.json"):
        evalkit.load_run(path)
    assert command(words) == 0
    assert not [path for path in store.rglob("*") if path.name.startswith(".tmp-")]


def on_a_mount(options: str, store: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """The command with a small file system of its own mounted at `store`."""
    store.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o {options} none {store}"
    if subprocess.run(
        ["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False
    ).returncode:
        pytest.skip("file systems may not be mounted here")
    inner = [sys.executable, "-m", "evalkit", *words]
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *inner],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize(
    "size",
    [
        pytest.param("4k", marks=pytest.mark.slow),
        "100k",
        pytest.param("400k", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk(words: list[str], tmp_path: Path, size: str) -> None:
    line = last_line(on_a_mount(f"size={size}", tmp_path / "store", words))
    # Refused beforehand, or in the middle where more was written than was counted.
    assert "choose another" in line and "--out" in line, line


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_read_only_store(words: list[str], tmp_path: Path) -> None:
    line = last_line(on_a_mount("ro", tmp_path / "store", words))
    assert line.endswith("the file system is read-only; choose another --out")


def test_a_store_that_is_a_file(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").write_text("a file")
    assert command(words) in (1, 2)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert str(tmp_path / "store") in line
    assert (tmp_path / "store").read_text() == "a file"


@pytest.mark.slow
def test_a_clock_set_back(words: list[str], tmp_path: Path) -> None:
    """Claims and files from the future hold nobody up."""
    assert command(words) == 0
    store = tmp_path / "store"
    tomorrow = (store / "evalkit-store.json").stat().st_mtime + 86_400
    for path in store.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    assert command(words) == 0
    runs = sorted((store / "runs").glob("*.json"))
    for path in runs[:2]:
        path.unlink()
    assert command(words) == 0
    assert sorted((store / "runs").glob("*.json")) == runs
    assert evalkit.load_comparison(store=store).rows
