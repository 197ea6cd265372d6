"""Measuring one variant, in a process of its own: make, load, probe, score, store as it comes.

Every measurement is stored the moment it exists. What the store already has is not repeated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path

from evalkit import plugins
from evalkit.backends import spec_of
from evalkit.errors import EvalkitError, InterruptedWorkError, VariantError
from evalkit.metrics._spec import Probe
from evalkit.metrics.memory import level_before_loading
from evalkit.models.loading import Loaded
from evalkit.progress import Event, Listener
from evalkit.records import Run, content_hash
from evalkit.running.compare.texts import measure_share, measure_texts
from evalkit.running.environment import Load
from evalkit.running.job import Part, VariantJob
from evalkit.running.remaining import add, failed_run, unfinished
from evalkit.store.claims import claim
from evalkit.store.store import Store
from evalkit.tasks.served_model import ServedModel


def measure_variant(job: VariantJob, send: Listener) -> None:
    """Measure all parts of `job` that the store lacks; raises EvalkitError in one line."""
    store = Store(job.store)
    # In the order of their names, so that two processes never wait for each other.
    keys = sorted(content_hash(_piece(job, part)) for part in job.parts)
    with contextlib.ExitStack() as claims:
        for key in keys:
            claims.enter_context(claim(store.claim_file(key), lambda who: _wait(job, send, who)))
        if not any(unfinished(store, job, part) for part in job.parts):
            return
        if spec_of(job.variant).served:
            from evalkit.running.served import open_served

            with open_served(store, job, send) as model:
                _measure_parts(store, job, model, None, send)
        else:
            _measure(store, job, send)


def _piece(job: VariantJob, part: Part) -> list[object]:
    """What one process measures at a time."""
    return [part.run.id, job.device, *(part.share or ())]


def _wait(job: VariantJob, send: Listener, who: str) -> None:
    send(Event(job.variant.label, "", message=f"waiting for {who}, which measures it now"))


def _measure(store: Store, job: VariantJob, send: Listener) -> None:
    label = job.variant.label
    source, seconds = prepare_source(store, job, send)
    getattr(plugins.load("backends", job.variant.backend), "prepare", _nothing)()
    before = level_before_loading(job.device)
    send(Event(label, "loading"))
    start = time.perf_counter()
    loaded = load_variant(job, source)
    seconds["load"] = time.perf_counter() - start
    _refuse_broken(job, loaded)
    probe = Probe(loaded.model, job.device, loaded.kernel, job.settings.protocol, before, seconds)
    _measure_parts(store, job, loaded, probe, send)


def _measure_parts(
    store: Store,
    job: VariantJob,
    loaded: Loaded | ServedModel,
    probe: Probe | None,
    send: Listener,
) -> None:
    for part in job.parts:
        if not unfinished(store, job, part):
            continue
        if part.share is not None and isinstance(loaded, Loaded):
            measure_share(store, job, part, loaded, send)
            continue
        run = begin(store, job, part, loaded)
        try:
            if part.kind == "probes" and probe is not None:
                run = _probe(store, job, part, run, probe, send)
            elif part.kind == "texts":
                run = measure_texts(store, job, part, run, loaded, send)
            else:
                from evalkit.running.compare.tasks import measure_task

                run = add(store, run, measure_task(store, job, part, run, loaded, send))
            store.save(dataclasses.replace(run, status="ok", message=""))
        except InterruptedWorkError:
            raise
        except EvalkitError as error:
            store.save(failed_run(store, job, part, error))
            send(Event(job.variant.label, "", message=str(error)))


def _refuse_broken(job: VariantJob, loaded: Loaded) -> None:
    """Raise VariantError where a look at the weights shows that nothing measured would be true."""
    from evalkit.running.doctor.checks import CHEAP, Patient, examine

    patient = Patient(loaded.model, job.variant, job.device, loaded.kernel)
    problems = [f for f in examine(patient, CHEAP) if f.level == "problem"]
    if problems:
        raise VariantError(f"{problems[0].line} (evalkit doctor {job.variant.label} tells more)")


def _nothing() -> None:
    """What a backend without libraries of its own prepares."""


def prepare_source(store: Store, job: VariantJob, send: Listener) -> tuple[Path, dict[str, float]]:
    """The directory to load: the original checkpoint, or the quantized one from the store."""
    if not spec_of(job.variant).quantizes or job.model.weights == "random":
        return job.checkpoint.path, {}
    from evalkit.backends._artifacts import find_artifact

    artifact = find_artifact(store.artifacts(), job.checkpoint, job.variant, job.calibration)
    if artifact is None:
        return job.checkpoint.path, {}
    return artifact.path, {"quantize": artifact.seconds}


def load_variant(job: VariantJob, source: Path) -> Loaded:
    """Load the variant by its backend, or make it of random weights."""
    backend = plugins.load("backends", job.variant.backend)
    if job.model.weights == "random":
        if not hasattr(backend, "load_random"):
            raise VariantError(
                f"{job.variant.text} cannot be made of random weights: its backend loads"
                " checkpoints only; leave it out or give --weights checkpoint"
            )
        made: Loaded = backend.load_random(job.checkpoint, job.variant, job.device, seed=job.seed)
        return made
    loaded: Loaded = backend.load(
        source,
        job.variant,
        job.device,
        allow_pickle=job.settings.allow_pickle,
        trust_remote_code=job.settings.trust_remote_code,
    )
    return loaded


def begin(store: Store, job: VariantJob, part: Part, loaded: Loaded | ServedModel) -> Run:
    """The stored run of `part`, or a new one, with what is known now; saved as "running"."""
    stored = store.load(part.run.id)
    run = dataclasses.replace(
        part.run,
        status="running",
        kernel=loaded.kernel,
        environment=job.environment,
        notes=loaded.notes,
        measurements=stored.measurements if stored else (),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    store.save(run)
    return run


def _probe(
    store: Store, job: VariantJob, part: Part, run: Run, probe: Probe, send: Listener
) -> Run:
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
