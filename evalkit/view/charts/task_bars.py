"""What charts of tasks share: bars in groups, one group a task, one bar a variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from evalkit.view.charts.canvas import HEIGHT

# More bars than this are no longer read one by one.
MOST_BARS = 72
FIX = "give tasks with --tasks"


def most_tasks(variants: int) -> int:
    """How many tasks can be drawn for so many variants, at least one."""
    return max(1, MOST_BARS // variants)


def bar_places(rows: int, columns: int) -> np.ndarray[Any, Any]:
    """Heights of the bars, shape (tasks, variants): groups with a gap, from the top down."""
    step = columns + 0.8
    return np.arange(rows)[:, None] * step + np.arange(columns)[None, :]


def bars_height(places: np.ndarray[Any, Any]) -> float:
    """Height of a figure with these bars, in inches."""
    return float(max(HEIGHT, 2.4 + 0.21 * (places.max() + 1)))


def task_axis(axes: Axes, names: Sequence[str], places: np.ndarray[Any, Any]) -> None:
    """Name the group of bars of each task on the vertical axis, from the top down."""
    axes.set_yticks(places.mean(axis=1), list(names))
    axes.tick_params("y", length=0, labelsize=10.5)
    axes.set_ylim(places.max() + 0.9, -0.9)


def dropped_note(known: int, chosen: int, why: str) -> str:
    """A note on the tasks that are not drawn; empty where all are."""
    return f"{chosen} of {known} tasks: those with the {why}." if chosen < known else ""
