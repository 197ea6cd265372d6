"""Memory of the device a model runs on: what is free, what a computation takes, what goes there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class DeviceMemory:
    """Memory of one GPU as torch's allocator hands it out, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def free(self) -> int:
        """What tensors can still take: all that the driver has, and what torch keeps unused."""
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(torch.cuda.mem_get_info(self.device)[0]) + unused

    def peak(self, run: Callable[[], object]) -> int:
        """What `run` takes at most beside what was held before; its result is dropped."""
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        return int(torch.cuda.max_memory_allocated(self.device)) - before


def memory_of(device: torch.device) -> DeviceMemory | None:
    """The memory of a GPU; None for a CPU, whose system gives what is asked for and then swaps."""
    return DeviceMemory(device) if device.type == "cuda" else None


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """`host` on `device`; a GPU takes it from pinned memory, so that nobody waits for the copy."""
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def begin_context(device: str) -> None:
    """Make the CUDA context of `device`, a second or so that every process pays once."""
    if device != "cpu":
        torch.zeros(1, device=device)
        wait_for(device)


def wait_for(device: str) -> None:
    """Return when a GPU has done all that it was given; a CPU always has."""
    if device != "cpu":
        torch.cuda.synchronize(device)
