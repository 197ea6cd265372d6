"""What of a job is done, what is added, and what a failed part looks like. No torch import."""

from __future__ import annotations

import dataclasses

from evalkit.errors import EvalkitError, InterruptedWorkError, OutOfMemoryError
from evalkit.records import Measurement, Run, Status
from evalkit.running.job import Job, Part
from evalkit.store.store import Store


def unfinished(store: Store, job: Job, part: Part) -> bool:
    """Whether the store lacks a metric of `part`, or (for the baseline) its reference."""
    stored = store.load(part.run.id)
    if stored is None or stored.status != "ok":
        return True
    if part.missing(stored, job.environment.machine):
        return True
    reference = store.reference(job.reference) / "complete.json"
    records = part.kind in ("texts", "answers")
    makes_reference = records and job.is_baseline and job.divergence
    return makes_reference and not reference.exists()


def shortened_speed(store: Store, part: Part) -> tuple[int, int] | None:
    """Prompt and generation whose speed was measured in place of longer ones asked for."""
    run = store.load(part.run.id)
    found = run.measurement("prefill_tokens_per_second") if run else None
    lengths = found.details.get("lengths") if found else None
    return (int(lengths[0]), int(lengths[1])) if lengths else None


def add(store: Store, run: Run, new: list[Measurement]) -> Run:
    """`run` with measurements added (older ones of the same kind replaced), stored."""
    replaced = {(m.metric, m.machine, m.baseline) for m in new}
    kept = [m for m in run.measurements if (m.metric, m.machine, m.baseline) not in replaced]
    run = dataclasses.replace(run, measurements=(*kept, *new))
    store.save(run)
    return run


def failed_run(store: Store, job: Job, part: Part, error: EvalkitError) -> Run:
    """The run of `part`, with what was measured before `error` ended it."""
    status: Status = "failed"
    if isinstance(error, OutOfMemoryError):
        status = "out_of_memory"
    elif isinstance(error, InterruptedWorkError):
        status = "interrupted"
    stored = store.load(part.run.id) or part.run
    return dataclasses.replace(
        stored, status=status, message=str(error), environment=job.environment
    )
