"""The scores that stand for the tasks of a comparison, for charts and report alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evalkit.records import Comparison, Value
from evalkit.view.cells import baseline_row

PREFERRED = ("acc_norm", "acc", "exact_match")
FLIPS = ".flips"


@dataclass(frozen=True)
class TaskScore:
    """One task, the score that stands for it, and the score's name among the metrics."""

    task: str
    score: str
    key: str


def task_scores(comparison: Comparison) -> list[TaskScore]:
    """One score a task, in the suite's order: the primary one, of which noise was measured.

    Where the noise floor does not tell: acc_norm, else acc, else exact_match, else the first.
    """
    tasks: dict[str, list[str]] = {}
    for row in comparison.rows:
        for key in row.metrics:
            if "." in key and not key.endswith(FLIPS):
                keys = tasks.setdefault(_task(comparison, key), [])
                if key not in keys:
                    keys.append(key)
    found = []
    for task, keys in tasks.items():
        key = _primary(comparison, task, keys)
        found.append(TaskScore(task, key[len(task) + 1 :], key))
    return found


def shares(comparison: Comparison) -> list[TaskScore]:
    """The task scores that are shares of items, between 0 and 1 in every variant."""
    found = []
    for score in task_scores(comparison):
        values = [row.metrics[score.key] for row in comparison.rows if score.key in row.metrics]
        known = [value.value for value in values if value.value is not None]
        named = not any(word in score.score for word in ("perplexity", "bits_per_byte"))
        if named and known and all(0 <= value <= 1 for value in known):
            found.append(score)
    return found


def worst_first(comparison: Comparison, scores: Iterable[TaskScore]) -> list[TaskScore]:
    """The scores by their largest difference to the baseline in any variant, largest first."""
    base = baseline_row(comparison)
    rows = [row for row in comparison.rows if row is not base]

    def largest(score: TaskScore) -> float:
        return max((abs(_delta(row.metrics, score.key)) for row in rows), default=0.0)

    return sorted(scores, key=largest, reverse=True)


def _delta(metrics: Mapping[str, Value], key: str) -> float:
    return (metrics[key].delta or 0.0) if key in metrics else 0.0


def _task(comparison: Comparison, key: str) -> str:
    """The suite's task a key belongs to; a group's tasks are not in the suite by name."""
    names = [task.name for task in comparison.suite.tasks if key.startswith(f"{task.name}.")]
    return max(names, key=len) if names else key.partition(".")[0]


def _primary(comparison: Comparison, task: str, keys: list[str]) -> str:
    named = [key for key in keys if key in comparison.noise_floor]
    if named:
        return named[0]
    for score in PREFERRED:
        if f"{task}.{score}" in keys:
            return f"{task}.{score}"
    return keys[0]
