"""Peak memory on a CPU: what is in use, not what the allocator keeps."""

from __future__ import annotations

import subprocess
import sys

import pytest

MIB = 2**20
# In a process of its own, as variants are measured: nothing else frees or takes memory there.
SCRIPT = """
import torch
from evalkit.metrics.memory import PeakMeter, level_before_loading, unfragmented

MIB = 2**20
torch.ones(MIB)
with unfragmented():
    meter = PeakMeter("cpu", level_before_loading("cpu"))
    meter.reset()
    {work}
print(meter.main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's high-water mark")
@pytest.mark.parametrize(
    ("work", "least", "most"),
    [
        ("for size in range(1, 24): torch.ones(size * MIB // 4)", 22, 28),
        ("kept = [torch.ones(8 * MIB // 4) for _ in range(4)]", 31, 36),
        ("torch.linalg.svd(torch.ones(8, 8)), torch.nn.Conv2d(3, 3, 3)", 0, 3),
    ],
    ids=["freed blocks do not count", "what was there at once does", "nor does code that runs"],
)
def test_the_peak_is_what_is_in_use(work: str, least: int, most: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(work=work)], capture_output=True, text=True, check=True
    )
    assert least * MIB <= float(done.stdout) <= most * MIB
