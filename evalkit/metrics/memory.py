"""Peak memory of loading, one prefill and a short decode at batch 1."""

from __future__ import annotations

from evalkit.metrics._spec import Probe, ProbeMetric
from evalkit.records import Measurement

PEAK_MEMORY = ProbeMetric(
    name="peak_memory_bytes",
    unit="bytes",
    direction="lower",
    version=1,
    definition="CUDA: peak bytes allocated by torch. CPU: resident high-water mark of the"
    " variant's own process above its level before loading. Covers load, prefill, decode.",
)
SPECS = (PEAK_MEMORY,)
DECODE_TOKENS = 8


def measure(probe: Probe) -> list[Measurement]:
    """Run one prefill and a short decode, then read the high-water mark."""
    from evalkit.scoring.speed import time_generation

    time_generation(probe.model, probe.protocol.prompt, DECODE_TOKENS)
    if probe.device != "cpu":
        import torch

        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return [PEAK_MEMORY.measured((float(allocated),), "CUDA allocated", reserved=reserved)]
    peak = high_water_mark() - probe.resident_before
    return [PEAK_MEMORY.measured((float(peak),), "resident set above the level before loading")]


def resident_bytes() -> int:
    """Resident set of this process now, in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def high_water_mark() -> int:
    """Largest resident set of this process so far, in bytes."""
    import resource
    from pathlib import Path

    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
