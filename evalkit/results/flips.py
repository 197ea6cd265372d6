"""The flip ledger: which items changed between right and wrong, and how narrowly. No torch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evalkit.analysis.asked import asked_difference
from evalkit.errors import unknown
from evalkit.records import Comparison, Flip, Measurement, Run
from evalkit.results.load_measured import asked_of, drawn_items
from evalkit.store.samples import SampleRecords, margins_of
from evalkit.store.store import Store
from evalkit.store.task_requests import TaskItem, read_items

RIGHT_TO_WRONG: Literal["right→wrong"] = "right→wrong"
WRONG_TO_RIGHT: Literal["wrong→right"] = "wrong→right"


@dataclass(frozen=True)
class _Changed:
    """The items of one task that one variant changed: rows and margins of both, by item."""

    label: str
    details: dict[str, Any]
    rows: tuple[pa.Table, pa.Table]
    margins: tuple[NDArray[np.float64], NDArray[np.float64]]

    @property
    def noise(self) -> float:
        """Margins up to it are coin flips, in nats."""
        return 2 * float(self.details.get("noise_nats") or 0.0)

    @property
    def prompts(self) -> str:
        """The file of the task's items in the store."""
        return str(self.details["prompts"])

    def first(self, each: int) -> NDArray[np.intp]:
        """Places of the first `each` of either direction, by item."""
        return np.sort(np.concatenate([group[:each] for group in self.groups()]))

    def groups(self) -> list[NDArray[np.intp]]:
        """Places of right→wrong and of wrong→right, coin flips last, the widest margins first."""
        right = self.rows[0]["correct"].to_numpy()
        coins = np.any([np.abs(side) <= self.noise for side in self.margins], axis=0)
        order = np.lexsort((-np.nan_to_num(np.abs(self.margins[1])), coins))
        return [order[right[order]], order[~right[order]]]


def flips(
    comparison: Comparison, store: Store, task: str | None = None, most: int | None = None
) -> list[Flip]:
    """The flipped items of a comparison, right→wrong first, the widest margins before coin flips.

    Beyond `most` the first of each variant, task and direction are taken, evenly. Raises
    UsageError for a task the comparison does not have.
    """
    return ledger(comparison, store, task, most)[0]


def ledger(
    comparison: Comparison, store: Store, task: str | None = None, most: int | None = None
) -> tuple[list[Flip], int]:
    """`flips`, and how many there are in all."""
    baseline = _scores(store, comparison.rows[0].runs)
    if not baseline and task is None:
        return [], 0
    names = {m.details["task"] for m in baseline.values()}
    if task is not None and task not in names:
        raise unknown("task", task, names)
    variants = {row.variant.label: _scores(store, row.runs) for row in comparison.rows[1:]}
    changed: list[_Changed] = []
    for key, measurement in baseline.items():
        if task in (None, measurement.details["task"]):
            others = {label: own[key] for label, own in variants.items() if key in own}
            changed += _changes(store, measurement, others)
    sizes = [len(group) for one in changed for group in one.groups()]
    each = max(sizes, default=0) if most is None else _evenly(sizes, most)
    chosen = [(one, one.first(each)) for one in changed]
    wanted: defaultdict[str, set[int]] = defaultdict(set)
    for one, places in chosen:
        wanted[one.prompts].update(one.rows[0]["doc_id"].take(places).to_pylist())
    items = {name: read_items(store.root / name, ids) for name, ids in wanted.items()}
    found = [flip for one, places in chosen for flip in _flips(one, places, items[one.prompts])]
    return sorted(found, key=_order), sum(sizes)


def _evenly(sizes: Sequence[int], most: int) -> int:
    """How many of each group make `most` of all, or all there are."""
    each = 0
    while sum(min(size, each) for size in sizes) < min(most, sum(sizes)):
        each += 1
    return each


def _scores(store: Store, run_ids: tuple[str, ...]) -> dict[str, Measurement]:
    """The primary scores of the runs by key."""
    runs: list[Run] = [run for run_id in run_ids if (run := store.load(run_id)) is not None]
    return {
        m.metric: m
        for run in runs
        for m in run.measurements
        if m.details.get("primary") and m.table
    }


def _changes(
    store: Store, baseline: Measurement, variants: Mapping[str, Measurement]
) -> Iterator[_Changed]:
    """What each variant (by its label) changed in one task; one asked otherwise is left out."""
    details = baseline.details
    mine = SampleRecords.load(store.root / str(baseline.table))
    rows, asked = mine.rows(details["filter"]), asked_of(mine, details["filter"])
    for label, variant in variants.items():
        theirs = SampleRecords.load(store.root / str(variant.table))
        own = asked_of(theirs, details["filter"])
        drawn = drawn_items(store, variant.details)
        # One that stopped when it was decided has answered some of the items.
        some = None if drawn is None or drawn.whole != asked.requests else np.sort(drawn.order)
        same = asked if some is None else asked.only(map(int, some), own.requests)
        if asked_difference(same, own):
            continue
        known = rows if some is None else rows.take(some)
        one, other = _changed(known, theirs.rows(details["filter"]))
        margins = margins_of(one, details["score"]), margins_of(other, details["score"])
        yield _Changed(label, details, (one, other), margins)


def _flips(
    changed: _Changed, places: NDArray[np.intp], items: Mapping[int, TaskItem]
) -> Iterator[Flip]:
    """The flips at `places`."""
    one, other = (side.take(places).to_pylist() for side in changed.rows)
    before, after = (side[places].tolist() for side in changed.margins)
    task, noise = changed.details["task"], changed.noise
    for a, b, *margins in zip(one, other, before, after, strict=True):
        yield _flip(changed.label, task, items[a["doc_id"]], (a, b), tuple(margins), noise)


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
        target=item.target if item.gold is None else item.choices[item.gold],
        baseline_loglikelihoods=_likelihoods(before, item),
        variant_loglikelihoods=_likelihoods(after, item),
        baseline_margin=known[0],
        variant_margin=known[1],
        baseline_answer=_answer(before),
        variant_answer=_answer(after),
        is_coin_flip=any(margin is not None and abs(margin) <= noise for margin in known),
        gold=item.gold,
    )


def _likelihoods(row: dict[str, Any], item: TaskItem) -> tuple[float, ...]:
    values = row["loglikelihoods"] or []
    return tuple(float(value) for value in values[: max(1, len(item.choices))])


def _answer(row: dict[str, Any]) -> str:
    return str(row["filtered"] or row["generated"] or "")


def _order(flip: Flip) -> tuple[bool, bool, float]:
    width = abs(flip.variant_margin or 0.0)
    return flip.is_coin_flip, flip.direction != RIGHT_TO_WRONG, -width
