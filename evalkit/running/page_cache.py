"""Whether files are read from memory or from the disk, from where loading takes far longer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

State = Literal["warm", "partly cold", "cold", "unknown"]
_SAMPLES = 64
_ALL = 0.95
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


def page_cache_state(files: Iterable[Path]) -> State:
    """Whether `files` are in the system's page cache now; "unknown" where it does not tell.

    Bytes spread over each file are asked for with RWF_NOWAIT (Linux), which does not wait for a
    disk and reads nothing ahead.
    """
    if not hasattr(os, "RWF_NOWAIT"):
        return "unknown"
    answers: list[bool] = []
    try:
        for file in files:
            answers += _answers(file)
    except OSError:
        return "unknown"
    if not answers:
        return "unknown"
    share = sum(answers) / len(answers)
    return "warm" if share >= _ALL else "cold" if share <= 1 - _ALL else "partly cold"


def weight_files_of(checkpoint: Path) -> list[Path]:
    """The files of weights in a directory, or the one file that `checkpoint` is."""
    if not checkpoint.is_dir():
        return [checkpoint]
    return sorted(file for file in checkpoint.iterdir() if file.suffix in _WEIGHTS)


def _answers(file: Path) -> list[bool]:
    """For evenly spread bytes of `file`, whether each is in memory."""
    found, byte = [], bytearray(1)
    handle = os.open(file, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size
        for offset in range(0, size, max(1, size // _SAMPLES)):
            try:
                found.append(os.preadv(handle, [byte], offset, os.RWF_NOWAIT) == 1)
            except BlockingIOError:
                found.append(False)
    finally:
        os.close(handle)
    return found
