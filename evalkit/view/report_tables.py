"""Tables of a report beside the main one: task by task, and every number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit import numbers
from evalkit.records import Comparison, Row, Value
from evalkit.view.cells import label
from evalkit.view.charts.scores import FLIPS, TaskScore, shares, task_scores

_FINDINGS = ("baseline", "no loss", "better", "worse", "failed", "inconclusive", "noise")


@dataclass(frozen=True)
class TaskCell:
    """A score, and below it the paired difference with its verdict."""

    score: str
    difference: str
    verdict: str


@dataclass(frozen=True)
class TaskLine:
    """One task: its name, the name of the score, items, and a cell for each variant.

    `notes` say what changed the measurement.
    """

    task: str
    score: str
    items: int
    cells: tuple[TaskCell, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TasksTable:
    """Variants as columns, tasks as lines."""

    variants: tuple[str, ...]
    lines: tuple[TaskLine, ...]


@dataclass(frozen=True)
class NumberLine:
    """One metric of one variant in words."""

    metric: str
    variant: str
    value: str
    interval: str
    n: str
    difference: str
    verdict: str


def tasks_table(comparison: Comparison) -> TasksTable | None:
    """The score that stands for each task, for every variant; None without tasks."""
    rows = [row for row in comparison.rows if row.status == "ok"]
    scores = [
        score for score in task_scores(comparison) if any(score.key in r.metrics for r in rows)
    ]
    if not scores:
        return None
    percent = {score.key for score in shares(comparison)}
    lines = [
        TaskLine(
            numbers.clean(score.task),
            numbers.clean(score.score),
            max(row.metrics[score.key].n for row in rows if score.key in row.metrics),
            tuple(_task_cell(row, score, score.key in percent) for row in rows),
            _task_notes(rows, score.key),
        )
        for score in scores
    ]
    return TasksTable(tuple(label(row) for row in rows), tuple(lines))


def numbers_table(comparison: Comparison) -> list[NumberLine]:
    """Every metric of every variant, metric by metric."""
    names = dict.fromkeys(name for row in comparison.rows for name in row.metrics)
    return [
        _number_line(name, row, row.metrics[name])
        for name in names
        for row in comparison.rows
        if name in row.metrics
    ]


def finding(text: str) -> str:
    """The class of a verdict for its colour: "no-loss", "worse"; empty for other words."""
    word = text.partition(":")[0]
    return word.replace(" ", "-") if word in _FINDINGS else ""


def _task_notes(rows: Sequence[Row], key: str) -> tuple[str, ...]:
    """What changed the measurement of a score, each note once."""
    values = [row.metrics[key] for row in rows if key in row.metrics]
    notes = [note for value in values for note in value.details.get("notes", ())]
    return tuple(dict.fromkeys(map(numbers.clean, notes)))


def _task_cell(row: Row, score: TaskScore, is_share: bool) -> TaskCell:
    value = row.metrics.get(score.key)
    if value is None or value.value is None:
        return TaskCell(numbers.MISSING, "", "")
    text = numbers.percent(value.value) if is_share else numbers.figure(value.value, value.unit)
    difference = ""
    if value.delta is not None and value.verdict != "baseline":
        scale = 100 if is_share else 1
        low, high = (
            None if bound is None else scale * bound
            for bound in (value.delta_low, value.delta_high)
        )
        difference = numbers.difference(scale * value.delta, low, high, least=1)
    flips = row.metrics.get(f"{score.task}{FLIPS}")
    if flips is not None and flips.value is not None:
        lost, won = (flips.details.get(way) for way in ("right_to_wrong", "wrong_to_right"))
        difference += f" · {lost} lost, {won} won"
    return TaskCell(text, difference, "" if value.verdict == "baseline" else value.verdict)


def _number_line(name: str, row: Row, value: Value) -> NumberLine:
    difference = ""
    if value.delta is not None and value.verdict != "baseline":
        difference = numbers.figure(value.delta, value.unit) + _bounds(
            value.delta_low, value.delta_high, value.unit
        )
    unit = "" if value.unit == "bytes" else value.unit
    shown = numbers.MISSING if value.value is None else numbers.figure(value.value, value.unit)
    return NumberLine(
        metric=numbers.clean(name),
        variant=label(row),
        value=f"{shown} {unit}".strip(),
        interval=_bounds(value.low, value.high, value.unit).strip(),
        n=f"{value.n:,}",
        difference=difference,
        verdict=value.verdict,
    )


def _bounds(low: float | None, high: float | None, unit: str) -> str:
    if low is None or high is None:
        return ""
    return f" [{numbers.figure(low, unit)}, {numbers.figure(high, unit)}]"
