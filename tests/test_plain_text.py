"""A terminal or pipe in ASCII or a code page loses nothing: what it lacks comes in plain signs."""

from __future__ import annotations

import io
import sys

import pytest
from view.comparisons import comparison

from evalkit import cli
from evalkit.plain_text import clean_block, use_plain_signs
from evalkit.progress import Event, live
from evalkit.view import render, show

ENCODINGS = pytest.mark.parametrize("encoding", ["ascii", "cp1252"])


def streams(encoding: str, monkeypatch: pytest.MonkeyPatch) -> list[io.BytesIO]:
    """What is written to stdout and stderr of that encoding from now on."""
    written = [io.BytesIO(), io.BytesIO()]
    for name, file in zip(("stdout", "stderr"), written, strict=True):
        stream = io.TextIOWrapper(file, encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, name, stream)
    use_plain_signs(sys.stdout, sys.stderr)
    return written


def said(file: io.BytesIO) -> str:
    return file.getvalue().decode("cp1252")


@ENCODINGS
def test_a_whole_table_is_written(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = streams(encoding, monkeypatch)
    show(comparison())
    text = said(out)
    assert "3.69 +- 0.12" in text or "3.69 ± 0.12" in text
    assert "- 0.41 [-1.03, 0.21]" in text
    assert "/ 1.8" in text or "÷ 1.8" in text
    assert "results: /home/someone/.cache/evalkit" in text


@ENCODINGS
@pytest.mark.parametrize("form", ["markdown", "csv", "json"])
def test_other_formats_are_written(
    form: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = streams(encoding, monkeypatch)
    show(comparison(), form)
    wanted = render(comparison(), form).rstrip("\n").splitlines()
    assert len(said(out).rstrip("\n").splitlines()) == len(wanted)


@ENCODINGS
def test_progress_and_errors_are_written(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, err = streams(encoding, monkeypatch)
    with live(show=True) as listener:
        listener(Event("int4 ± 中", "scoring → text", 1, 2, "tokens"))
        listener(Event("int4", "", message="KL ≥ 0.1 in 東京"))
    with pytest.raises(SystemExit):
        cli.main(["list", "modèles 東"])
    text = said(err)
    assert "KL >= 0.1 in \\u6771\\u4eac" in text
    assert "\\u6771" in text.splitlines()[-1]


def test_the_command_sees_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    print("± 1")
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue().endswith(b"+- 1\n")  # type: ignore[attr-defined]


def test_a_block_keeps_its_lines_and_loses_what_could_disguise_it() -> None:
    hostile = "def f():\r\n\treturn\x1b[31m 1 \u202eabc\x07\ud800 \u05e9"
    assert clean_block(hostile) == "def f():\n\treturn 1 abc   \u05e9"
