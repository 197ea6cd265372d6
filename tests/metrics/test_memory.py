"""Peak memory on a CPU: what is in use, not what the allocator keeps."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import pytest
import torch

from evalkit.metrics.memory import PeakMeter, resident_bytes, unfragmented

MIB = 2**20


def peak_of(work: Callable[[], object]) -> float:
    """Bytes of the high-water mark of `work` above the level before."""
    gc.collect()
    with unfragmented():
        meter = PeakMeter("cpu", resident_bytes())
        meter.reset()
        work()
    return meter.main()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's high-water mark")
def test_freed_blocks_do_not_count() -> None:
    def freed() -> None:
        for size in range(1, 24):
            torch.ones(size * MIB // 4)

    assert 18 * MIB <= peak_of(freed) <= 30 * MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's high-water mark")
def test_the_peak_counts_what_was_there_at_once() -> None:
    assert 28 * MIB <= peak_of(lambda: [torch.ones(8 * MIB // 4) for _ in range(4)]) <= 40 * MIB
