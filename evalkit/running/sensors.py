"""Energy, power, temperature, clocks and throttling, read while something runs.

On NVIDIA GPUs from NVML; on CPUs energy from RAPL where the kernel lets it be read. What a machine
does not offer is None, which tables show as "not available".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap")
# NVML's reasons (nvmlClocksEventReasons) for which a clock is below what was asked for.
REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake",
}


@dataclass(frozen=True)
class Reading:
    """The sensors at one moment; `joules` counts up from an arbitrary zero."""

    joules: float | None = None
    watts: float | None = None
    celsius: float | None = None
    clock_mhz: float | None = None
    throttle: tuple[str, ...] = ()
    memory_used: float | None = None


Sensors = Callable[[], Reading]


def open_sensors(device: str) -> Sensors:
    """What reads the sensors of `device` ("cpu", "cuda", "cuda:N")."""
    if device == "cpu":
        return _processor()
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(_physical(device))
    except pynvml.NVMLError:
        return Reading
    return _Card(pynvml, handle)


def _physical(device: str) -> int:
    """The driver's number of torch's device: CUDA_VISIBLE_DEVICES renumbers them."""
    import os

    number = int(device.partition(":")[2] or 0)
    visible = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if number < len(visible) and visible[number].isdigit():
        return int(visible[number])
    return number


class _Card:
    """Readings of one GPU; a counter it lacks is asked for once."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._missing: set[str] = set()
        self._integral = 0.0
        self._last: tuple[float, float] | None = None

    def __call__(self) -> Reading:
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        watts = None if milliwatts is None else milliwatts / 1000
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return Reading(
            joules=self._joules(watts),
            watts=watts,
            celsius=self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
            clock_mhz=self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            throttle=tuple(name for bit, name in REASONS.items() if int(reasons or 0) & bit),
            memory_used=None if memory is None else float(memory.used),
        )

    def _joules(self, watts: float | None) -> float | None:
        """The card's energy counter, else power integrated over the readings."""
        counted = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        if counted is not None:
            return float(counted) / 1000
        if watts is None:
            return None
        now = time.monotonic()
        if self._last is not None:
            then, before = self._last
            self._integral += (now - then) * (watts + before) / 2
        self._last = now, watts
        return self._integral

    def _ask(self, name: str, *arguments: Any) -> Any:
        function = getattr(self._nvml, name, None)
        if function is None or name in self._missing:
            return None
        try:
            return function(self._handle, *arguments)
        except self._nvml.NVMLError:
            self._missing.add(name)
            return None


def _processor() -> Sensors:
    """Readings of RAPL's package counters, where they can be read."""
    domains = []
    for counter in sorted(RAPL.glob("intel-rapl:?/energy_uj")):
        try:
            int(counter.read_text())
            span = int((counter.parent / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            continue
        domains.append((counter, span))
    if not domains:
        return Reading
    last = [int(counter.read_text()) for counter, _ in domains]
    total = 0.0

    def read() -> Reading:
        nonlocal total
        for index, (counter, span) in enumerate(domains):
            now = int(counter.read_text())
            # The counter begins again at zero behind `span`.
            total += ((now - last[index]) % (span + 1)) / 1e6
            last[index] = now
        return Reading(joules=total)

    return read
