"""How long a plan will take, in lines, from counted costs and this machine's earlier runs."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence

from evalkit.analysis.duration import Duration, Past, Rates, expected, total
from evalkit.errors import DataError, EvalkitError
from evalkit.progress import Listener
from evalkit.records import Cost, Run
from evalkit.running.bench.machine_rates import machine_rates
from evalkit.running.job import Job, Part
from evalkit.running.process import run_child
from evalkit.running.remaining import unfinished
from evalkit.store.store import Store

# Bytes/s of reading a checkpoint, and seconds around it, where nothing was loaded here before.
_READING, _OPENING = 1e9, 1.0
_HOUR, _MINUTE = 3600, 60

Item = tuple[str, Duration]


def duration_lines(store: Store, jobs: Sequence[Job], listener: Listener) -> list[str]:
    """A line of seconds for each variant that is not measured yet, and one of the whole.

    Nothing is said where an architecture cannot be counted.
    """
    left = [job for job in jobs if not job.refusal and _remaining(store, job)]
    if not left:
        return []
    begun = time.perf_counter()
    try:
        counted: list[_Counted] = run_child(_count, left, listener)
    except DataError:
        raise
    except EvalkitError as error:
        return [f"time: not known, as {error}"]
    start = time.perf_counter() - begun
    found = machine_rates(store, left[0], listener)
    width = "float32" if left[0].device == "cpu" else "float16"
    rates = Rates(found.flops[width], found.bandwidth)
    runs = [run for run in store.runs() if _is_of(run, left[0].environment.machine)]
    items = [
        list(_items(job, costs, rates, runs)) for job, costs in zip(left, counted, strict=True)
    ]
    lines = [
        f"time of {job.variant.label}: " + ", ".join(f"{n} {clock(d.seconds)}" for n, d in some)
        for job, some in zip(left, items, strict=True)
    ]
    whole = total([duration for some in items for _, duration in some])
    end = time.strftime("%H:%M", time.localtime(time.time() + start + whole.seconds))
    return [
        *lines,
        f"time: about {clock(start + whole.seconds)}, done at {end}; within a factor of"
        f" {whole.factor:.1f}, told from {whole.source}",
    ]


def clock(seconds: float) -> str:
    """Seconds in words: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = max(1, round(seconds))
    if whole >= _HOUR:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _MINUTE} min {whole % _MINUTE} s" if whole >= _MINUTE else f"{whole} s"


# The cost of making a job's checkpoint (None where that is done), and of its remaining parts.
_Counted = tuple[Cost | None, list[tuple[str, Cost]]]


def _remaining(store: Store, job: Job) -> list[Part]:
    return [part for part in job.parts if unfinished(store, job, part)]


def _name(part: Part) -> str:
    if part.kind == "task":
        return part.run.suite.tasks[0].name
    return "speed and memory" if part.kind == "probes" else "texts"


def _count(jobs: Sequence[Job], send: Listener) -> list[_Counted]:
    from evalkit.backends._artifacts import find_artifact
    from evalkit.running.compare.cost import Costs

    counted: list[_Counted] = []
    for job in jobs:
        store = Store(job.store)
        costs = Costs(store, job)
        making = costs.making
        if making and find_artifact(
            store.artifacts(), job.checkpoint, job.variant, job.calibration, job.device
        ):
            making = None
        parts = [(_name(part), costs.of(part)) for part in _remaining(store, job)]
        counted.append((making, parts))
    return counted


def _items(job: Job, counted: _Counted, rates: Rates, runs: Sequence[Run]) -> Iterator[Item]:
    making, parts = counted
    model, variant = job.model.identity, job.variant.text
    past = [Past(run.cost, run.model.identity, run.variant.text) for run in runs if run.cost]
    if making is not None:
        same = [run for run in runs if run.model.identity == model]
        made = [p for run in same if (p := _quantized(run, making)) is not None]
        yield "quantizing", expected(making, rates, made, model, variant)
    yield "loading", _loading(job, runs)
    for name, cost in parts:
        yield name, expected(cost, rates, past, model, variant)


def _quantized(run: Run, making: Cost) -> Past | None:
    """The making of the checkpoint that a run measured, which asked for as much as `making`."""
    measured = run.measurement("quantize_seconds")
    if measured is None or not measured.values:
        return None
    cost = dataclasses.replace(making, seconds=measured.values[-1])
    return Past(cost, run.model.identity, run.variant.text)


def _loading(job: Job, runs: Sequence[Run]) -> Duration:
    """Seconds of loading: as this variant, or this model, took here before, else by its bytes."""
    measured = [(run, m) for run in runs if (m := run.measurement("load_seconds")) and m.values]
    own = [m for run, m in measured if run.model.identity == job.model.identity]
    same = [
        m
        for run, m in measured
        if (run.model.identity, run.variant.text) == (job.model.identity, job.variant.text)
    ]
    if found := same or own:
        seconds = statistics.median(m.values[-1] for m in found)
        return Duration(seconds, 1.4, "this model's earlier runs here")
    size = sum(file.stat().st_size for file in job.checkpoint.weight_files)
    return Duration(_OPENING + size / _READING, 3.0, "the roofline alone")


def _is_of(run: Run, machine: str) -> bool:
    """Whether the run was measured on the machine."""
    return run.environment is not None and run.environment.machine == machine
