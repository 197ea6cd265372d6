"""Peak memory of loading, one prefill and a short decode at batch 1."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evalkit.analysis.gate import BYTES, Limit
from evalkit.metrics._spec import Probe, ProbeMetric
from evalkit.records import Column, Measurement

PEAK_MEMORY = ProbeMetric(
    name="peak_memory_bytes",
    unit="bytes",
    direction="lower",
    version=5,
    definition="The largest of three peaks: of loading, of one prefill and of a short decode at"
    " batch 1; checks of the weights between them do not count. CUDA: bytes allocated by torch."
    " CPU: resident high-water mark of the variant's own process above its level before loading,"
    " with all libraries resident before and, for prefill and decode, blocks above 128 KiB going"
    " back to the system when they are free.",
    topic="memory",
)
SPECS = (PEAK_MEMORY,)
COLUMNS = (Column(PEAK_MEMORY.name, "peak", "size", measured_on="model", place=20, importance=80),)
LIMITS = (Limit("max_memory", PEAK_MEMORY.name, "8GB", "Peak memory.", units=BYTES),)
DECODE_TOKENS = 8
# mallopt(3): parameters, and the thresholds of separate mappings.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_SMALL, _LARGEST = 2**17, 2**25
_MADV_POPULATE_READ = 22


def measure(probe: Probe) -> list[Measurement]:
    """Run one prefill and a short decode; the largest peak of these and of loading counts."""
    from evalkit.inference.engines import Eager
    from evalkit.inference.timing import generation_lengths, random_prompts

    probe.check_runs_here()
    meter = PeakMeter(probe.device, probe.resident_before)
    prompt, generate = generation_lengths(probe.model, probe.protocol.prompt, DECODE_TOKENS)
    ids = random_prompts(probe.model, 1, prompt)
    measured = phase_peaks(meter, Eager(probe.model), ids, generate)
    phases = {"load": probe.load_peaks, **measured}
    counter = next(iter(phases["prefill"]))
    largest = max(peaks.get(counter, 0.0) for peaks in phases.values())
    on_cpu = probe.device == "cpu"
    convention = "resident set above the level before loading" if on_cpu else "CUDA allocated"
    return [PEAK_MEMORY.measured((largest,), convention, **named(phases))]


def phase_peaks(meter: PeakMeter, engine: Any, ids: Any, steps: int) -> dict[str, dict[str, float]]:
    """Peaks in bytes of a prefill of `ids` (batch, length) and of `steps` decode steps behind it.

    By phase and counter; untimed.
    """
    from evalkit.inference.timing import time_prefill, time_steps

    with unfragmented():
        meter.reset()
        _, tokens = time_prefill(engine, ids)
        prefill = meter.peaks()
        meter.reset()
        time_steps(engine, tokens, steps)
        return {"prefill": prefill, "decode": meter.peaks()}


def named(phases: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Peaks by phase and counter in one word each: "prefill allocated"."""
    return {f"{phase} {name}": peak for phase, own in phases.items() for name, peak in own.items()}


@contextlib.contextmanager
def unfragmented() -> Iterator[None]:
    """Let large blocks go back to the system as soon as they are free, while the block runs.

    The C library keeps freed blocks below 32 MiB for later ones of other sizes; the resident set
    then holds up to 2.5 times what is in use, by the accident of their order. What a model needs
    is seen without that. It takes time, so nothing is timed meanwhile.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.malloc_trim(0)
    libc.mallopt(_M_MMAP_THRESHOLD, _SMALL)
    try:
        yield
    finally:
        # Where the C library itself ends up after a few large blocks.
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST)


class PeakMeter:
    """Peaks of memory since the last `reset`, in bytes.

    On CUDA what torch allocated and reserved; on a CPU the resident set of this process above
    `resident_before`.
    """

    def __init__(self, device: str, resident_before: int) -> None:
        self.device, self.resident_before = device, resident_before

    def reset(self) -> None:
        """Begin anew: from now on the peak is what is held now, or more."""
        if self.device != "cpu":
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with contextlib.suppress(OSError):
            # Linux: 5 sets the high-water mark to the resident set (proc(5), clear_refs).
            Path("/proc/self/clear_refs").write_text("5")

    def main(self) -> float:
        """The peak that tables show: CUDA allocated, or resident."""
        return next(iter(self.peaks().values()))

    def peaks(self) -> dict[str, float]:
        """Peaks by the name of their counter."""
        if self.device == "cpu":
            return {"resident": float(high_water_mark() - self.resident_before)}
        import torch

        free, total = torch.cuda.mem_get_info(self.device)
        return {
            "allocated": float(torch.cuda.max_memory_allocated(self.device)),
            "reserved": float(torch.cuda.max_memory_reserved(self.device)),
            "used": float(total - free),
        }


def level_before_loading(device: str) -> int:
    """Resident set of this process, in bytes, with the loaded libraries in it; 0 but on a CPU.

    Code counts as resident when it first runs: 10 to 30 MB that are no part of the model, more in
    a forked process. So all of it is made resident before. Linux; elsewhere it counts as it comes.
    """
    if device != "cpu":
        return 0
    if sys.platform.startswith("linux"):
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, access, *_, path = f"{line} ".split(" ", 5)
            # CUDA's libraries are gigabytes, and nothing of them runs where this level is asked.
            if access.startswith("r-") and ".so" in path and "cuda" not in path.lower():
                begin, end = (int(address, 16) for address in span.split("-"))
                madvise(begin, end - begin, _MADV_POPULATE_READ)
    return resident_bytes()


def resident_bytes() -> int:
    """Resident set of this process now, in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def high_water_mark() -> int:
    """Largest resident set of this process since the last reset, in bytes.

    Linux; elsewhere since it began.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return _peak_of_process()


def _peak_of_process() -> int:
    import psutil

    # Windows counts it so; macOS has getrusage(2), in bytes.
    if peak := getattr(psutil.Process().memory_info(), "peak_wset", 0):
        return int(peak)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
