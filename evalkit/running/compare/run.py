"""Carrying out a plan: one variant after the other, each in its own process; failure is data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

from evalkit.analysis.compare import Measured, compare
from evalkit.backends import spec_of
from evalkit.errors import EvalkitError, InterruptedWorkError, VariantError
from evalkit.metrics import table_columns
from evalkit.progress import Event, Listener
from evalkit.records import Comparison, Run, content_hash
from evalkit.results.load_measured import load_measured
from evalkit.running import environment
from evalkit.running.compare.plan import ComparePlan
from evalkit.running.job import Kind, Part, VariantJob
from evalkit.running.process import run_child
from evalkit.running.remaining import failed_run, unfinished
from evalkit.store.mirror import Mirror, mirrored
from evalkit.store.store import Store


def run_plan(plan: ComparePlan, listener: Listener, *, fresh: bool = False) -> Comparison:
    """Measure what the store lacks and compare; every row has a status.

    Raises InterruptedWorkError after Ctrl-C, with everything finished stored.
    """
    store = Store(plan.store).prepare()
    if fresh:
        _forget(store, plan)
    if plan.ray:
        _run_on_ray(store, plan, listener)
    else:
        _run_here(store, plan, listener)
    comparison = dataclasses.replace(_compare(store, plan), command=plan.command)
    store.save_comparison(comparison, comparison_id(comparison))
    return comparison


def _run_here(store: Store, plan: ComparePlan, listener: Listener) -> None:
    failed_baseline = ""
    for job in plan.jobs:
        refusal = plan.refused.get(job.variant.text, "")
        if failed_baseline and not refusal:
            job = _without(store, job, "texts", failed_baseline)  # noqa: PLW2901
        _run_variant(store, job, refusal, listener)
        if job.is_baseline:
            failed_baseline = _failure(store, job)


def _run_on_ray(store: Store, plan: ComparePlan, listener: Listener) -> None:
    from evalkit.running.cluster import run_shards, shards, share_count

    jobs = [job for job in plan.jobs if job.variant.text not in plan.refused]
    for job in plan.jobs:
        if job not in jobs:
            _run_variant(store, job, plan.refused[job.variant.text], listener)
    found = shards(jobs, share_count(plan.text_bytes))
    todo = [i for i, shard in enumerate(found) if unfinished(store, shard.job, shard.part)]

    baseline = plan.jobs[0]
    run = partial(_run_parts, baseline)
    run_shards(found, todo, plan.ray, run, partial(_fail, store), listener)
    if baseline.mirror:
        Mirror(baseline.mirror).fetch()


def _run_parts(baseline: VariantJob, job: VariantJob, listener: Listener) -> None:
    """The parts of `job`, on the machine where this is called."""
    with mirrored(job.mirror or job.store) as folder:
        assert folder is not None
        store = Store(folder)
        job = dataclasses.replace(job, store=folder)
        failed = "" if job.is_baseline else _failure(store, baseline)
        if failed:
            job = _without(store, job, "texts", failed)
        here, there = environment.machine(job.device), job.environment.machine
        if here != there:
            why = (
                f"a worker runs on {here}, the command on {there}: speed is compared on one kind"
                " of machine; give the command on a machine like the workers'"
            )
            if any(part.kind == "probes" for part in job.parts):
                listener(Event(job.variant.label, "", message=why))
            job = _without(store, job, "probes", why)
        _run_variant(store, job, "", listener)


def comparison_id(comparison: Comparison) -> str:
    """Names a comparison by its runs and margin, so that repeating it replaces it."""
    return content_hash([comparison.margin, [row.runs for row in comparison.rows]])


def _run_variant(store: Store, job: VariantJob, refusal: str, listener: Listener) -> None:
    if not any(unfinished(store, job, part) for part in job.parts):
        return
    try:
        if refusal:
            raise VariantError(refusal)
        if spec_of(job.variant).quantizes and job.model.weights == "checkpoint":
            run_child(_quantize, job, listener)
        run_child(_measure, job, listener)
    except EvalkitError as error:
        _fail(store, job, error)
        if isinstance(error, InterruptedWorkError):
            raise
        listener(Event(job.variant.label, "", message=str(error)))


def _fail(store: Store, job: VariantJob, error: EvalkitError) -> None:
    """Record what `job` left unfinished as failed."""
    for part in job.parts:
        if unfinished(store, job, part):
            store.save(failed_run(store, job, part, error))


def _measure(job: VariantJob, send: Listener) -> None:
    from evalkit.running.compare.worker import measure_variant

    measure_variant(job, send)


def _quantize(job: VariantJob, send: Listener) -> None:
    from evalkit.running.quantize import quantize_variant

    quantize_variant(job, send)


def _failure(store: Store, job: VariantJob) -> str:
    """Why the baseline's text part has no reference; empty where it has."""
    for part in job.parts:
        stored = store.load(part.run.id)
        if part.kind == "texts" and stored is not None and stored.status != "ok":
            return f"the baseline {job.variant.label} failed: {stored.message}"
    return ""


def _without(store: Store, job: VariantJob, kind: Kind, why: str) -> VariantJob:
    """The job without its parts of this kind, which are stored as failed."""
    for part in job.parts:
        if part.kind == kind:
            store.save(failed_run(store, job, part, VariantError(why)))
    return dataclasses.replace(job, parts=tuple(p for p in job.parts if p.kind != kind))


def _forget(store: Store, plan: ComparePlan) -> None:
    for job in plan.jobs:
        store.forget_reference(job.reference)
        for part in job.parts:
            store.forget(part.run.id)


def _compare(store: Store, plan: ComparePlan) -> Comparison:
    measured = [
        load_measured(
            store,
            job.variant,
            tuple(_stored(store, job, part) for part in job.parts),
            job.environment.machine,
            "" if job.is_baseline else job.reference,
        )
        for job in plan.jobs
    ]
    model = dataclasses.replace(plan.model, parameters=_parameters(measured))
    return compare(
        model,
        plan.suite,
        measured,
        plan.margin,
        notes=plan.notes,
        store=str(store.root),
        columns=table_columns(),
    )


def _parameters(measured: Sequence[Measured]) -> int:
    """Parameters of the model, as counted by the first variant that was loaded; 0 by none."""
    counts = [one.measurements().get("bits_per_weight") for one in measured]
    return next((int(m.details["parameters"]) for m in counts if m is not None), 0)


def _stored(store: Store, job: VariantJob, part: Part) -> Run:
    """The stored run with the variant as asked for now (its label may differ)."""
    stored = store.load(part.run.id) or part.run
    return dataclasses.replace(stored, variant=job.variant, suite=part.run.suite)
