"""Peak memory on a CPU: what is in use, not what the allocator keeps."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from evalkit.inference import timing
from evalkit.metrics import Probe, Protocol, load_time, memory

MIB = 2**20
# In a process of its own, as variants are measured: nothing else frees or takes memory there.
SCRIPT = """
import torch
from evalkit.metrics.memory import PeakMeter, level_before_loading, unfragmented

MIB = 2**20

def freed():
    for size in range(1, 24):
        torch.ones(size * MIB // 4)

def held():
    kept = [torch.ones(8 * MIB // 4) for _ in range(4)]

def code():
    torch.linalg.svd(torch.ones(8, 8)), torch.nn.Conv2d(3, 3, 3)

torch.ones(MIB)
for work in (freed, held, code):
    with unfragmented():
        meter = PeakMeter("cpu", level_before_loading("cpu"))
        meter.reset()
        work()
    print(meter.main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's high-water mark")
def test_the_peak_is_what_is_in_use() -> None:
    """Freed blocks do not count, what was there at once does, nor does code that runs."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    freed, held, code = (float(line) / MIB for line in done.stdout.split())
    assert 22 <= freed <= 28
    assert 31 <= held <= 36
    assert 0 <= code <= 3


class Card:
    """torch.cuda of a card whose counters are set by what runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 100
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self._reset)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: self.most)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: self.most + 10)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (500, 1000))

    def _reset(self, device: str) -> None:
        assert device == "cuda:1"
        self.most = self.now

    def take(self, size: int) -> None:
        self.most = max(self.most, self.now + size)


@pytest.mark.parametrize(("load", "expected"), [(150.0, 170.0), (900.0, 900.0)])
def test_the_peak_is_the_largest_of_its_phases_and_not_of_what_lies_between(
    load: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks of the weights took 400 bytes before the first phase."""
    card = Card(monkeypatch)
    card.take(400)
    for name, size in (("time_prefill", 70), ("time_steps", 30)):

        def phase(*_: Any, size: int = size) -> Any:
            card.take(size)
            return 0.0, None

        monkeypatch.setattr(timing, name, phase)
    monkeypatch.setattr(timing, "random_prompts", lambda *_: None)
    config = LlamaConfig(max_position_embeddings=512)
    probe = Probe(
        SimpleNamespace(config=config), "cuda:1", "", Protocol(), 0, {},
        load_peaks={"allocated": load, "reserved": load, "used": load},
    )  # fmt: skip
    (found,) = memory.measure(probe)
    assert found.version == 5
    assert found.values == (expected,)
    assert found.details["load allocated"] == load
    assert found.details["prefill allocated"] == 170
    assert found.details["decode allocated"] == 130


def test_load_seconds_say_whether_files_were_cold() -> None:
    probe = Probe(None, "cpu", "", Protocol(), 0, {"load": 2.0}, files="cold")
    load, quantize = load_time.measure(probe)
    assert (load.values, load.convention, load.version) == ((2.0,), "wall time, files cold", 3)
    assert quantize.values == ()
