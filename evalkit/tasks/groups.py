"""Scores of groups (mmlu, its four areas …) from the records of their tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evalkit.store.samples import SampleRecords
from evalkit.tasks.lm_eval_index import TaskGroup


@dataclass(frozen=True)
class GroupScore:
    """One score of a group: the mean over `tasks`, weighted by their items if the group says so."""

    group: str
    metric: str
    filter: str
    value: float
    n: int
    tasks: int


def group_scores(group: TaskGroup, records: Mapping[str, SampleRecords]) -> list[GroupScore]:
    """The scores of a group as lm-eval aggregates them, over the tasks that have records."""
    members = [records[name] for name in group.tasks if name in records]
    found = []
    for wanted in group.metrics:
        at_hand = {s.filter for one in members for s in one.head.scores}
        for name in sorted(at_hand) if wanted.filters is None else wanted.filters:
            scores = [
                score
                for one in members
                for score in one.head.scores
                if (score.metric, score.filter) == (wanted.metric, name)
            ]
            if scores:
                sizes = [score.n if wanted.weight_by_size else 1 for score in scores]
                total = sum(score.value * size for score, size in zip(scores, sizes, strict=True))
                value, n = total / sum(sizes), sum(score.n for score in scores)
                found.append(GroupScore(group.name, wanted.metric, name, value, n, len(scores)))
    return found
