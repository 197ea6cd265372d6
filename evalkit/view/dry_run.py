"""What a comparison would do, as a sheet and JSON.

The JSON object has the schema "evalkit.dry_run/1": `model`, `checkpoint` (its directory),
`weight_bytes`, `device`, `machine`, `memory` (`free_bytes` and `total_bytes` of the device, now),
`disk_bytes` (written to the store), `context`, `suite`, `texts` (`names`, `windows`, `tokens`,
`scored`, `left_out`, `reference_bytes`; null without texts), `tasks` (`name`, `shots`, `limit`),
`shares` (of the texts on a Ray cluster, else 0), `preparing`, `rows`, `time` (`seconds`, within
`factor` either way, told from `source`; null where nothing is left, or `time_unknown` says why),
`finish` (ISO 8601, "" without a time), `notes` and `store`. A row has `variant` (as asked for),
`resolved`, `status` ("to measure", "measured before", "cannot run"), `message`, `remaining` (parts
left), `memory_needed_bytes` at batch 1 and `context`, `fits_now` (null where that is not known),
`seconds`, and `steps`, each with `name`, `seconds`, `factor` and `source`, as those of `preparing`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from evalkit import numbers
from evalkit.paths import called, called_words
from evalkit.plain_text import duration
from evalkit.records import to_json as plain
from evalkit.records.dry_run import DryRun, DryRunRow, Step, TextCounts
from evalkit.view.cells import Grid, Line
from evalkit.view.export import json_text
from evalkit.view.sheet import Sheet

SCHEMA = "evalkit.dry_run/1"


def sheet(found: DryRun) -> Sheet:
    """Notes, heading, one line a variant with its memory and the time of each step, totals."""
    heading = [
        numbers.clean(f"{called(found.model.name)} ({found.model.architecture})"),
        numbers.clean(f"{found.device}: {found.machine}"),
        f"suite {numbers.clean(found.suite.name)}",
    ]
    grid = _grid(found.rows)
    return Sheet("Dry run", heading, grid, list(map(numbers.clean, _remarks(found))), found.notes)


def to_json(found: DryRun) -> str:
    """One object (see the module's docstring)."""
    texts = None
    if found.texts is not None:
        texts = {"names": [text.name for text in found.suite.texts], **plain(found.texts)}
    tasks = [{"name": t.name, "shots": t.shots, "limit": t.limit} for t in found.suite.tasks]
    return json_text({
        "schema": SCHEMA,
        "model": found.model.name,
        "checkpoint": found.checkpoint,
        "weight_bytes": found.weight_bytes,
        "device": found.device,
        "machine": found.machine,
        "memory": {"free_bytes": found.memory_free, "total_bytes": found.memory_total},
        "disk_bytes": found.disk_bytes,
        "context": found.context,
        "suite": found.suite.name,
        "texts": texts,
        "tasks": tasks,
        "shares": found.shares,
        "preparing": _json_steps(found.preparing),
        "rows": [_json_row(found, row) for row in found.rows],
        "time": plain(found.time) if found.time else None,
        "time_unknown": found.time_unknown,
        "finish": found.finish,
        "notes": found.notes,
        "store": found.store,
    })  # fmt: skip


def _grid(rows: Sequence[DryRunRow]) -> Grid:
    """Memory, all time, and the time of every step that any variant has."""
    # In the order of the variant that has the most: quantizing comes before loading.
    most_first = sorted(rows, key=lambda row: -len(row.steps))
    names = tuple(dict.fromkeys(step.name for row in most_first for step in row.steps))
    lines = []
    for row in rows:
        label = numbers.clean(called_words(row.variant))
        if row.status != "to measure":
            why = f"{row.status}: {row.message}" if row.message else row.status
            lines.append(Line(label, message=numbers.clean(why)))
            continue
        memory = numbers.MISSING if row.memory is None else numbers.byte_size(row.memory)
        times = {step.name: duration(step.time.seconds) for step in row.steps}
        whole = duration(_seconds(row.steps)) if row.steps else numbers.MISSING
        lines.append(Line(label, (memory, whole, *(times.get(n, numbers.MISSING) for n in names))))
    return Grid(("memory", "time", *map(numbers.clean, names)), tuple(lines))


def _remarks(found: DryRun) -> Iterable[str]:
    for row in found.rows:
        left = f"; left: {', '.join(row.remaining)}" if row.status == "to measure" else ""
        yield f"variant {row.variant} = {row.resolved}{left}"
    yield from _suite_remarks(found)
    weights = numbers.byte_size(found.weight_bytes)
    yield f"checkpoint: {weights} of weights, {found.checkpoint}"
    written = numbers.byte_size(found.disk_bytes)
    yield f"disk: about {written} in the store, reference and kept checkpoints"
    free, all_ = numbers.byte_size(found.memory_free), numbers.byte_size(found.memory_total)
    yield (
        f"memory: {free} free now of {all_}; needed at batch 1 and context {found.context}"
        f"{_too_large(found)}"
    )
    yield _time(found)
    yield f"store: {found.store}"


def _suite_remarks(found: DryRun) -> Iterable[str]:
    suite, counts = found.suite, found.texts
    if counts is not None:
        windows = numbers.counted(counts.windows, "window")
        yield (
            f"texts: {', '.join(text.name for text in suite.texts)}; convention"
            f" {suite.convention}, context {suite.context}: {windows}, {counts.tokens:,} tokens,"
            f" {counts.scored:,} scored{_left_out(counts)}"
        )
        size = numbers.byte_size(counts.reference_bytes)
        yield f"reference on disk: {size}"
        if found.shares:
            yield (
                f"Ray: texts in {found.shares} share{'s' * (found.shares > 1)} of their windows;"
                f" workers read the {size} from the store, and do not run the baseline again"
            )
    for task in suite.tasks:
        shots = "its own" if task.shots is None else task.shots
        items = "all items" if task.limit is None else f"first {task.limit} items"
        yield f"task {task.name}: {shots} shots, {items}"


def _left_out(counts: TextCounts) -> str:
    return f"; {counts.left_out:,} more tokens stand in no window" if counts.left_out else ""


def _too_large(found: DryRun) -> str:
    large = [row.variant for row in found.rows if _fits(found, row) is False]
    return f": more than is free for {', '.join(large)}; end other programs" if large else ""


def _time(found: DryRun) -> str:
    if found.time_unknown:
        return f"time: not known, as {found.time_unknown}"
    if found.time is None:
        return "time: nothing is left to measure"
    before = ", ".join(f"{step.name} {duration(step.time.seconds)}" for step in found.preparing)
    end = datetime.fromisoformat(found.finish).strftime("%H:%M")
    return (
        f"time: about {duration(found.time.seconds)} ({before} before the first variant), done at"
        f" {end}; within a factor of {found.time.factor:.1f}, told from {found.time.source}"
    )


def _fits(found: DryRun, row: DryRunRow) -> bool | None:
    """Whether what a variant needs is free now."""
    return None if row.memory is None else row.memory <= found.memory_free


def _seconds(steps: Iterable[Step]) -> float:
    return math.fsum(step.time.seconds for step in steps)


def _json_steps(steps: Iterable[Step]) -> list[dict[str, Any]]:
    return [{"name": step.name, **plain(step.time)} for step in steps]


def _json_row(found: DryRun, row: DryRunRow) -> dict[str, Any]:
    return {
        "variant": row.variant,
        "resolved": row.resolved,
        "status": row.status,
        "message": row.message,
        "remaining": row.remaining,
        "memory_needed_bytes": None if row.memory is None else round(row.memory),
        "fits_now": _fits(found, row),
        "seconds": _seconds(row.steps) if row.steps else None,
        "steps": _json_steps(row.steps),
    }
