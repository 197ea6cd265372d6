"""The plane of gain and loss: the Pareto front, and what is dominated beyond doubt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.view.charts.variants import Entry


@dataclass(frozen=True)
class Span:
    """A value between its bounds; infinite bounds where no interval is known."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """A variant in the plane of gain and loss."""

    entry: Entry
    gain: Span
    loss: Span


def significantly_dominated(point: Point, others: Sequence[Point], more_is_better: bool) -> bool:
    """Whether some other variant is at least as good in both, whatever the intervals allow.

    The worst that is possible for the other must be no worse than the best that is possible for
    this one, in loss and in gain, and better in one of them. Intervals that touch nowhere are more
    than a test of the difference asks for, so a greyed variant is one to forget.
    """
    best_loss = point.loss.low
    best_gain = point.gain.high if more_is_better else -point.gain.low
    for other in others:
        worst_loss = other.loss.high
        worst_gain = other.gain.low if more_is_better else -other.gain.high
        is_better = worst_loss < best_loss or worst_gain > best_gain
        if worst_loss <= best_loss and worst_gain >= best_gain and is_better:
            return True
    return False


def pareto_front(points: Sequence[Point], more_is_better: bool) -> list[Point]:
    """The points that none beats in both by estimate, from the best gain to the least loss."""
    front: list[Point] = []
    sign = -1 if more_is_better else 1
    for point in sorted(points, key=lambda p: (sign * p.gain.value, p.loss.value)):
        if not front or point.loss.value < front[-1].loss.value:
            front.append(point)
    return front


def span(value: float, low: float | None, high: float | None) -> Span:
    """A value with its bounds, infinite where they are None."""
    return Span(value, -math.inf if low is None else low, math.inf if high is None else high)


def drawn_bounds(span: Span) -> tuple[float, float]:
    """The bounds to draw: those that are known, and never beyond the value on the wrong side."""
    low = min(span.low, span.value) if math.isfinite(span.low) else span.value
    high = max(span.high, span.value) if math.isfinite(span.high) else span.value
    return low, high
