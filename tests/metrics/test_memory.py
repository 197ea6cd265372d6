"""Peak memory on a CPU: what is in use, not what the allocator keeps."""

from __future__ import annotations

import sys

import pytest
import torch

from evalkit.metrics.memory import PeakMeter, resident_bytes, unfragmented

MIB = 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's high-water mark")
def test_freed_blocks_do_not_count() -> None:
    meter = PeakMeter("cpu", resident_bytes())
    with unfragmented():
        before = resident_bytes()
        meter.reset()
        for size in range(1, 24):
            torch.ones(size * MIB // 4)
    peak = meter.peaks()["resident"] + meter.resident_before - before
    assert 22 * MIB <= peak <= 30 * MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's high-water mark")
def test_the_peak_counts_what_was_there_at_once() -> None:
    meter = PeakMeter("cpu", resident_bytes())
    with unfragmented():
        before = resident_bytes()
        meter.reset()
        kept = [torch.ones(8 * MIB // 4) for _ in range(4)]
    peak = meter.peaks()["resident"] + meter.resident_before - before
    assert len(kept) == 4
    assert 32 * MIB <= peak <= 40 * MIB
