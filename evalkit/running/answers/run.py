"""Carrying out a plan of answers: variant after variant, then what differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from evalkit.analysis.answers import (
    Said,
    judged,
    noise_floor,
    parted,
    sentence,
    with_differences,
    with_divergence,
    with_summary,
)
from evalkit.backends import label
from evalkit.errors import EvalkitError, InterruptedWorkError, VariantError
from evalkit.options import AnswersOptions
from evalkit.progress import Event, Listener
from evalkit.records import Run
from evalkit.records.answers import Answers, AnswersRow, NoiseFloor
from evalkit.results.load_answers import read_along, read_answers_table
from evalkit.running.answers.plan import (
    AGAIN,
    ALONG,
    ANSWERS,
    AnswersPlan,
    Asked,
    make_answers_plan,
)
from evalkit.running.job import Job
from evalkit.running.process import run_child
from evalkit.running.quantize import make_checkpoint
from evalkit.running.readiness import refuse_measuring
from evalkit.running.remaining import failed_run, unfinished
from evalkit.store.store import Store


def run_answers(variants: Sequence[str], options: AnswersOptions, listener: Listener) -> Answers:
    """Let every variant answer what the store lacks, and compare; a failed one is a row.

    Raises UsageError, DataError or ModelError before anything starts, VariantError where the
    baseline fails, InterruptedWorkError after Ctrl-C with every finished answer stored.
    """
    plan = make_answers_plan(variants, options, listener)
    store = Store(plan.store)
    if options["fresh"]:
        for job in plan.jobs:
            store.forget(job.parts[0].run.id)
        store.forget_reference(plan.jobs[0].reference)
    refuse_measuring([job for job in plan.jobs if not job.refusal and _left(store, job)])
    failures = {}
    for job in plan.jobs:
        try:
            _answer(store, job, plan.asked, listener)
        except InterruptedWorkError:
            raise
        except EvalkitError as error:
            if job.is_baseline:
                raise
            failures[job.parts[0].run.id] = error
            listener(Event(job.variant.label, "", message=str(error)))
    answers = _answers(store, plan, failures)
    store.save_answers(answers, plan.id)
    return answers


def _left(store: Store, job: Job) -> bool:
    return unfinished(store, job, job.parts[0])


def _answer(store: Store, job: Job, asked: Asked, listener: Listener) -> None:
    """Let one variant answer in a process of its own; raises what ended it, which is stored."""
    if job.refusal:
        raise VariantError(job.refusal)
    if not _left(store, job):
        return
    try:
        make_checkpoint(job, listener)
        listener(Event(job.variant.label, "starting"))
        run_child(_measure, (job, asked), listener, gpu=job.visible)
    except EvalkitError as error:
        store.save(failed_run(store, job, job.parts[0], error))
        raise


def _measure(work: tuple[Job, Asked], send: Listener) -> None:
    from evalkit.running.answers.worker import Work, measure_answers

    measure_answers(Work(*work), send)


def _answers(store: Store, plan: AnswersPlan, failures: dict[str, EvalkitError]) -> Answers:
    """The record of what is stored."""
    said = {
        job.parts[0].run.id: _said(store, job, ANSWERS)
        for job in plan.jobs
        if job.parts[0].run.id not in failures
    }
    baseline, *others = plan.jobs
    prompts = plan.asked.prompts
    spoken = said[baseline.parts[0].run.id]
    floor = _floor(store, plan, spoken)
    first = with_summary(_row(store, baseline), prompts, judged(prompts, _ordered(spoken)))
    rows = [first]
    for job in others:
        key = job.parts[0].run.id
        if key in failures:
            rows.append(_failed(store, job, failures[key]))
            continue
        leads = [one.leads if not plan.asked.temperature else () for one in _ordered(spoken)]
        answers = parted(judged(prompts, _ordered(said[key])), first.answers, leads)
        row = with_summary(_row(store, job), prompts, answers)
        row = with_differences(row, first, floor, plan.margin, plan.asked.generate)
        rows.append(with_divergence(row, read_along(store.root / _table(store, job, ALONG))))
    return Answers(
        model=plan.model,
        baseline=baseline.variant.label,
        prompts=prompts,
        rows=tuple(rows),
        noise_floor=floor,
        margin=plan.margin.text,
        decoding=plan.asked.words,
        sentence=sentence(rows, len(prompts)),
        notes=plan.notes,
        environment=plan.environment,
        store=str(store.root),
        command=plan.command,
    )


def _floor(store: Store, plan: AnswersPlan, spoken: dict[int, Said]) -> NoiseFloor:
    again = _said(store, plan.jobs[0], AGAIN)
    pairs = [(spoken[index], again[index]) for index in sorted(again)]
    if plan.asked.temperature:
        # What is drawn needs not be the likeliest: its lead says nothing.
        pairs = [(_without_leads(one), _without_leads(two)) for one, two in pairs]
    return noise_floor(pairs)


def _without_leads(one: Said) -> Said:
    return dataclasses.replace(one, leads=())


def _ordered(said: dict[int, Said]) -> list[Said]:
    return [said[index] for index in sorted(said)]


def _run(store: Store, job: Job) -> Run:
    return store.load(job.parts[0].run.id) or job.parts[0].run


def _table(store: Store, job: Job, metric: str) -> str:
    found = _run(store, job).measurement(metric, baseline=job.parts[0].baseline)
    assert found is not None
    assert found.table is not None
    return found.table


def _said(store: Store, job: Job, metric: str) -> dict[int, Said]:
    return read_answers_table(store.root / _table(store, job, metric))


def _row(store: Store, job: Job) -> AnswersRow:
    run = _run(store, job)
    return AnswersRow(
        variant=job.variant.label,
        resolved=job.variant.text,
        label=label(job.variant),
        kernel=run.kernel,
        notes=run.notes,
    )


def _failed(store: Store, job: Job, error: EvalkitError) -> AnswersRow:
    status = _run(store, job).status if not job.refusal else "failed"
    row = AnswersRow(job.variant.label, job.variant.text, status, str(error))
    return dataclasses.replace(row, label=label(job.variant))
