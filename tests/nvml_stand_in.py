# ruff: noqa: N802  the names are those of the driver
"""A driver that is not there: pynvml with the cards that a test gives it."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass
class Card:
    """A card, or a MIG slice; one with `slices` is cut into them."""

    name: str = "NVIDIA GeForce RTX 4090"
    uuid: str = "GPU-4090"
    gigabytes: float = 24
    capability: tuple[int, int] = (8, 9)
    slices: tuple[Card | None, ...] | None = None


class Driver(types.ModuleType):
    """A pynvml of `cards`, in the order of the PCI bus; what is in `lacks` it does not support."""

    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM = 0, 1

    class NVMLError(Exception):
        pass

    def __init__(
        self,
        cards: tuple[Card, ...] = (Card(),),
        lacks: tuple[str, ...] = (),
        reasons: int = 0,
        present: bool = True,
    ) -> None:
        super().__init__("pynvml")
        self.cards, self.lacks, self.reasons, self.present = cards, lacks, reasons, present
        self.millijoules, self.milliwatts = 5_000_000, 300_000
        self.version, self.cuda = "580.82.07", 13000
        self.asked: list[str] = []
        self.opened: list[str] = []

    def nvmlInit(self) -> None:
        if not self.present:
            raise self.NVMLError("no driver")

    def nvmlShutdown(self) -> None:
        pass

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.version

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:
        self.opened.append(uuid)
        parts = [part for card in self.cards for part in (card, *(card.slices or ())) if part]
        return next(part for part in parts if part.uuid == uuid)

    def nvmlDeviceGetMigMode(self, card: Card) -> tuple[int, int]:
        if "mig" in self.lacks:
            raise self.NVMLError("not supported")
        return (int(card.slices is not None),) * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, place: int) -> Card:
        slices = card.slices or ()
        found = slices[place] if place < len(slices) else None
        if found is None:
            raise self.NVMLError("not found")
        return found

    def nvmlDeviceGetName(self, card: Card) -> str:
        return card.name

    def nvmlDeviceGetUUID(self, card: Card) -> str:
        return card.uuid

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> tuple[int, int]:
        return card.capability

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> Any:
        total = int(card.gigabytes * 2**30)
        used = min(3 * 2**30, total)
        return self._value(
            "memory", types.SimpleNamespace(total=total, used=used, free=total - used)
        )

    def nvmlDeviceGetPowerUsage(self, card: Card) -> int:
        return self._value("power", self.milliwatts)

    def nvmlDeviceGetTotalEnergyConsumption(self, card: Card) -> int:
        return self._value("energy", self.millijoules)

    def nvmlDeviceGetCurrentClocksEventReasons(self, card: Card) -> int:
        return self._value("reasons", self.reasons)

    def nvmlDeviceGetTemperature(self, card: Card, sensor: int) -> int:
        return self._value("temperature", 71)

    def nvmlDeviceGetClockInfo(self, card: Card, clock: int) -> int:
        return self._value("clock", 2520)

    def _value(self, name: str, value: Any) -> Any:
        self.asked.append(name)
        if name in self.lacks:
            raise self.NVMLError("not supported")
        return value


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Driver:
    """Put the driver in pynvml's place, with every card visible."""
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return driver
