"""How long a plan will take, from counted costs and this machine's earlier runs."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from evalkit import plugins
from evalkit.analysis.duration import Past, Rates, expected, loading_unseen, measured_now, total
from evalkit.errors import DataError, EvalkitError
from evalkit.progress import Listener
from evalkit.records import Cost, Run
from evalkit.records.dry_run import Duration, Step
from evalkit.running.bench.machine_rates import machine_rates
from evalkit.running.job import Job, Part
from evalkit.running.process import run_child
from evalkit.running.remaining import unfinished
from evalkit.store.store import Store


@dataclass(frozen=True)
class Expectation:
    """Steps by the variant's text, those before the first variant, and all of them together.

    `unknown` says why nothing is known, of an architecture that cannot be counted.
    """

    steps: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)
    preparing: tuple[Step, ...] = ()
    whole: Duration | None = None
    unknown: str = ""


def expected_time(store: Store, jobs: Sequence[Job], listener: Listener) -> Expectation:
    """How long what is left of `jobs` will take, step by step."""
    left = [job for job in jobs if not job.refusal and remaining(store, job)]
    if not left:
        return Expectation()
    begun = time.perf_counter()
    try:
        counted: _Counts = run_child(_count, left, listener, gpu="")
    except DataError:
        raise
    except EvalkitError as error:
        return Expectation(unknown=str(error))
    taken = time.perf_counter() - begun - sum(counted.imports.values())
    found = machine_rates(store, left[0], listener)
    width = "float32" if left[0].device == "cpu" else "float16"
    rates = Rates(found.flops[width], found.bandwidth)
    runs = [run for run in store.runs() if _is_of(run, left[0].environment.machine)]
    steps = {
        job.variant.text: tuple(_steps(job, counts, counted.imports, rates, runs))
        for job, counts in zip(left, counted.jobs, strict=True)
    }
    preparing = (Step("texts, prompts and libraries", measured_now(taken)),)
    every = [step.time for some in (preparing, *steps.values()) for step in some]
    return Expectation(steps, preparing, total(every))


def remaining(store: Store, job: Job) -> list[Part]:
    """The parts of `job` that the store lacks."""
    return [part for part in job.parts if unfinished(store, job, part)]


def part_name(part: Part) -> str:
    """A part in words: its task, "texts", "memory" or "speed"."""
    return part.run.suite.tasks[0].name if part.kind == "task" else part.kind


@dataclass(frozen=True)
class _JobCounts:
    """The cost of making a job's checkpoint (None where that is done), and of its parts."""

    making: Cost | None
    parts: tuple[tuple[str, Cost], ...]


@dataclass(frozen=True)
class _Counts:
    """What was counted of each job, and the seconds that importing each backend takes."""

    jobs: tuple[_JobCounts, ...]
    imports: Mapping[str, float]


def _count(jobs: Sequence[Job], send: Listener) -> _Counts:
    from evalkit.backends._artifacts import find_artifact
    from evalkit.running.compare.cost import Costs

    counted = []
    for job in jobs:
        store = Store(job.store)
        costs = Costs(store, job)
        making = costs.making
        if making and find_artifact(
            store.artifacts(), job.checkpoint, job.variant, job.calibration, job.device
        ):
            making = None
        parts = tuple((part_name(part), costs.of(part)) for part in remaining(store, job))
        counted.append(_JobCounts(making, parts))
    return _Counts(tuple(counted), _imports([job.variant.backend for job in jobs]))


def _imports(backends: Sequence[str]) -> dict[str, float]:
    """Seconds that each backend's libraries take to import, which every process does anew."""
    found = {}
    for name in dict.fromkeys(backends):
        begun = time.perf_counter()
        getattr(plugins.load("backends", name), "prepare", lambda: None)()
        found[name] = time.perf_counter() - begun
    return found


def _steps(
    job: Job,
    counts: _JobCounts,
    imports: Mapping[str, float],
    rates: Rates,
    runs: Sequence[Run],
) -> Iterator[Step]:
    model, variant = job.model.identity, job.variant.text
    past = [Past(run.cost, run.model.identity, run.variant.text) for run in runs if run.cost]
    # The checkpoint is made in a process, and measured in another.
    processes = 1 if counts.making is None else 2
    yield Step("importing", measured_now(processes * imports[job.variant.backend]))
    if counts.making is not None:
        same = [run for run in runs if run.model.identity == model]
        made = [p for run in same if (p := _quantized(run, counts.making)) is not None]
        yield Step("quantizing", expected(counts.making, rates, made, model, variant))
    yield Step("loading", _loading(job, runs))
    for name, cost in counts.parts:
        yield Step(name, expected(cost, rates, past, model, variant))


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
    return loading_unseen(job.checkpoint.weight_bytes)


def _is_of(run: Run, machine: str) -> bool:
    """Whether the run was measured on the machine."""
    return run.environment is not None and run.environment.machine == machine
