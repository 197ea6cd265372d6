"""What this machine can do at most: bandwidth of memory and rate of matrix products, measured.

A roofline from a data sheet is never reached; one measured by plain large operations is what a
model's speed is fairly compared with.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

from evalkit.records import Environment, from_json, to_json
from evalkit.records.bench import MachineRates
from evalkit.store.files import read_json, write_json

VERSION = 1
_REPEATS = 7
_READ_BYTES = {"cpu": 2**28, "cuda": 2**30}
_MATRIX = {"cpu": 512, "cuda": 8192}
_DTYPES = ("float32", "float16", "bfloat16")


def stored_rates(file: Path, environment: Environment) -> MachineRates | None:
    """Rates measured on this machine before, or None."""
    if not file.exists():
        return None
    content = read_json(file)
    if content.get("version") != VERSION or content["rates"]["machine"] != environment.machine:
        return None
    return from_json(MachineRates, content["rates"])


def store_rates(file: Path, rates: MachineRates) -> None:
    """Keep rates for the next bench on this machine."""
    write_json(file, {"version": VERSION, "rates": to_json(rates)})


def measure_rates(device: str, machine: str) -> MachineRates:
    """Measure both in a second or two; the best of several repetitions counts."""
    import torch

    kind = device.partition(":")[0]
    values = torch.ones(_READ_BYTES[kind] // 4, device=device)
    if kind == "cuda":
        copy = torch.empty_like(values)
        bandwidth = 2 * _READ_BYTES[kind] / _best(lambda: copy.copy_(values), device)
        method = "copy of 1 GiB, bytes read and written"
    else:
        bandwidth = _READ_BYTES[kind] / _best(values.sum, device)
        method = f"sum of 256 MiB of float32 by {torch.get_num_threads()} threads"
    size = _MATRIX[kind]
    flops = {}
    for name in _DTYPES:
        one = torch.ones(size, size, device=device, dtype=getattr(torch, name))
        flops[name] = 2.0 * size**3 / _best(functools.partial(torch.matmul, one, one), device)
    return MachineRates(machine, bandwidth, flops, f"{method}; products of {size}² matrices")


def _best(run: Callable[[], object], device: str) -> float:
    """Seconds of the fastest repetition; a slow one is not repeated for long."""
    import torch

    run()
    best, begun = float("inf"), time.perf_counter()
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - begun > 1.0:
            break
    return best
