"""Energy, power, temperature, clocks and throttling, read while something runs.

On NVIDIA GPUs from NVML; on CPUs energy from RAPL where the kernel lets it be read. What a machine
does not offer is None, which tables show as "not available".

A counter of energy stands still between its ticks, so each reading lags by up to one. Over `n`
windows of together `seconds` the difference of the lags has a standard deviation of
tick · √(n / 6), for a lag that is uniform and as often long at the begin as at the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.running.gpus import nvml_word

RAPL = Path("/sys/class/powercap")
# Seconds between two ticks: NVML's are 20 to 100 ms apart, by the card (Yang, Adámek and Armour,
# SC24), RAPL's a millisecond.
NVML_TICK, RAPL_TICK = 0.1, 0.001
# A greater share of the energy that the ticks leave open makes it "not measured".
MOST_ENERGY_ERROR = 0.05
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
    """The sensors at one moment, `at` (seconds).

    `joules` counts up from an arbitrary zero, in steps of `tick` seconds.
    """

    joules: float | None = None
    watts: float | None = None
    celsius: float | None = None
    clock_mhz: float | None = None
    throttle: tuple[str, ...] = ()
    memory_used: float | None = None
    tick: float = 0.0
    at: float = field(default_factory=time.perf_counter, compare=False)


Sensors = Callable[[], Reading]


def energy(windows: Sequence[tuple[Reading, Reading]]) -> float | None:
    """Joules spent in the windows, each the readings at its begin and end.

    None where energy is not counted, or where the windows are too short for the counter's tick.
    """
    joules = 0.0
    for begin, end in windows:
        if begin.joules is None or end.joules is None:
            return None
        joules += end.joules - begin.joules
    return joules if windows and long_enough(windows) else None


def long_enough(windows: Sequence[tuple[Reading, Reading]]) -> bool:
    """Whether the windows are long enough for the counter's tick."""
    tick = max((end.tick for _, end in windows), default=0.0)
    lag = tick * math.sqrt(len(windows) / 6)
    seconds = sum(end.at - begin.at for begin, end in windows)
    return seconds > 0 and lag <= MOST_ENERGY_ERROR * seconds


def open_sensors(device: str) -> Sensors:
    """What reads the sensors of `device` ("cpu", "cuda", "cuda:N")."""
    if device == "cpu":
        return _processor()
    import pynvml

    word = nvml_word(device)
    if not word:
        return Reading
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(word)
    except pynvml.NVMLError:
        return Reading
    return _Card(pynvml, handle)


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
            tick=NVML_TICK,
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
        return Reading(joules=total, tick=RAPL_TICK)

    return read
