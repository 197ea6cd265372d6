"""Carrying out a plan: one variant after the other, each in its own process; failure is data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

from evalkit.analysis.compare import Measured, compare
from evalkit.backends import label, next_method
from evalkit.errors import EvalkitError, InterruptedWorkError, OutOfMemoryError, VariantError
from evalkit.metrics import asked_columns
from evalkit.options import MEASURED
from evalkit.progress import Event, Listener
from evalkit.records import Comparison, Run, Verdict, Word, content_hash
from evalkit.results.load_measured import load_measured
from evalkit.running.build_job import on_this_machine
from evalkit.running.compare.announce import tell_plan
from evalkit.running.compare.expected import expected_time
from evalkit.running.compare.plan import (
    ComparePlan,
    follow_baseline,
    with_batch_tokens,
    with_other_method,
)
from evalkit.running.job import PROBES, Job, Kind, Part
from evalkit.running.process import run_child
from evalkit.running.quantize import make_checkpoint
from evalkit.running.readiness import refuse_measuring
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
    if not plan.ray:
        # On Ray it is the workers' machines that need to be ready.
        refuse_measuring(_left(store, plan.jobs), plan.text_bytes)
    plan = follow_baseline(plan, store)
    tell_plan(expected_time(store, plan.jobs, listener, imports=False), plan, listener)
    try:
        plan = (_run_on_ray if plan.ray else _run_here)(store, plan, listener)
    except InterruptedWorkError:
        _save(store, _partial(_compare(store, plan)))
        raise
    comparison = _compare(store, plan)
    _save(store, comparison)
    return comparison


def _save(store: Store, comparison: Comparison) -> None:
    """Store a comparison; one that lost rows lies beside the better one that it would replace."""
    name = comparison_id(comparison)
    before = store.comparison(name)
    if before is not None and _whole_rows(before) > _whole_rows(comparison):
        name = content_hash([name, "partial"])
    store.save_comparison(comparison, name)


def _whole_rows(comparison: Comparison) -> int:
    return sum(row.status == "ok" for row in comparison.rows)


def _partial(comparison: Comparison) -> Comparison:
    """What there is of an interrupted comparison, whose sentence says so."""
    sentence = (
        f"Partial results: {_whole_rows(comparison)} of {len(comparison.rows)} variants were"
        f" measured when it was interrupted; run the same command again to go on."
    )
    return dataclasses.replace(comparison, sentence=sentence)


def _run_here(store: Store, plan: ComparePlan, listener: Listener) -> ComparePlan:
    """Measure variant after variant; the plan with the batch sizes that fitted in the end."""
    failed_baseline = ""
    for index in range(len(plan.jobs)):
        plan = _with_checkpoint(store, plan, index, listener)
        while smaller := _run_job(store, plan.jobs[index], failed_baseline, listener):
            why = f"a batch does not fit in memory: {smaller} tokens from now on"
            listener(Event(plan.jobs[index].variant.label, "", message=why))
            plan = with_batch_tokens(plan, index, smaller)
        if index == 0:
            plan = follow_baseline(plan, store)
        failed_baseline = failed_baseline or _failure(store, plan.jobs[0])
    return plan


def _with_checkpoint(
    store: Store, plan: ComparePlan, index: int, listener: Listener
) -> ComparePlan:
    """The plan with one job's checkpoint made: where that fails, by a bare word's next method."""
    job = plan.jobs[index]
    other = next_method(job.variant)
    if other is None or job.refusal or not any(unfinished(store, job, p) for p in job.parts):
        return plan
    try:
        make_checkpoint(job, listener)
    except InterruptedWorkError as error:
        _fail(store, job, error)
        raise
    except EvalkitError as error:
        plan = with_other_method(plan, index, other, str(error).partition("; use ")[0])
        listener(Event(job.variant.label, "", message=plan.jobs[index].notes[0]))
    return plan


def _left(store: Store, jobs: Sequence[Job]) -> list[Job]:
    """The jobs with a part still to be measured."""
    return [
        job
        for job in jobs
        if not job.refusal and any(unfinished(store, job, part) for part in job.parts)
    ]


def _run_on_ray(store: Store, plan: ComparePlan, listener: Listener) -> ComparePlan:
    from evalkit.running.cluster import run_shards, shards, share_count

    for job in plan.jobs:
        if job.refusal:
            _run_job(store, job, "", listener)
    found = shards([job for job in plan.jobs if not job.refusal], share_count(plan.text_bytes))
    todo = [i for i, shard in enumerate(found) if unfinished(store, shard.job, shard.part)]

    run = partial(_run_parts, plan.jobs[0])
    run_shards(found, todo, plan.ray, run, partial(_fail, store), listener)
    if plan.jobs[0].mirror:
        Mirror(plan.jobs[0].mirror).fetch()
    return plan


def _run_parts(baseline: Job, job: Job, listener: Listener) -> None:
    """The parts of `job`, on the machine where this is called."""
    with mirrored(job.mirror or job.store) as folder:
        assert folder is not None
        store = Store(folder)
        there = job.environment.machine
        job = on_this_machine(dataclasses.replace(job, store=folder))
        failed_baseline = "" if job.is_baseline else _failure(store, baseline)
        here = job.environment.machine
        if here != there:
            why = (
                f"a worker runs on {here}, the command on {there}: speed is compared on one kind"
                " of machine; give the command on a machine like the workers'"
            )
            if any(part.is_probe for part in job.parts):
                listener(Event(job.variant.label, "", message=why))
            job = _without(store, job, PROBES, why)
        try:
            refuse_measuring(_left(store, [job]))
        except EvalkitError as error:
            _fail(store, job, error)
            listener(Event(job.variant.label, "", message=str(error)))
            return
        if smaller := _run_job(store, job, failed_baseline, listener):
            # The machine that made the plan looks for results of the batch size it asked for.
            why = f"a batch does not fit in memory: give --batch-tokens {smaller}"
            _fail(store, job, OutOfMemoryError(why))


def comparison_id(comparison: Comparison) -> str:
    """Names a comparison by its runs and margin, so that repeating it replaces it."""
    return content_hash([comparison.margin, [row.runs for row in comparison.rows]])


def _run_job(store: Store, job: Job, failed_baseline: str, listener: Listener) -> int | None:
    """Measure what the store lacks of `job`; a smaller batch size where that is another job.

    Texts are left out where `failed_baseline` says why there is nothing to compare them with.
    """
    if failed_baseline and not job.refusal:
        job = _without(store, job, ("texts",), failed_baseline)
    if not any(unfinished(store, job, part) for part in job.parts):
        return None
    try:
        if job.refusal:
            raise VariantError(job.refusal)
        make_checkpoint(job, listener)
        listener(Event(job.variant.label, "starting", step="loading"))
        smaller: int | None = run_child(_measure, job, listener, gpu=job.visible)
        return smaller
    except EvalkitError as error:
        _fail(store, job, error)
        if isinstance(error, InterruptedWorkError):
            raise
        if not job.refusal:  # told before the first variant
            listener(Event(job.variant.label, "", message=str(error)))
    return None


def _fail(store: Store, job: Job, error: EvalkitError) -> None:
    """Record what `job` left unfinished as failed."""
    for part in job.parts:
        if unfinished(store, job, part):
            store.save(failed_run(store, job, part, error))


def _measure(job: Job, send: Listener) -> int | None:
    from evalkit.running.compare.worker import measure_variant

    return measure_variant(job, send)


def _failure(store: Store, job: Job) -> str:
    """Why the baseline's text part has no reference; empty where it has."""
    for part in job.parts:
        stored = store.load(part.run.id)
        if part.kind == "texts" and stored is not None and stored.status != "ok":
            return f"the baseline {job.variant.label} failed: {stored.message}"
    return ""


