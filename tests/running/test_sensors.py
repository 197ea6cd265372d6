"""Energy, power, temperature and throttling, against a driver and a kernel made up here."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from nvml_stand_in import Card, Driver, install

from evalkit.running import sensors
from evalkit.running.sensors import Reading, energy, open_sensors


def test_every_sensor_in_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch, Driver(reasons=0x04))
    read = open_sensors("cuda")
    before = read()
    assert before == Reading(5000.0, 300.0, 71, 2520, ("power cap",), 3 * 2**30, tick=0.1)
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
    driver = install(monkeypatch, Driver())
    read = open_sensors("cuda")
    driver.lacks = ("power", "energy", "reasons", "temperature", "clock", "memory")
    assert read() == Reading(tick=0.1)
    asked = len(driver.asked)
    assert read() == Reading(tick=0.1)
    assert len(driver.asked) == asked


def test_without_a_driver_nothing_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver(present=False))
    assert open_sensors("cuda")() == Reading()


@pytest.mark.parametrize(
    ("visible", "device", "opened"),
    [(None, "cuda", "GPU-a"), (None, "cuda:1", "GPU-b"), ("1,0", "cuda:1", "GPU-a"),
     ("GPU-b", "cuda", "GPU-b"), ("MIG-c", "cuda", "MIG-c")],
)  # fmt: skip
def test_the_sensors_are_those_of_the_visible_card(
    visible: str | None, device: str, opened: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = (Card(uuid="GPU-a"), Card(uuid="GPU-b"), Card(slices=(None, Card(uuid="MIG-c"))))
    driver = install(monkeypatch, Driver(cards))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert open_sensors(device)().watts == 300
    assert driver.opened == [opened]


def _windows(count: int, seconds: float, tick: float) -> list[tuple[Reading, Reading]]:
    return [
        (
            Reading(joules=10.0 * i, tick=tick, at=i),
            Reading(joules=10.0 * i + 5, tick=tick, at=i + seconds),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "seconds", "tick", "joules"),
    [
        (1, 0.3, 0.1, None),  # five prefills of 60 ms
        (1, 0.9, 0.1, 5.0),
        (3, 0.4, 0.1, None),
        (3, 0.6, 0.1, 15.0),  # three times 128 steps of 5 ms
        (1, 0.009, 0.001, 5.0),
    ],
)
def test_energy_of_too_few_ticks_is_not_measured(
    count: int, seconds: float, tick: float, joules: float | None
) -> None:
    assert energy(_windows(count, seconds, tick)) == joules


def test_energy_that_is_not_counted_is_not_measured() -> None:
    assert energy([(Reading(at=0), Reading(at=9))]) is None
    assert energy([]) is None


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
