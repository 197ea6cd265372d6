"""Measuring one variant, in a process of its own: make, load, probe, score, store as it comes.

Every measurement is stored the moment it exists. What the store already has is not repeated. A part
that fails, for want of memory or otherwise, says so in its own run; the others are measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from types import ModuleType

import torch

from evalkit import plugins
from evalkit.backends import SIMULATED, cache_format
from evalkit.errors import EvalkitError, InterruptedWorkError, OutOfMemoryError, VariantError
from evalkit.metrics import Probe
from evalkit.models.overflow import first_not_finite, not_finite_words
from evalkit.progress import Event, Listener
from evalkit.records import Measurement, Run, content_hash
from evalkit.running.compare.cost import Costs
from evalkit.running.compare.texts import load_windows, measure_share, measure_texts
from evalkit.running.environment import Load
from evalkit.running.job import Job, Part
from evalkit.running.keys import depends_on_batches
from evalkit.running.process import shown_in_one_line, stop_if_asked
from evalkit.running.remaining import add, failed_run, unfinished
from evalkit.running.session import LoadedSession, Session, loaded, open_variant
from evalkit.scoring.halving import release_memory
from evalkit.store.claims import claim
from evalkit.store.store import Store

# Below this many tokens another batch size would not help.
SMALLEST_BATCH = 128
_OVERFLOW_WINDOWS = 4


def measure_variant(job: Job, send: Listener) -> int | None:
    """Measure all parts of `job` that the store lacks; raises EvalkitError in one line.

    Where a batch does not fit, and what is batched together changes the variant's numbers, the
    smaller batch size to measure with instead is returned: another batch size is another result.
    """
    store = Store(job.store)
    # In the order of their names, so that two processes never wait for each other.
    keys = sorted(content_hash(_piece(job, part)) for part in job.parts)
    with contextlib.ExitStack() as claims:
        for key in keys:
            claims.enter_context(claim(store.claim_file(key), lambda who: _wait(job, send, who)))
        if not any(unfinished(store, job, part) for part in job.parts):
            return None
        with open_variant(job, send) as session:
            if session.can("probes"):
                _check_weights(loaded(session))
            try:
                costs = Costs(store, job)
                left = [part for part in job.parts if unfinished(store, job, part)]
                for part in without_overflow(store, left, session, send):
                    _measure(store, part, session, costs, send)
            except _BatchDoesNotFitError:
                return job.settings.batch_tokens // 2
    return None


class _BatchDoesNotFitError(Exception):
    """Another batch size is needed, which is another job."""


def _piece(job: Job, part: Part) -> list[object]:
    """What one process measures at a time."""
    return [part.run.id, job.device, *(part.share or ())]


def _wait(job: Job, send: Listener, who: str) -> None:
    send(Event(job.variant.label, "", message=f"waiting for {who}, which measures it now"))


def _measure(store: Store, part: Part, session: Session, costs: Costs, send: Listener) -> None:
    """Measure one part; a failure of its own is recorded and leaves the others unharmed."""
    job = session.job
    send = _within(part, job, send)
    if part.share is not None:
        measure_share(store, part, session, send)
        return
    run, start = begin(store, part, session), time.perf_counter()
    # A task that may stop asks fewer items than its cost counts, a simulated cache is not run.
    simulated = part.is_probe and cache_format(job.variant) is not None
    whole = not run.measurements and part.stopping is None and not simulated
    try:
        if part.is_probe:
            run = _probe(store, part, run, loaded(session), send)
        elif part.kind == "texts":
            run = measure_texts(store, part, run, session, send)
        else:
            from evalkit.running.compare.tasks import measure_task

            run = add(store, run, measure_task(store, part, run, session, send))
        if whole:
            run = _costed(run, costs, part, time.perf_counter() - start)
        store.save(dataclasses.replace(run, status="ok", message=""))
        return
    except InterruptedWorkError:
        raise
    except Exception as error:  # whatever a model, a kernel or the code of a task may raise
        failure = shown_in_one_line(error)
    # Only here, outside the handler, are the tensors of the failed part gone.
    release_memory(job.device)
    halved = job.settings.batch_tokens // 2
    out_of_memory = isinstance(failure, OutOfMemoryError) and not part.is_probe
    if out_of_memory and depends_on_batches(job) and halved >= SMALLEST_BATCH:
        raise _BatchDoesNotFitError
    _fail(store, job, part, failure, send)


def _within(part: Part, job: Job, send: Listener) -> Listener:
    """A listener for what belongs to `part`, which begins now."""
    send(Event(job.variant.label, part.name))
    return lambda event: send(dataclasses.replace(event, step=part.name))


def without_overflow(
    store: Store, parts: Sequence[Part], session: Session, send: Listener
) -> list[Part]:
    """`parts` without texts in which float16 overflows; these fail now, before anything is timed.

    A few windows are read. Only unquantized models that compute in float16 are looked at: others
    hold no such values, or repack their weights when they first run.
    """
    if not session.can("probes") or not computes_in_float16(loaded(session)):
        return list(parts)
    kept = []
    for part in parts:
        where = _overflows_in(store, part, loaded(session)) if part.kind == "texts" else ""
        if where:
            line = f"the logits are not numbers (NaN): {not_finite_words(where)}"
            _fail(store, session.job, part, VariantError(line), send)
        else:
            kept.append(part)
    return kept


def computes_in_float16(session: LoadedSession) -> bool:
    """Whether the quality pass runs unquantized weights in float16: a CPU's runs in float32."""
    on_cpu = session.job.device == "cpu"
    return session.model.dtype == torch.float16 and not on_cpu and not session.loaded.formats


