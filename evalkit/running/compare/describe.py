"""What a plan will do, in lines: `--dry-run`. Tokenises the texts, loads no model."""

from __future__ import annotations

from dataclasses import dataclass

from evalkit.progress import Listener
from evalkit.running.cluster import share_count
from evalkit.running.compare.disk import bytes_written, state_bytes
from evalkit.running.compare.expected import duration_lines
from evalkit.running.compare.plan import ComparePlan
from evalkit.running.job import Job
from evalkit.running.process import run_child
from evalkit.running.remaining import unfinished
from evalkit.store.store import Store


@dataclass(frozen=True)
class Counts:
    """Windows of the texts, their tokens, and how many of those are scored."""

    windows: int
    tokens: int
    scored: int


def describe(plan: ComparePlan, listener: Listener) -> str:
    """Variants resolved, windows, tokens, disk and memory needed, and the time it takes."""
    store = Store(plan.store)
    job = plan.jobs[0]
    lines = [
        *plan.notes,
        f"model: {plan.model.name} ({plan.model.architecture}), {plan.checkpoint.path}",
    ]
    lines += [f"device: {job.device}, {job.environment.machine}"]
    lines += _suite_lines(plan, job, listener)
    for one in plan.jobs:
        todo = [part.kind for part in one.parts if unfinished(store, one, part)]
        state = (
            f"cannot run: {one.refusal}" if one.refusal else ", ".join(todo) or "measured before"
        )
        role = " (baseline)" if one.is_baseline else ""
        lines.append(f"variant {one.variant.label} = {one.variant.text}{role}: {state}")
    lines += duration_lines(store, plan.jobs, listener)
    return "\n".join([*lines, f"store: {plan.store}"])


def _suite_lines(plan: ComparePlan, job: Job, listener: Listener) -> list[str]:
    suite = plan.suite
    lines = [f"suite: {suite.name}"]
    if suite.texts:
        counts: Counts = run_child(_count, job, listener)
        lines.append(
            f"texts: {', '.join(text.name for text in suite.texts)}; convention"
            f" {suite.convention}, context {suite.context}: {counts.windows:,} windows,"
            f" {counts.tokens:,} tokens, {counts.scored:,} scored"
        )
        hidden = plan.checkpoint.hidden_size
        size = f"{counts.scored * hidden * state_bytes(job) / 1e6:,.1f} MB"
        lines.append(f"reference on disk: {size}")
        if plan.ray:
            shares = share_count(plan.text_bytes)
            lines.append(
                f"Ray: texts in {shares} share{'s' * (shares > 1)} of their windows; workers read"
                f" the {size} from the store, and do not run the baseline again"
            )
    for task in suite.tasks:
        shots = "its own" if task.shots is None else task.shots
        items = "all items" if task.limit is None else f"first {task.limit} items"
        lines.append(f"task {task.name}: {shots} shots, {items}")
    weights = sum(file.stat().st_size for file in plan.checkpoint.weight_files)
    written = bytes_written(plan, plan.jobs) / 1e6
    lines.append(f"disk: about {written:,.1f} MB in the store, reference and kept checkpoints")
    return [*lines, f"checkpoint: {weights / 1e6:,.1f} MB of weights"]


def _count(job: Job, send: Listener) -> Counts:
    from evalkit.running.compare.texts import load_windows

    part = next(part for part in job.parts if part.kind == "texts")
    windows = load_windows(Store(job.store), job, part)
    return Counts(len(windows), int(windows.lengths.sum()), int(windows.scored.sum()))
