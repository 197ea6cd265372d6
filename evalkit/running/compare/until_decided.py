"""Asking a task in a drawn order, batch by batch, until its loss is told from the margin.

Each batch is answered and stored on its own, so that a command that is given again, with another
margin or after an interruption, goes on where it was. What a task has shown is read in
evalkit.analysis.stopping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.analysis.blocks import IndexArray
from evalkit.analysis.stopping import Decision, Loss, decide, paired_loss
from evalkit.errors import VariantError
from evalkit.records import Measurement
from evalkit.results.load_measured import DRAWN
from evalkit.running.job import Job, Stopping
from evalkit.store.files import read_parquet, write_parquet
from evalkit.store.samples import ItemValues, SampleRecords
from evalkit.store.store import Store
from evalkit.store.task_requests import TaskRequests
from evalkit.tasks.answers import Advance, Answers, answer_requests, joined
from evalkit.tasks.loading import LoadedTask
from evalkit.tasks.scores import RIGHT_OR_WRONG, score_answers

if TYPE_CHECKING:
    from lm_eval.api.model import LM

# Items between two looks. Looks are cheap, but a small batch uses the machine badly.
BATCH_ITEMS = 64


class UntilDecided:
    """The tasks of one variant, each asked until what all have shown together decides it."""

    def __init__(self, store: Store, job: Job, stopping: Stopping) -> None:
        self.store, self.seed, self.margin = store, job.seed, stopping.margin
        self.baseline = dict(_scores(store, stopping.answered))
        # Every task that can be decided is adjusted for from the start, begun or not.
        self.p_values = {key: (1.0, 1.0) for key, m in self.baseline.items() if _is_bounded(m)}
        own = [part.run.id for part in job.parts if part.stopping == stopping]
        for key, measurement in _scores(store, own):
            told = measurement.details.get(DRAWN, {})
            if key in self.p_values and told.get("margin") == self.margin:
                self.p_values[key] = tuple(told["p_values"])

    def answers(
        self,
        task: LoadedTask,
        requests: TaskRequests,
        lm: LM,
        folder: Path,
        advance: Advance | None,
    ) -> tuple[LoadedTask, TaskRequests, Answers, dict[str, Any]]:
        """The task, requests and answers of the items it took, and details of how it stopped.

        A task whose score has no bounds is asked whole, and has no such details. Raises
        VariantError where the baseline has not answered the task.
        """
        measurement = self._answered(task.name)
        if measurement.metric not in self.p_values:
            return task, requests, answer_requests(requests, lm, folder, advance=advance), {}
        order, file = drawn_order(self.store, requests, self.seed)
        pairs = _Pairs(self._items(measurement), largest_group(requests))
        found: list[Answers] = []
        asked = 0
        for batch in batches(order, requests):
            some = _only(requests, batch)
            start = sum(len(one.text) for one in found)
            told = None if advance is None else _shifted(advance, start, requests.count)
            found.append(answer_requests(some, lm, folder, advance=told))
            scored = score_answers(task.only(batch), some, found[-1])
            pairs.add(batch, scored.items(pairs.baseline.metric, pairs.baseline.filter))
            asked += len(batch)
            if self._decides(measurement.metric, pairs):
                break
        chosen = _only(requests, order[:asked])
        details = self._details(measurement.metric, requests, file, asked)
        return task.only(order[:asked]), chosen, joined(chosen, found), {DRAWN: details}

    def _answered(self, task: str) -> Measurement:
        for measurement in self.baseline.values():
            if measurement.details["task"] == task:
                return measurement
        raise VariantError(f"the baseline has no answers to {task} to pair with")

    def _items(self, measurement: Measurement) -> ItemValues:
        records = SampleRecords.load(self.store.root / str(measurement.table))
        return records.items(measurement.details["score"], measurement.details["filter"])

    def _decides(self, key: str, pairs: _Pairs) -> bool:
        """Whether this look decides the task, at the level that the others leave it."""
        self.p_values[key] = pairs.loss().p_values(self.margin)
        decisions = dict(zip(self.p_values, decide([*self.p_values.values()]), strict=True))
        return decisions[key] is not Decision.OPEN

    def _details(self, key: str, requests: TaskRequests, order: str, items: int) -> dict[str, Any]:
        return {
            "order": order,
            "items": items,
            "of": len(requests.items),
            "largest": largest_group(requests),
            "whole": requests.id,
            "margin": self.margin,
            "p_values": list(self.p_values[key]),
        }


class _Pairs:
    """Scores of the baseline and the variant on the same items, in the order they were drawn."""

    def __init__(self, baseline: ItemValues, largest: int) -> None:
        self.baseline, self.largest = baseline, largest
        self.base: list[float] = []
        self.variant: list[float] = []
        self.clusters: list[int] = []
        self._places = {int(number): place for place, number in enumerate(baseline.doc_ids)}

    def add(self, batch: Iterable[int], scored: ItemValues) -> None:
        """Take the scores of one batch; items that either could not score are left out."""
        found = {int(number): place for place, number in enumerate(scored.doc_ids)}
        for number in batch:
            mine, theirs = self._places[int(number)], found[int(number)]
            if self.baseline.weights[mine] > 0 and scored.weights[theirs] > 0:
                self.base.append(float(self.baseline.values[mine]))
                self.variant.append(float(scored.values[theirs]))
                self.clusters.append(int(scored.clusters[theirs]))

    def loss(self) -> Loss:
        """The variant's loss so far."""
        return paired_loss(
            np.asarray(self.base),
            np.asarray(self.variant),
            np.asarray(self.clusters, np.int64),
            largest=self.largest,
            higher_is_better=self.baseline.higher_is_better is not False,
        )


