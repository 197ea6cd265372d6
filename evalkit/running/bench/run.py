"""`evalkit bench`: rounds of all variants in turn, each in a process of its own, then one record.

Every round that finished is stored at once; a bench that was stopped goes on with the next round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import (
    EvalkitError,
    InterruptedWorkError,
    VariantError,
)
from evalkit.options import BenchOptions
from evalkit.progress import Event, Listener
from evalkit.records import content_hash, from_json, to_json
from evalkit.records.bench import Bench
from evalkit.running.bench.machine_rates import machine_rates, measured_again
from evalkit.running.bench.plan import BenchPlan, engine_names, make_bench_plan
from evalkit.running.bench.round import RoundJob, RoundResult
from evalkit.running.job import Job
from evalkit.running.process import run_child
from evalkit.running.quantize import make_checkpoint
from evalkit.running.readiness import refuse_measuring
from evalkit.store.claims import claim
from evalkit.store.files import read_json, write_json
from evalkit.store.store import Store

MOST_BATCH = 512


@dataclass(frozen=True)
class Measured:
    """A variant's rounds, or why there are none, and its soak."""

    job: Job
    rounds: tuple[RoundResult, ...]
    failure: EvalkitError | None = None
    soak: RoundResult | None = None


def run_bench(variants: Sequence[str], options: BenchOptions, listener: Listener) -> Bench:
    """Measure what the store lacks and summarise; a variant that fails is a row that says so.

    Raises UsageError or ModelError before anything starts, InterruptedWorkError after Ctrl-C with
    every finished round stored.
    """
    from evalkit.running.bench.summary import is_beyond, summarise, with_warnings

    plan = make_bench_plan(variants, options, listener)
    store = Store(plan.jobs[0].store)
    folder = store.root / "benches" / plan.id
    with claim(store.claim_file(f"bench-{plan.id}"), lambda who: listener(_waiting(who))):
        if options["fresh"]:
            for file in folder.glob("*.json"):
                file.unlink()
        refuse_measuring(_left(plan, folder))
        rates = machine_rates(store, plan.jobs[0], listener)
        measured = _measure(plan, folder, listener)
    bench = summarise(plan, measured, rates)
    if any(map(is_beyond, bench.points)):
        rates = measured_again(store, plan.jobs[0], rates, listener)
        bench = with_warnings(summarise(plan, measured, rates))
    store.save_bench(bench, plan.id)
    return bench


def _left(plan: BenchPlan, folder: Path) -> list[Job]:
    """The jobs with a round or a soak still to be measured."""
    rounds = range(plan.options["rounds"])
    return [
        job
        for job in plan.jobs
        if not job.refusal
        and (plan.options["soak"] or not all(_file(folder, job, n).exists() for n in rounds))
    ]


def _file(folder: Path, job: Job, number: int) -> Path:
    """Where the round `number` of a job is kept."""
    return folder / f"{content_hash(job.variant.text, 8)}-{number}.json"


def _waiting(who: str) -> Event:
    return Event("bench", "", message=f"waiting for {who}, which runs this bench now")


def _measure(plan: BenchPlan, folder: Path, listener: Listener) -> tuple[Measured, ...]:
    """All rounds in turn; the first of each variant decides its batch sizes and engine."""
    options = plan.options
    first = RoundJob(
        job=plan.jobs[0],
        engines=engine_names(options["engine"], plan.jobs[0].device),
        prompt=options["prompt"],
        generate=options["generate"],
        repetitions=options["repetitions"],
        batches=plan.batches,
        contexts=plan.contexts,
        most=MOST_BATCH,
    )
    found = {
        job.variant.text: Measured(job, (), VariantError(job.refusal) if job.refusal else None)
        for job in plan.jobs
    }
    for number in range(options["rounds"]):
        for name, one in found.items():
            if one.failure is not None:
                continue
            round_ = _like(dataclasses.replace(first, job=one.job), one.rounds)
            file = _file(folder, one.job, number)
            stage = f"round {number + 1} of {options['rounds']}"
            found[name] = _one_round(one, round_, file, stage, listener)
    if soak := float(options["soak"]):
        for name, one in found.items():
            if one.failure is None:
                round_ = dataclasses.replace(first, job=one.job, soak=soak)
                found[name] = _soak(one, round_, listener)
    return tuple(found.values())


def _like(round_: RoundJob, before: Sequence[RoundResult]) -> RoundJob:
    """A later round repeats the batches of the first that fitted, with the engine it chose."""
    if not before:
        return round_
    phases = [p for p in before[0].phases if p.phase == "decode" and p.status == "ok"]
    batches = dict.fromkeys(p.batch for p in phases if p.context == round_.prompt)
    engines = tuple(dict.fromkeys(p.engine for p in phases)) or round_.engines
    return dataclasses.replace(round_, batches=tuple(batches), engines=engines[:1])


def _one_round(
    one: Measured, round_: RoundJob, file: Path, stage: str, listener: Listener
) -> Measured:
    if file.exists():
        return dataclasses.replace(one, rounds=(*one.rounds, _stored(file)))
    listener(Event(one.job.variant.label, stage))
    try:
        make_checkpoint(one.job, listener)
        result = run_child(_round, round_, listener, gpu=one.job.visible)
    except InterruptedWorkError:
        raise
    except EvalkitError as error:
        listener(Event(one.job.variant.label, "", message=str(error)))
        return dataclasses.replace(one, failure=error)
    write_json(file, to_json(result))
    return dataclasses.replace(one, rounds=(*one.rounds, result))


def _soak(one: Measured, round_: RoundJob, listener: Listener) -> Measured:
    from evalkit.running.bench.summary import knee_of

    batch = knee_of(one, round_.prompt) or 1
    round_ = dataclasses.replace(_like(round_, one.rounds), soak_batch=batch)
    try:
        result = run_child(_round, round_, listener, gpu=one.job.visible)
        return dataclasses.replace(one, soak=result)
    except InterruptedWorkError:
        raise
    except EvalkitError as error:
        listener(Event(one.job.variant.label, "", message=f"soak: {error}"))
        return one


def _stored(file: Path) -> RoundResult:
    content: Any = read_json(file)
    return from_json(RoundResult, content)


def _round(round_: RoundJob, send: Listener) -> RoundResult:
    from evalkit.running.bench.round import measure_round
    from evalkit.running.bench.served_round import measure_served_round
    from evalkit.running.session import loaded, open_variant, served

    with open_variant(round_.job, send) as session:
        if session.can("probes"):
            return measure_round(round_, loaded(session), send)
        return measure_served_round(round_, served(session), send)
