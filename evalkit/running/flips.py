"""The flip ledger: which items changed between right and wrong, and how narrowly. No torch."""

from __future__ import annotations

import math
from typing import Any, Literal

from evalkit.errors import unknown
from evalkit.records import Comparison, Flip, Measurement, Run
from evalkit.store.store import Store
from evalkit.suites.task_records import SampleRecords, check_joinable
from evalkit.suites.task_requests import TaskItem, TaskRequests

RIGHT_TO_WRONG: Literal["right→wrong"] = "right→wrong"
WRONG_TO_RIGHT: Literal["wrong→right"] = "wrong→right"


def flips(comparison: Comparison, store: Store, task: str | None = None) -> list[Flip]:
    """The flipped items of a comparison, right→wrong first, the widest margins before coin flips.

    Raises UsageError for a task the comparison does not have.
    """
    baseline = _scores(store, comparison.rows[0].runs)
    if not baseline and task is None:
        return []
    names = {m.details["task"] for m in baseline.values()}
    if task is not None and task not in names:
        raise unknown("task", task, names)
    found: list[Flip] = []
    for row in comparison.rows[1:]:
        other = _scores(store, row.runs)
        for key, measurement in baseline.items():
            if key in other and task in (None, measurement.details["task"]):
                found += _task_flips(store, row.variant.label, measurement, other[key])
    return sorted(found, key=_order)


def _scores(store: Store, run_ids: tuple[str, ...]) -> dict[str, Measurement]:
    """The primary scores of the runs by key."""
    runs: list[Run] = [run for run_id in run_ids if (run := store.load(run_id)) is not None]
    return {
        m.metric: m
        for run in runs
        for m in run.measurements
        if m.details.get("primary") and m.table
    }


def _task_flips(
    store: Store, label: str, baseline: Measurement, variant: Measurement
) -> list[Flip]:
    mine = SampleRecords.load(store.root / str(baseline.table))
    theirs = SampleRecords.load(store.root / str(variant.table))
    check_joinable(mine, theirs)
    details = baseline.details
    items = {item.doc_id: item for item in _items(store, details)}
    one, other = (r.rows(details["filter"]).to_pylist() for r in (mine, theirs))
    margins = [r.margins(details["score"], details["filter"]).tolist() for r in (mine, theirs)]
    noise = 2 * (details.get("noise_nats") or 0.0)
    return [
        _flip(label, details["task"], items[a["doc_id"]], (a, b), (before, after), noise)
        for a, b, before, after in zip(one, other, *margins, strict=True)
        if a["correct"] is not None and b["correct"] is not None and a["correct"] != b["correct"]
    ]


def _items(store: Store, details: dict[str, Any]) -> tuple[TaskItem, ...]:
    return TaskRequests.load(store.root / details["prompts"]).items


def _flip(
    label: str,
    task: str,
    item: TaskItem,
    rows: tuple[dict[str, Any], dict[str, Any]],
    margins: tuple[float, float],
    noise: float,
) -> Flip:
    before, after = rows
    known = [None if math.isnan(margin) else margin for margin in margins]
    return Flip(
        task=task,
        item=item.doc_id,
        variant=label,
        direction=RIGHT_TO_WRONG if before["correct"] else WRONG_TO_RIGHT,
        prompt=item.requests[0].context,
        choices=item.choices,
        target=item.target,
        baseline_loglikelihoods=_likelihoods(before, item),
        variant_loglikelihoods=_likelihoods(after, item),
        baseline_margin=known[0],
        variant_margin=known[1],
        baseline_answer=_answer(before),
        variant_answer=_answer(after),
        is_coin_flip=any(margin is not None and abs(margin) <= noise for margin in known),
    )


def _likelihoods(row: dict[str, Any], item: TaskItem) -> tuple[float, ...]:
    values = row["loglikelihoods"] or []
    return tuple(float(value) for value in values[: max(1, len(item.choices))])


def _answer(row: dict[str, Any]) -> str:
    return str(row["filtered"] or row["generated"] or "")


def _order(flip: Flip) -> tuple[bool, bool, float]:
    width = abs(flip.variant_margin or 0.0)
    return flip.is_coin_flip, flip.direction != RIGHT_TO_WRONG, -width