def drawn_order(store: Store, requests: TaskRequests, seed: int) -> tuple[IndexArray, str]:
    """Numbers of all items in an order drawn once and stored, groups whole; its file.

    Items of a group follow each other, in the order of the task.
    """
    name = f"orders/{requests.id}-{seed}.parquet"
    file = store.root / name
    if not file.exists():
        clusters = np.array([item.cluster for item in requests.items])
        groups, members = np.unique(clusters, return_inverse=True)
        rank = np.random.default_rng(abs(seed)).permutation(len(groups))
        numbers = np.array([item.doc_id for item in requests.items], np.int32)
        write_parquet(file, {"item": numbers[np.argsort(rank[members], kind="stable")]})
    return read_parquet(file)["item"].astype(np.int64), name


def batches(order: IndexArray, requests: TaskRequests) -> Iterator[IndexArray]:
    """The order in batches of at least BATCH_ITEMS, except the last, that split no group."""
    clusters = {item.doc_id: item.cluster for item in requests.items}
    start = 0
    for end in range(1, len(order) + 1):
        last = end == len(order)
        whole = last or clusters[int(order[end])] != clusters[int(order[end - 1])]
        if whole and (last or end - start >= BATCH_ITEMS):
            yield order[start:end]
            start = end


def largest_group(requests: TaskRequests) -> int:
    """Items of the largest group of items that belong together."""
    return int(np.unique([item.cluster for item in requests.items], return_counts=True)[1].max())


def _only(requests: TaskRequests, numbers: Iterable[int]) -> TaskRequests:
    items = {item.doc_id: item for item in requests.items}
    return dataclasses.replace(requests, items=tuple(items[int(number)] for number in numbers))


def _shifted(advance: Advance, start: int, total: int) -> Advance:
    """`advance` for a batch that begins after `start` of `total` requests."""
    return lambda done, _: advance(start + done, total)


def _scores(store: Store, runs: Iterable[str]) -> Iterator[tuple[str, Measurement]]:
    """The scores that stand for their tasks, of runs that are whole, by name."""
    for run_id in runs:
        run = store.load(run_id)
        if run is not None and run.status == "ok":
            yield from ((m.metric, m) for m in run.measurements if m.details.get("primary"))


def _is_bounded(measurement: Measurement) -> bool:
    details = measurement.details
    return details["score"] in RIGHT_OR_WRONG and details["aggregation"] in ("mean", "nanmean")
