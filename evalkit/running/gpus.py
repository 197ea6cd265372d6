"""The GPUs that a command may use, and the words of `--device`, without touching CUDA.

The command asks NVML, which needs no CUDA context. Where NVML is missing (containers without the
utility capability, ROCm, Jetson) torch is asked in a process of its own. Cards are counted as
nvidia-smi and schedulers count them, in the order of the PCI bus; `cuda:N` is the N-th of those
that CUDA_VISIBLE_DEVICES shows. The process that measures is shown this card alone (see
`evalkit.running.process`), so it is the same one for every library.
"""

from __future__ import annotations

import ctypes
import os
import re
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError, did_you_mean
from evalkit.progress import Listener, ignore
from evalkit.running.process import VISIBLE, run_child

_WORDS = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of one.

    `word` in CUDA_VISIBLE_DEVICES shows it alone: its UUID, or its number where NVML is missing.
    `memory` and `free` are bytes, `capability` is CUDA's, such as (8, 9).
    """

    name: str
    word: str
    memory: int
    free: int
    capability: tuple[int, int]


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES shows, in the order of cuda:0, cuda:1 and so on."""
    cards = _from_nvml()
    if cards:
        return _visible(cards)
    return _from_torch(os.environ.get(VISIBLE)) if _has_driver() else ()


def gpu_of(device: str) -> Gpu | None:
    """The GPU called "cuda", "cuda:N" or by its word; None for "cpu" and where it is not there."""
    if device == "cpu":
        return None
    found = gpus()
    if named := [gpu for gpu in found if gpu.word == device]:
        return named[0]
    number = _number(device)
    return found[number] if number < len(found) else None


def nvml_word(device: str) -> str:
    """The word NVML knows the card `device` by; "" where NVML does not know it.

    No process is started for it, so this may be asked in the one that measures.
    """
    found = _visible(_from_nvml())
    number = _number(device)
    return found[number].word if number < len(found) else ""


def resolve_device(asked: str) -> str:
    """ "auto", "cpu", "cuda" or "cuda:N" as a device; "auto" is CUDA where a GPU can be used.

    torch is not imported. Raises UsageError for another word, for CUDA that cannot be used and for
    a GPU number that is not there.
    """
    words = asked.strip().lower()
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", words):
        raise UsageError(
            f"unknown device {asked!r}: allowed are auto, cpu, cuda, cuda:N"
            f"{did_you_mean(words, _WORDS)}"
        )
    if words == "cpu":
        return words
    count = len(gpus()) if _builds() else 0
    if words == "auto":
        return "cuda" if count else "cpu"
    if not count:
        raise UsageError(f"no CUDA for --device {words}: {_why_none()}; use --device cpu")
    if _number(words) >= count:
        raise UsageError(
            f"no GPU number {_number(words)} for --device {words}: this machine has {count} "
            f"(cuda:0 to cuda:{count - 1})"
        )
    return words


def unused_gpu(device: str) -> str:
    """The line that says why `device` is the CPU on a machine with a GPU; "" elsewhere."""
    if device != "cpu" or _builds() or not (found := gpus()):
        return ""
    return f"Device: the CPU, as {_why_none()}; {found[0].name} is not used."


def driver_versions() -> tuple[str, str]:
    """Version of the driver and the CUDA it runs at most, as NVML tells them; "" without NVML."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return "", ""
    try:
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion())
        return str(pynvml.nvmlSystemGetDriverVersion()), f"{cuda // 1000}.{cuda % 1000 // 10}"
    except pynvml.NVMLError:
        return "", ""
    finally:
        pynvml.nvmlShutdown()


def torch_build() -> tuple[str, str]:
    """Version of the installed torch, and the CUDA that it is built for; "" for a CPU build."""
    found = _torch_version()
    return str(found.get("__version__", "")), str(found.get("cuda") or "")


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _why_none() -> str:
    if not _builds():
        return f"torch {_torch_version().get('__version__', '')} is built without CUDA"
    return "torch finds no usable GPU or driver"


def _from_nvml() -> tuple[tuple[Gpu, ...], ...]:
    """Each card of the driver as what it offers: itself, or its MIG slices; () without NVML."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        cards = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return tuple(
            tuple(_described(pynvml, part, card) for part in _parts(pynvml, card)) for card in cards
        )
    except pynvml.NVMLError:
        # Cards that share the machine's memory (Jetson) tell NVML of none: torch knows.
        return ()
    finally:
        pynvml.nvmlShutdown()


def _parts(nvml: Any, card: Any) -> list[Any]:
    """The MIG slices of a card that is cut into such, else the card."""
    try:
        is_cut, _ = nvml.nvmlDeviceGetMigMode(card)
        places = nvml.nvmlDeviceGetMaxMigDeviceCount(card) if is_cut else 0
    except nvml.NVMLError:
        return [card]
    if not is_cut:
        return [card]
    found = []
    for place in range(places):
        try:
            found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place))
        except nvml.NVMLError:
            # Not every place holds a slice.
            continue
    return found


def _described(nvml: Any, part: Any, card: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(part)
    return Gpu(
        name=str(nvml.nvmlDeviceGetName(part)),
        word=str(nvml.nvmlDeviceGetUUID(part)),
        memory=int(memory.total),
        free=int(memory.free),
        capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(card)),
    )


def _visible(cards: Sequence[tuple[Gpu, ...]]) -> tuple[Gpu, ...]:
    """What CUDA_VISIBLE_DEVICES shows of `cards`: numbers, UUIDs, their beginnings, MIG names."""
    every = tuple(gpu for card in cards for gpu in card)
    words = os.environ.get(VISIBLE)
    if words is None:
        return every
    found = []
    for word in (word.strip() for word in words.split(",")):
        if word.isdigit():
            named = cards[int(word)] if int(word) < len(cards) else ()
        else:
            named = tuple(gpu for gpu in every if word and gpu.word.startswith(word))
        if not named:
            # CUDA leaves out whatever stands behind a word that names no card.
            break
        found.append(named[0])
    return tuple(found)


@cache
def _from_torch(visible: str | None) -> tuple[Gpu, ...]:
    found: tuple[Gpu, ...] = run_child(_ask_torch, visible, ignore)
    return found


def _ask_torch(visible: str | None, send: Listener) -> tuple[Gpu, ...]:
    """In a child: the GPUs as torch counts them under CUDA_VISIBLE_DEVICES=`visible`."""
    import torch

    words = None if visible is None else [word.strip() for word in visible.split(",")]
    found = []
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        free, _ = torch.cuda.mem_get_info(number)
        word = str(number) if words is None else words[number]
        capability = (card.major, card.minor)
        found.append(Gpu(card.name, word, int(card.total_memory), int(free), capability))
    return tuple(found)


@cache
def _torch_version() -> dict[str, Any]:
    """What torch/version.py says of the installed build; importing torch would take seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    return runpy.run_path(str(Path(spec.origin).with_name("version.py")))


def _builds() -> bool:
    """Whether the installed torch is built for CUDA or ROCm."""
    return bool(_torch_version().get("cuda") or _torch_version().get("hip"))


def _has_driver() -> bool:
    """Whether a driver that torch could use is there; its library is found, not started."""
    if not _builds():
        return False
    if _torch_version().get("hip"):
        return Path("/dev/kfd").exists()
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
