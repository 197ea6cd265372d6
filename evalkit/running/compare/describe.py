"""What a plan will do: `--dry-run`. Tokenises the texts, loads no model."""

from __future__ import annotations

import time
from collections.abc import Mapping

from evalkit.progress import Listener
from evalkit.records.dry_run import DryRun, DryRunRow, DryRunStatus, TextCounts
from evalkit.running.cluster import share_count
from evalkit.running.compare.expected import Expectation, expected_time, remaining
from evalkit.running.compare.plan import ComparePlan, follow_baseline
from evalkit.running.disk import bytes_written, state_bytes
from evalkit.running.job import Job
from evalkit.running.memory_check import capacity, free_memory, needed_memory
from evalkit.running.process import run_child
from evalkit.store.store import Store


def describe(plan: ComparePlan, listener: Listener) -> DryRun:
    """Variants resolved, windows, tokens, disk and memory needed, and the time it takes."""
    store = Store(plan.store)
    plan = follow_baseline(plan, store)
    job = plan.jobs[0]
    device = job.gpu or job.device
    texts = _text_counts(plan, job, listener)
    needed: dict[str, float] = run_child(_needed, plan, listener, gpu="")
    time_ = expected_time(store, plan.jobs, listener, imports=True)
    return DryRun(
        model=plan.model,
        checkpoint=str(plan.checkpoint.path),
        weight_bytes=plan.checkpoint.weight_bytes,
        device=job.device,
        machine=job.environment.machine,
        memory_free=free_memory(device),
        memory_total=round(capacity(device)),
        disk_bytes=round(bytes_written(plan.jobs, plan.text_bytes)),
        context=plan.context,
        suite=plan.suite,
        store=str(plan.store),
        rows=tuple(_row(store, one, needed, time_) for one in plan.jobs),
        texts=texts,
        preparing=time_.preparing,
        time=time_.whole,
        time_unknown=time_.unknown,
        finish=_finish(time_),
        notes=plan.notes,
        shares=share_count(plan.text_bytes) if plan.ray else 0,
    )


def _row(store: Store, job: Job, needed: Mapping[str, float], time_: Expectation) -> DryRunRow:
    left = remaining(store, job)
    status: DryRunStatus = "to measure" if left else "measured before"
    return DryRunRow(
        variant=job.variant.label,
        resolved=job.variant.text,
        status="cannot run" if job.refusal else status,
        message=job.refusal,
        remaining=tuple(part.name for part in left),
        memory=needed.get(job.variant.text),
        steps=time_.steps.get(job.variant.text, ()),
    )


def _finish(time_: Expectation) -> str:
    """When all of it ends if it begins now, in this machine's time; "" where that is not known."""
    if time_.whole is None:
        return ""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() + time_.whole.seconds))


def _needed(plan: ComparePlan, send: Listener) -> dict[str, float]:
    job = plan.jobs[0]
    variants = [job.variant for job in plan.jobs]
    return needed_memory(variants, plan.checkpoint, job.device, plan.context)


def _text_counts(plan: ComparePlan, job: Job, listener: Listener) -> TextCounts | None:
    if not plan.suite.texts:
        return None
    windows, tokens, scored, left_out = run_child(_count, job, listener, gpu="")
    reference = scored * plan.checkpoint.hidden_size * state_bytes(job)
    return TextCounts(windows, tokens, scored, left_out, reference)


def _count(job: Job, send: Listener) -> tuple[int, int, int, int]:
    """Windows of the texts, their tokens, how many of those are scored, and the tokens left out."""
    from evalkit.running.compare.texts import load_windows

    part = next(part for part in job.parts if part.kind == "texts")
    windows = load_windows(Store(job.store), job, part)
    sums = [int(of.sum()) for of in (windows.lengths, windows.scored, windows.left_out)]
    return len(windows), sums[0], sums[1], sums[2]
