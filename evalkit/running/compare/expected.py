"""How long a plan will take, from counted costs and this machine's earlier runs."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from evalkit import plugins
from evalkit.analysis.duration import Past, Rates, expected, loading_unseen, measured_now, total
from evalkit.backends import cache_format
from evalkit.errors import in_one_line
from evalkit.progress import Listener
from evalkit.records import Cost, Run
from evalkit.records.dry_run import Duration, Step
from evalkit.running.bench.machine_rates import machine_rates
from evalkit.running.job import Job, Part
from evalkit.running.process import run_child
from evalkit.running.remaining import unfinished
from evalkit.store.store import Store

# Operations that take a moment on any machine, and the rates that are assumed of one.
_LITTLE, _ANY_MACHINE = 1e11, Rates(1e11, 1e10)


@dataclass(frozen=True)
class Expectation:
    """Steps by the variant's text, those before the first variant, and all of them together.

    `unknown` says why nothing is known, of an architecture that cannot be counted.
    """

    steps: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)
    preparing: tuple[Step, ...] = ()
    whole: Duration | None = None
    unknown: str = ""


def expected_time(
    store: Store, jobs: Sequence[Job], listener: Listener, *, imports: bool
) -> Expectation:
    """How long what is left of `jobs` will take, step by step; nothing that is wrong is left.

    With `imports` the backends' libraries are imported to see how long that takes. Raises
    DataError, ModelError or UsageError in one line where texts, tokenizer or tasks of what is left
    cannot be had.
    """
    left = [job for job in jobs if not job.refusal and remaining(store, job)]
    if not left:
        return Expectation()
    begun = time.perf_counter()
    counted: _Counts = run_child(_count, (left, imports), listener, gpu="")
    if counted.unknown:
        return Expectation(unknown=counted.unknown)
    taken = time.perf_counter() - begun - sum(counted.imports.values())
    rates = _rates(store, left[0], counted, listener)
    runs = [run for run in store.runs() if _is_of(run, left[0].environment.machine)]
    steps = {
        job.variant.text: tuple(_steps(job, counts, counted.imports, rates, runs))
        for job, counts in zip(left, counted.jobs, strict=True)
    }
    preparing = (Step("texts, prompts and libraries", measured_now(taken)),)
    every = [step.time for some in (preparing, *steps.values()) for step in some]
    return Expectation(steps, preparing, total(every))


def _rates(store: Store, job: Job, counted: _Counts, listener: Listener) -> Rates:
    """The machine's rates, which are not worth measuring for what takes a moment anywhere."""
    costs = [cost for counts in counted.jobs for _, cost in counts.parts]
    if any(counts.making for counts in counted.jobs) or sum(c.operations for c in costs) > _LITTLE:
        found = machine_rates(store, job, listener)
        width = "float32" if job.device == "cpu" else "float16"
        return Rates(found.flops[width], found.bandwidth)
    return _ANY_MACHINE


def remaining(store: Store, job: Job) -> list[Part]:
    """The parts of `job` that the store lacks."""
    return [part for part in job.parts if unfinished(store, job, part)]


@dataclass(frozen=True)
class _JobCounts:
    """The costs of making a job's checkpoint (none where that is done), and of its parts."""

    making: tuple[Cost, ...]
    parts: tuple[tuple[str, Cost], ...]


@dataclass(frozen=True)
class _Counts:
    """What was counted of each job, and the seconds that importing each backend takes."""

    jobs: tuple[_JobCounts, ...] = ()
    imports: Mapping[str, float] = field(default_factory=dict)
    unknown: str = ""


def _count(asked: tuple[Sequence[Job], bool], send: Listener) -> _Counts:
    """Check what the jobs will read, and count what they will do with it."""
    from evalkit.running.compare.tokens import check_tokens

    jobs, imports = asked
    check_tokens(jobs, send)
    try:
        counted = tuple(_job_counts(job) for job in jobs)
    except Exception as error:  # foreign architectures fail on the meta device in every way
        return _Counts(unknown=str(in_one_line(error)))
    return _Counts(counted, _imports([job.variant.backend for job in jobs] if imports else []))


def _job_counts(job: Job) -> _JobCounts:
    from evalkit.backends._artifacts import find_artifact
    from evalkit.running.compare.cost import Costs

    store = Store(job.store)
    costs = Costs(store, job)
    making = costs.making
    if making and find_artifact(
        store.artifacts(), job.checkpoint, job.variant, job.calibration, job.device
    ):
        making = ()
    return _JobCounts(making, tuple((p.name, costs.of(p)) for p in remaining(store, job)))


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
    processes = 2 if counts.making else 1
    if job.variant.backend in imports:
        yield Step("importing", measured_now(processes * imports[job.variant.backend]))
    for cost in counts.making:
        if cost.kind == "quantizing":
            same = [run for run in runs if run.model.identity == model]
            made = [p for run in same if (p := _quantized(run, cost)) is not None]
            yield Step("quantizing", expected(cost, rates, made, model, variant))
        else:
            # No run records how long its calibration text took.
            yield Step("writing calibration text", expected(cost, rates, (), model, variant))
    yield Step("loading", _loading(job, runs))
    for name, cost in counts.parts:
        found = expected(cost, rates, past, model, variant)
        if name == "speed" and cache_format(job.variant):
            # A simulated cache is not timed.
            continue
        if name == "speed":
            # Repeated until its median is known, within the seconds that are allowed: where no
            # speed was measured before, that takes about half of them however fast the model is.
            most = job.settings.protocol.seconds
            least = 0.0 if any(p.cost.kind == "speed" for p in past) else most / 2
            found = dataclasses.replace(found, seconds=min(max(found.seconds, least), most))
        yield Step(name, found)


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
