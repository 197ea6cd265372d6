"""What this machine can do at most: bandwidth of memory and rate of matrix products, measured.

A roofline from a data sheet is never reached; one measured by plain large operations is what a
model's speed is fairly compared with.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path

from evalkit.progress import Event, Listener
from evalkit.records import content_hash, from_json, to_json
from evalkit.records.bench import MachineRates
from evalkit.running.job import Job
from evalkit.running.process import run_child
from evalkit.store.files import read_json, write_json
from evalkit.store.store import Store

VERSION = 1
_REPEATS = 7
_READ_BYTES = {"cpu": 2**28, "cuda": 2**30}
_MATRIX = {"cpu": 512, "cuda": 8192}
_DTYPES = ("float32", "float16", "bfloat16")


def machine_rates(store: Store, job: Job, listener: Listener) -> MachineRates:
    """The rates of the machine and device of `job`: measured once, and kept in the store."""
    machine, file = job.environment.machine, _file(store, job)
    if file.exists():
        content = read_json(file)
        if content.get("version") == VERSION and content["rates"]["machine"] == machine:
            return from_json(MachineRates, content["rates"])
    return _kept(file, _measured(job, listener))


def measured_again(
    store: Store, job: Job, before: MachineRates, listener: Listener
) -> MachineRates:
    """The greater of the rates `before` and those measured now: a ceiling was exceeded."""
    now = _measured(job, listener)
    flops = {name: max(rate, before.flops.get(name, 0.0)) for name, rate in now.flops.items()}
    rates = dataclasses.replace(now, bandwidth=max(now.bandwidth, before.bandwidth), flops=flops)
    return _kept(_file(store, job), rates)


def _file(store: Store, job: Job) -> Path:
    return store.root / "machines" / f"{content_hash(job.environment.machine)}.json"


def _measured(job: Job, listener: Listener) -> MachineRates:
    listener(Event("evalkit", "measuring the machine"))
    asked = (job.device, job.environment.machine)
    rates: MachineRates = run_child(_measure, asked, listener, gpu=job.gpu)
    return rates


def _kept(file: Path, rates: MachineRates) -> MachineRates:
    write_json(file, {"version": VERSION, "rates": to_json(rates)})
    return rates


def _measure(job: tuple[str, str], send: Listener) -> MachineRates:
    return measure_rates(*job)


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
