"""Which scores of its tasks a group (mmlu, its four areas …) averages, and by what weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evalkit.analysis.task_groups import ScoreGroup
from evalkit.store.samples import SampleRecords
from evalkit.tasks.lm_eval_index import GroupMetric, TaskGroup


def score_groups(
    groups: Sequence[TaskGroup], records: Mapping[str, SampleRecords]
) -> list[ScoreGroup]:
    """The scores of `groups` as lm-eval aggregates them, over the tasks that have records."""
    found: dict[str, ScoreGroup] = {}
    for group in groups:
        members = [records[name] for name in group.tasks if name in records]
        for wanted in group.metrics:
            for name in _filters(wanted, members):
                one = _score_group(group.name, wanted, name, members)
                if one is not None:
                    found.setdefault(one.key, one)
    return list(found.values())


def _filters(wanted: GroupMetric, members: Sequence[SampleRecords]) -> Sequence[str]:
    if wanted.filters is not None:
        return wanted.filters
    return sorted({score.filter for one in members for score in one.head.scores})


def _score_group(
    group: str, wanted: GroupMetric, name: str, members: Sequence[SampleRecords]
) -> ScoreGroup | None:
    """The group's score of one metric and filter; None where no task has it."""
    keys = [
        (one.head.task, one.key(score))
        for one in members
        for score in one.head.scores
        if (score.metric, score.filter) == (wanted.metric, name)
    ]
    if not keys:
        return None
    task, key = keys[0]
    return ScoreGroup(
        group + key.removeprefix(task), tuple(key for _, key in keys), wanted.weight_by_size
    )