def _without(store: Store, job: Job, kinds: Sequence[Kind], why: str) -> Job:
    """The job without its parts of these kinds, which are stored as failed."""
    for part in job.parts:
        if part.kind in kinds:
            store.save(failed_run(store, job, part, VariantError(why)))
    return dataclasses.replace(job, parts=tuple(p for p in job.parts if p.kind not in kinds))


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
            label=label(job.variant),
        )
        for job in plan.jobs
    ]
    model = dataclasses.replace(plan.model, parameters=_parameters(measured))
    found = compare(
        model,
        plan.suite,
        measured,
        plan.margin,
        notes=plan.notes,
        store=str(store.root),
        environment=plan.environment,
        columns=asked_columns(plan.wanted),
    )
    found = dataclasses.replace(found, only=plan.only, command=plan.command)
    return found if plan.wanted & MEASURED["quality"] else _without_quality(found)


def _without_quality(comparison: Comparison) -> Comparison:
    """The comparison of speed and memory alone, in which no quality was asked for."""
    unasked = Verdict(Word.NOT_ASKED)
    rows = tuple(dataclasses.replace(row, verdict=unasked) for row in comparison.rows)
    return dataclasses.replace(comparison, rows=rows, sentence="Quality was not asked for.")


def _parameters(measured: Sequence[Measured]) -> int:
    """Parameters of the model, as counted by the first variant that was loaded; 0 by none."""
    counts = [one.measurements().get("bits_per_weight") for one in measured]
    return next((int(m.details["parameters"]) for m in counts if m is not None), 0)


def _stored(store: Store, job: Job, part: Part) -> Run:
    """The stored run with the variant as asked for now (its label may differ)."""
    stored = store.load(part.run.id) or part.run
    return dataclasses.replace(stored, variant=job.variant, suite=part.run.suite)
