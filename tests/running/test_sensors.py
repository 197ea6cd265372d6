# ruff: noqa: N802  the names are those of the driver
"""Energy, power, temperature and throttling, against a driver and a kernel made up here."""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from evalkit.running import sensors
from evalkit.running.sensors import Reading, open_sensors


class Driver(types.ModuleType):
    """A pynvml of one card; what is in `lacks` it does not support."""

    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM = 0, 1

    class NVMLError(Exception):
        pass

    def __init__(self, lacks: tuple[str, ...] = (), reasons: int = 0, card: bool = True) -> None:
        super().__init__("pynvml")
        self.lacks, self.reasons, self.card = lacks, reasons, card
        self.millijoules, self.milliwatts = 5_000_000, 300_000
        self.asked: list[str] = []
        self.handles: list[int] = []

    def nvmlInit(self) -> None:
        if not self.card:
            raise self.NVMLError("no driver")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self.handles.append(index)
        return index

    def _value(self, name: str, value: Any) -> Any:
        self.asked.append(name)
        if name in self.lacks:
            raise self.NVMLError("not supported")
        return value

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return self._value("power", self.milliwatts)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        return self._value("energy", self.millijoules)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        return self._value("reasons", self.reasons)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return self._value("temperature", 71)

    def nvmlDeviceGetClockInfo(self, handle: int, clock: int) -> int:
        return self._value("clock", 2520)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return self._value("memory", types.SimpleNamespace(used=3 * 2**30))


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Driver:
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return driver


def test_every_sensor_in_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch, Driver(reasons=0x04))
    read = open_sensors("cuda")
    before = read()
    assert before == Reading(5000.0, 300.0, 71, 2520, ("power cap",), 3 * 2**30)
    driver.millijoules += 90_000
    assert read().joules - before.joules == pytest.approx(90.0)


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        (0x00, ()),
        (0x01, ()),  # idle
        (0x02, ()),  # clocks set by an application
        (0x04, ("power cap",)),
        (0x20, ("thermal (software)",)),
        (0x44, ("power cap", "thermal (hardware)")),
        (0x88, ("hardware slowdown", "power brake")),
    ],
)
def test_power_cap_and_heat_are_told_apart(
    bits: int, said: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Driver(reasons=bits))
    assert open_sensors("cuda")().throttle == said


def test_without_an_energy_counter_power_is_integrated(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch, Driver(lacks=("energy",)))
    now = [50.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    read = open_sensors("cuda")
    first = read()
    now[0], driver.milliwatts = 52.0, 400_000
    assert read().joules - first.joules == pytest.approx(2 * 350)
    now[0] = 53.0
    assert read().joules - first.joules == pytest.approx(2 * 350 + 400)


def test_what_a_card_lacks_is_none_and_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks = ("power", "energy", "reasons", "temperature", "clock", "memory")
    driver = install(monkeypatch, Driver(lacks=lacks))
    read = open_sensors("cuda")
    assert read() == Reading()
    asked = len(driver.asked)
    assert read() == Reading()
    assert len(driver.asked) == asked


def test_without_a_driver_nothing_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver(card=False))
    assert open_sensors("cuda")() == Reading()


@pytest.mark.parametrize(
    ("visible", "device", "index"), [("", "cuda", 0), ("", "cuda:1", 1), ("3,5", "cuda:1", 5)]
)
def test_torch_numbers_are_those_of_the_visible_cards(
    visible: str, device: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = install(monkeypatch, Driver())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    open_sensors(device)
    assert driver.handles == [index]


def test_the_processor_counter_may_begin_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    domain = tmp_path / "intel-rapl:0"
    domain.mkdir()
    counter = domain / "energy_uj"
    counter.write_text("999000000")
    (domain / "max_energy_range_uj").write_text("999999999")
    monkeypatch.setattr(sensors, "RAPL", tmp_path)
    read = open_sensors("cpu")
    assert read().joules == 0
    counter.write_text("4000000")
    assert read().joules == pytest.approx(5.0)


def test_an_unreadable_processor_counter_is_not_available(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("no number")
    monkeypatch.setattr(sensors, "RAPL", tmp_path)
    assert open_sensors("cpu")() == Reading()
