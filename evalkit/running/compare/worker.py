"""Measuring one variant, in a process of its own: make, load, probe, score, store as it comes.

Every measurement is stored the moment it exists. What the store already has is not repeated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time

from evalkit import plugins
from evalkit.errors import EvalkitError, InterruptedWorkError, OutOfMemoryError, VariantError
from evalkit.progress import Event, Listener
from evalkit.records import Run, content_hash
from evalkit.running.compare.texts import measure_share, measure_texts
from evalkit.running.environment import Load
from evalkit.running.job import Job, Part
from evalkit.running.keys import depends_on_batches
from evalkit.running.remaining import add, failed_run, unfinished
from evalkit.running.session import LoadedSession, Session, loaded, open_variant
from evalkit.store.claims import claim
from evalkit.store.store import Store

# Below this many tokens another batch size would not help.
SMALLEST_BATCH = 128


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
                _refuse_broken(loaded(session))
            try:
                for part in job.parts:
                    if unfinished(store, job, part):
                        _measure(store, part, session, send)
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


def _measure(store: Store, part: Part, session: Session, send: Listener) -> None:
    """Measure one part; a failure of its own is recorded and leaves the others unharmed."""
    job = session.job
    if part.share is not None:
        measure_share(store, part, session, send)
        return
    run = begin(store, part, session)
    try:
        if part.kind == "probes":
            run = _probe(store, part, run, loaded(session), send)
        elif part.kind == "texts":
            run = measure_texts(store, part, run, session, send)
        else:
            from evalkit.running.compare.tasks import measure_task

            run = add(store, run, measure_task(store, part, run, session, send))
        store.save(dataclasses.replace(run, status="ok", message=""))
    except InterruptedWorkError:
        raise
    except EvalkitError as error:
        halved = job.settings.batch_tokens // 2
        out_of_memory = isinstance(error, OutOfMemoryError) and part.kind != "probes"
        if out_of_memory and depends_on_batches(job) and halved >= SMALLEST_BATCH:
            raise _BatchDoesNotFitError from error
        _fail(store, job, part, error, send)


def _fail(store: Store, job: Job, part: Part, error: EvalkitError, send: Listener) -> None:
    store.save(failed_run(store, job, part, error))
    send(Event(job.variant.label, "", message=str(error)))


def _refuse_broken(session: LoadedSession) -> None:
    """Raise VariantError where a look at the weights shows that nothing measured would be true."""
    from evalkit.running.doctor.checks import CHEAP, examine
    from evalkit.running.doctor.loaded_variant import loaded_variant

    problems = [f for f in examine(loaded_variant(session), CHEAP) if f.level == "problem"]
    if problems:
        label = session.job.variant.label
        raise VariantError(f"{problems[0].line} (evalkit doctor {label} tells more)")


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
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    store.save(run)
    return run


def _probe(store: Store, part: Part, run: Run, session: LoadedSession, send: Listener) -> Run:
    job, probe = session.job, session.probe()
    missing = set(part.missing(run, job.environment.machine))
    load = Load()
    for done, name in enumerate(plugins.names("metrics")):
        module = plugins.load("metrics", name)
        if not hasattr(module, "measure") or missing.isdisjoint(s.name for s in module.SPECS):
            continue
        send(Event(job.variant.label, f"measuring {name}", done))
        per_machine = {spec.name: spec.per_machine for spec in module.SPECS}
        new = [
            dataclasses.replace(m, machine=job.environment.machine) if per_machine[m.metric] else m
            for m in module.measure(probe)
        ]
        run = add(store, run, new)
    return dataclasses.replace(run, notes=(*run.notes, *load.notes()))
