"""Values of group scores (mmlu and its like): lm-eval's mean over the tasks of a group.

A mean weighted by items is the mean over all items, and is compared like that of one task. Any
other mean takes its interval from those of its tasks, which are independent of each other. Group
scores say again what their tasks say, so they are in no mean over tasks and no adjustment of
p-values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.analysis.asked import Asked
from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.task_values import (
    ItemScores,
    TaskScores,
    averaged,
    direction_of,
    task_values,
)
from evalkit.analysis.values import value_of
from evalkit.analysis.verdicts import Margin, delta_of, judge
from evalkit.records import Claim, Value, Word


@dataclass(frozen=True)
class ScoreGroup:
    """One score of a group: `key` (mmlu.acc) is the mean of the task scores `members`.

    It is weighted by their items where `by_items`, else each task counts the same.
    """

    key: str
    members: tuple[str, ...]
    by_items: bool


def group_values(
    groups: Sequence[ScoreGroup],
    baseline: TaskScores,
    variant: TaskScores,
    values: Mapping[str, Value],
    margin: Margin,
    is_baseline: bool,
) -> dict[str, Value]:
    """Values of the groups whose tasks the variant has all, by key.

    `values` are those of the variant's task scores, as `task_values` gives them.
    """
    found = {}
    for group in groups:
        if not all(key in variant for key in group.members):
            continue
        if group.by_items and all(variant[key].is_mean for key in group.members):
            known = all(key in baseline for key in group.members)
            base = {group.key: _pooled(group, baseline)} if known else {}
            pooled = {group.key: _pooled(group, variant)}
            found[group.key] = task_values(base, pooled, margin, is_baseline)[group.key]
        else:
            members = [variant[key] for key in group.members]
            own = [values[key] for key in group.members]
            found[group.key] = _mean(group, members, own, margin, is_baseline)
    return found


def _pooled(group: ScoreGroup, scores: TaskScores) -> ItemScores:
    """The items of all tasks as those of one; it stands for no task."""
    members = [scores[key] for key in group.members]
    starts = np.cumsum([0, *(int(one.clusters.max(initial=-1)) + 1 for one in members)])
    clusters = [one.clusters + start for one, start in zip(members, starts, strict=False)]
    sizes = [len(one.values) for one in members]
    return ItemScores(
        task=group.key.partition(".")[0],
        key=group.key,
        statistic=members[0].statistic,
        higher_is_better=members[0].higher_is_better,
        primary=False,
        asked=_asked(members),
        values=np.concatenate([one.values for one in members]),
        weights=np.concatenate([one.weights for one in members]),
        clusters=np.concatenate(clusters).astype(np.int32),
        noise=float(np.average([one.noise for one in members], weights=sizes)),
    )


def _asked(members: Sequence[ItemScores]) -> Asked:
    settings = {
        f"{name} of {one.task}": value
        for one in members
        for name, value in one.asked.settings.items()
    }
    documents, prompts, targets = (
        tuple(word for one in members for word in getattr(one.asked, name))
        for name in ("documents", "prompts", "targets")
    )
    requests = "/".join(one.asked.requests for one in members)
    return Asked(settings, documents, prompts, targets, requests, members[0].asked.lm_eval)


def _mean(
    group: ScoreGroup,
    members: Sequence[ItemScores],
    values: Sequence[Value],
    margin: Margin,
    is_baseline: bool,
) -> Value:
    weights = [float(value.n) if group.by_items else 1.0 for value in values]
    interval = averaged([_interval(v.value, v.low, v.high) for v in values], weights)
    n = sum(value.n for value in values)
    details: dict[str, object] = {"tasks": len(values)}
    direction = direction_of(members[0])

    def valued(delta: Interval | None, word: Word) -> Value:
        return value_of(interval, n, delta, word, details, claim=Claim.ITEMS, direction=direction)

    if is_baseline:
        return valued(None, Word.BASELINE)
    reasons = [str(value.details["reason"]) for value in values if "reason" in value.details]
    if reasons:
        details["reason"] = reasons[0]
        return valued(None, Word.NOT_COMPARABLE)
    delta = averaged([delta_of(value) for value in values], weights)
    reference = interval.estimate - delta.estimate
    details["noise_floor"] = noise = max(one.noise for one in members)
    allowed = margin.points if all(one.is_mean for one in members) else margin.of(reference)
    word = judge(delta, margin=allowed, direction=direction, noise_floor=noise)
    return valued(delta, word)


def _interval(estimate: float | None, low: float | None, high: float | None) -> Interval:
    return Interval(*(math.nan if bound is None else bound for bound in (estimate, low, high)))
