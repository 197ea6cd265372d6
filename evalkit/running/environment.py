"""Which machine, device and libraries: what makes two speeds comparable. No torch import."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

import psutil

from evalkit.processors import threads
from evalkit.records import Environment, content_hash
from evalkit.running.gpus import gpu_of, gpus

# What every variant runs on, and what single backends need.
SHARED_PACKAGES = ("torch", "transformers", "lm_eval", "numpy")
PACKAGES = (*SHARED_PACKAGES, "bitsandbytes", "gptqmodel", "torchao", "compressed-tensors")


def gpu_names() -> tuple[str, ...]:
    """Names of the GPUs that CUDA_VISIBLE_DEVICES shows; empty where there is no driver."""
    return tuple(gpu.name for gpu in gpus())


def gpu_memory(device: str = "cuda") -> int:
    """Bytes of memory of the GPU called "cuda", "cuda:N" or by its word; 0 where there is none."""
    gpu = gpu_of(device)
    return gpu.memory if gpu else 0


@cache
def processor_name() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


class Load:
    """What other processes took of the processors since this was made."""

    def __init__(self) -> None:
        self._begun, self._busy = time.perf_counter(), self._seconds_of_others()

    def others(self) -> float:
        """Processors that other processes kept busy, on average."""
        seconds = max(time.perf_counter() - self._begun, 1e-3)
        return max(0.0, (self._seconds_of_others() - self._busy) / seconds)

    def disturbed(self) -> bool:
        """Whether they left this process less than three quarters of what it may use."""
        free = (psutil.cpu_count() or threads()) - self.others()
        return free < 0.75 * threads()

    def notes(self) -> tuple[str, ...]:
        """What to say of a speed that was measured since then: nothing of a quiet machine."""
        if not self.disturbed():
            return ()
        return (
            f"other processes kept {self.others():.1f} processors busy while speed was measured:"
            " take it again on a quiet machine with --fresh",
        )

    @staticmethod
    def _seconds_of_others() -> float:
        times = psutil.cpu_times()
        waiting = times.idle + getattr(times, "iowait", 0.0)
        # Guests are counted as user time already.
        counted_twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        return float(sum(times) - waiting - counted_twice - time.process_time())


def machine(device: str) -> str:
    """Name and hash of what speed depends on: processor, threads, memory and the GPU `device`."""
    gigabytes = round(psutil.virtual_memory().total / 2**30)
    parts = [processor_name(), f"{threads()} threads", f"{gigabytes} GB"]
    if (gpu := gpu_of(device)) is not None:
        parts.append(gpu.name)
    name = ", ".join(parts)
    return f"{name} [{content_hash(name, 8)}]"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed versions of those of the packages that are installed."""
    found: dict[str, str] = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def environment(device: str) -> Environment:
    """The environment of runs made now on `device`."""
    return Environment(
        machine=machine(device),
        device=device.partition(":")[0],
        threads=threads(),
        python=platform.python_version(),
        platform=platform.platform(),
        packages=versions(PACKAGES),
    )
