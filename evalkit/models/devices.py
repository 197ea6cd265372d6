"""Which device a run uses: the words of `--device` to a torch device, never a silent fallback."""

from __future__ import annotations

import re

import torch

from evalkit.errors import UsageError, did_you_mean

_WORDS = ("auto", "cpu", "cuda")


def resolve_device(device: str) -> str:
    """`device` as "cpu", "cuda" or "cuda:N"; "auto" is CUDA where a GPU can be used, else CPU.

    Raises UsageError for another word, for "cuda" without a usable GPU and for a GPU number
    that is not there.
    """
    words = device.strip().lower()
    if words == "auto":
        return "cuda" if _gpus() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", words):
        raise UsageError(
            f"unknown device {device!r}: allowed are auto, cpu, cuda, cuda:N"
            f"{did_you_mean(words, _WORDS)}"
        )
    if words != "cpu":
        _check_cuda(words)
    return words


def _gpus() -> int:
    """GPUs that torch could use, as the driver reports them.

    torch.cuda.is_available() would initialise CUDA, and the command asks this before the process
    that measures has begun.
    """
    return torch.cuda.device_count()


def _check_cuda(device: str) -> None:
    count = _gpus()
    if not count:
        why = (
            f"torch {torch.__version__} is built without CUDA"
            if torch.version.cuda is None
            else "torch finds no usable NVIDIA GPU or driver"
        )
        raise UsageError(f"no CUDA for --device {device}: {why}; use --device cpu")
    number = int(device.partition(":")[2] or 0)
    if number >= count:
        raise UsageError(
            f"no GPU number {number} for --device {device}: this machine has {count} "
            f"(cuda:0 to cuda:{count - 1})"
        )
