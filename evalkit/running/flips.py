"""The flip ledger: which items changed between right and wrong, and how narrowly. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from evalkit.errors import unknown
from evalkit.records import Comparison, Flip, Measurement, Run
from evalkit.store.store import Store
from evalkit.suites.task_records import SampleRecords, check_joinable, margins_of
from evalkit.suites.task_requests import TaskItem, read_items

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
    variants = {row.variant.label: _scores(store, row.runs) for row in comparison.rows[1:]}
    found: list[Flip] = []
    for key, measurement in baseline.items():
        if task in (None, measurement.details["task"]):
            others = {label: own[key] for label, own in variants.items() if key in own}
            found += _task_flips(store, measurement, others)
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
    store: Store, baseline: Measurement, variants: Mapping[str, Measurement]
) -> list[Flip]:
    """The flips of one task, of all variants by their label."""
    details = baseline.details
    mine = SampleRecords.load(store.root / str(baseline.table))
    rows = mine.rows(details["filter"])
    pairs = {}
    for label, variant in variants.items():
        theirs = SampleRecords.load(store.root / str(variant.table))
        check_joinable(mine, theirs)
        pairs[label] = _changed(rows, theirs.rows(details["filter"]))
    wanted = {number for one, _ in pairs.values() for number in one["doc_id"].to_pylist()}
    items = read_items(store.root / details["prompts"], wanted)
    noise = 2 * (details.get("noise_nats") or 0.0)
    found = []
    for label, pair in pairs.items():
        margins = (margins_of(side, details["score"]).tolist() for side in pair)
        sides = (side.to_pylist() for side in pair)
        for a, b, before, after in zip(*sides, *margins, strict=True):
            item = items[a["doc_id"]]
            found.append(_flip(label, details["task"], item, (a, b), (before, after), noise))
    return found


def _changed(rows: pa.Table, others: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of both that are right in one and wrong in the other; unscored ones are neither."""
    differ = pc.not_equal(rows["correct"], others["correct"])
    return rows.filter(differ), others.filter(differ)


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