def _overflows_in(store: Store, part: Part, session: LoadedSession) -> str:
    """The first module that gives what is not finite, in a few windows spread over the texts."""
    windows = load_windows(store, session.job, part)
    for index in range(0, len(windows), max(1, len(windows) // _OVERFLOW_WINDOWS)):
        ids = torch.from_numpy(windows.window(index).astype("int64"))[None]
        if where := first_not_finite(session.model, ids.to(session.model.device)):
            return where
    return ""


def _costed(run: Run, costs: Costs, part: Part, seconds: float) -> Run:
    """`run` with what it asked of the machine; without, for a model that cannot be counted."""
    # Foreign architectures fail on the meta device in every way; what was measured stands.
    with contextlib.suppress(Exception):
        return dataclasses.replace(
            run, cost=dataclasses.replace(costs.of(part, run), seconds=seconds)
        )
    return run


def _fail(store: Store, job: Job, part: Part, error: EvalkitError, send: Listener) -> None:
    """Record that `part` failed, with its name where `error` does not say it."""
    suite = part.run.suite
    named = ", ".join([*(text.name for text in suite.texts), *(task.name for task in suite.tasks)])
    if not part.is_probe and named not in str(error):
        error = type(error)(f"{named}: {error}")
    store.save(failed_run(store, job, part, error))
    send(Event(job.variant.label, "", message=str(error)))


def _check_weights(session: LoadedSession) -> None:
    """Look at the weights, which is noted where it cannot be done for want of memory.

    Raises VariantError where it shows that nothing measured would be true.
    """
    from evalkit.running.doctor.checks import CHEAP, examine
    from evalkit.running.doctor.loaded_variant import loaded_variant

    findings = examine(loaded_variant(session), CHEAP)
    for one in findings:
        if one.level == "problem":
            label = session.job.variant.label
            raise VariantError(f"{one.line} (evalkit doctor {label} tells more)")
    session.notes += tuple(one.line for one in findings if one.level == "warning")


def begin(store: Store, part: Part, session: Session) -> Run:
    """The stored run of `part`, or a new one, with what is known now; saved as "running"."""
    stored = store.load(part.run.id)
    run = dataclasses.replace(
        part.run,
        status="running",
        kernel=session.kernel,
        environment=session.job.environment,
        notes=session.notes,
        measurements=stored.measurements if stored else (),
        cost=stored.cost if stored else None,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    store.save(run)
    return run


def _probe(store: Store, part: Part, run: Run, session: LoadedSession, send: Listener) -> Run:
    """Measure what is missing of size, memory and speed; raises in the end what failed of it."""
    job = session.job
    missing = set(part.missing(run, job.environment.machine))
    load, failures = Load(), []
    for name, module in _probing():
        if missing.isdisjoint(s.name for s in module.SPECS):
            continue
        if cache_format(job.variant) and any(spec.runs_model for spec in module.SPECS):
            without = _without_values(module, job.environment.machine, reason=SIMULATED)
            run = add(store, run, without)
            continue
        event = Event(job.variant.label, f"measuring {name.replace('_', ' ')}")
        send(event)
        probe = dataclasses.replace(session.probe(), advance=_advance(event, send))
        try:
            found = _on_this_machine(module, probe, job.environment.machine)
            said = dict.fromkeys(str(m.details["note"]) for m in found if "note" in m.details)
            run = add(store, dataclasses.replace(run, notes=(*run.notes, *said)), found)
            continue
        except InterruptedWorkError:
            raise
        except Exception as error:  # whatever a model or a kernel may raise
            failure = shown_in_one_line(error)
        release_memory(job.device)
        what = name.replace("_", " ")
        if isinstance(failure, OutOfMemoryError):
            failures.append(OutOfMemoryError(f"{what}: {failure}"))
            continue
        # A model that an engine does not run has its quality all the same.
        run = dataclasses.replace(run, notes=(*run.notes, f"{what} not measured: {failure}"))
        run = add(store, run, _without_values(module, job.environment.machine))
    if failures:
        raise OutOfMemoryError("; ".join(map(str, failures)))
    timed = () if cache_format(job.variant) else load.notes()
    return dataclasses.replace(run, notes=(*run.notes, *timed))


def _probing() -> list[tuple[str, ModuleType]]:
    """Name and file of the metrics of a loaded model, those first that run nothing of it.

    Some kernels repack their weights when they first run, and bytes are those of before.
    """
    found = [(name, plugins.load("metrics", name)) for name in plugins.names("metrics")]
    probing = [(name, module) for name, module in found if hasattr(module, "measure")]
    return sorted(probing, key=lambda one: any(spec.per_machine for spec in one[1].SPECS))


def _advance(event: Event, send: Listener) -> Callable[[float, float, str], None]:
    def advance(done: float, total: float, unit: str) -> None:
        send(dataclasses.replace(event, done=done, total=total, unit=unit))
        stop_if_asked()

    return advance


def _without_values(module: ModuleType, machine: str, **details: str) -> list[Measurement]:
    """The metrics of `module` as tried and not measured, so that they are not tried again."""
    return [
        dataclasses.replace(
            spec.measured((), "", **details), machine=machine if spec.per_machine else None
        )
        for spec in module.SPECS
    ]


def _on_this_machine(module: ModuleType, probe: Probe, machine: str) -> list[Measurement]:
    """What the metrics of `module` measure, with the machine where they depend on it."""
    per_machine = {spec.name: spec.per_machine for spec in module.SPECS}
    return [
        dataclasses.replace(found, machine=machine) if per_machine[found.metric] else found
        for found in module.measure(probe)
    ]
