"""Task scores, task by task and variant by variant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from evalkit import numbers
from evalkit.analysis.verdicts import parse_margin
from evalkit.records import Comparison, Value
from evalkit.view.cells import margin_text
from evalkit.view.charts.canvas import (
    Chart,
    Tables,
    canvas,
    chart,
    finish,
    legend,
    not_measured,
    titled,
    tolerated,
)
from evalkit.view.charts.scores import TaskScore, shares, worst_first
from evalkit.view.charts.task_bars import (
    FIX,
    bar_places,
    bars_height,
    dropped_note,
    most_tasks,
    task_axis,
)
from evalkit.view.charts.variants import (
    INK,
    MUTED,
    Entry,
    bounds,
    drawable,
    entries,
    left_out,
    marker_handle,
    measured,
)


@chart(place=30)
def tasks(comparison: Comparison, tables: Tables) -> Chart:
    """Score of each task and variant, and its paired difference to the baseline with the margin.

    Beyond 72 bars only the tasks with the largest differences are drawn, and the notes say so.
    Raises EvalkitError where no task with a share of right answers was measured.
    """
    scores = shares(comparison)
    known = entries(comparison)
    shown = [e for e in known if any(measured([e], score.key) for score in scores)]
    if not shown:
        raise not_measured("task scores", FIX)
    chosen = worst_first(comparison, scores)[: most_tasks(len(shown))]
    chosen = [score for score in scores if score in chosen]
    places = bar_places(len(chosen), len(shown))
    has_differences = any(not entry.is_baseline for entry in shown)
    figure, panels = canvas(
        comparison,
        "Task scores, and their difference to the baseline" if has_differences else "Task scores",
        columns=2 if has_differences else 1,
        height=bars_height(places),
        sharey=True,
    )
    for row, score in enumerate(chosen):
        for column, entry in enumerate(shown):
            if measured([entry], score.key):
                value = entry.row.metrics[score.key]
                _score(panels[0], entry, value, places[row, column])
                if has_differences:
                    _difference(panels[1], entry, value, places[row, column])
    task_axis(panels[0], [f"{drawable(s.task)}\n{drawable(s.score)}" for s in chosen], places)
    _share_axis(panels[0])
    titled(panels[0], "score", "% of items (right is better)")
    handles: list[Artist] = [marker_handle(entry) for entry in shown]
    if has_differences:
        _band(panels[1], comparison)
        handles.append(_band_handle(comparison))
    legend(panels[-1], handles)
    return finish(figure, _notes(comparison, scores, chosen, known, shown), _summary(shown))


def _score(axes: Axes, entry: Entry, value: Value, y: float) -> None:
    assert value.value is not None
    look = entry.look
    known = bounds(value)
    if known is not None:
        axes.plot([100 * known[0], 100 * known[1]], [y, y], color=look.colour, linewidth=2)
    axes.plot(100 * value.value, y, color=look.colour, marker=cast(Any, look.marker), markersize=7)


def _share_axis(axes: Axes) -> None:
    """From the ten below what is drawn to the ten above, so that close scores can be told apart."""
    low, high = (place / 10 for place in axes.get_xlim())
    axes.set_xlim(max(0, 10 * math.floor(low)) - 0.5, min(100, 10 * math.ceil(high)) + 0.5)
    axes.grid(True, axis="x")


def _difference(axes: Axes, entry: Entry, value: Value, y: float) -> None:
    if entry.is_baseline or value.delta is None:
        return
    if value.delta_low is not None and value.delta_high is not None:
        axes.plot(
            [100 * value.delta_low, 100 * value.delta_high],
            [y, y],
            color=entry.look.colour,
            linewidth=2,
        )
    axes.plot(
        100 * value.delta,
        y,
        color=entry.look.colour,
        marker=cast(Any, entry.look.marker),
        markersize=6,
    )


def _band(axes: Axes, comparison: Comparison) -> None:
    points = 100 * parse_margin(comparison.margin).points
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.axvspan(-points, 0, color=MUTED, alpha=0.16, linewidth=0, zorder=0)
    titled(axes, "paired difference", "percentage points (right is better)")
    axes.tick_params("y", length=0)
    axes.grid(True, axis="x")


def _band_handle(comparison: Comparison) -> Patch:
    return Patch(color=MUTED, alpha=0.16, label=tolerated(comparison, "pp"))


def _notes(
    comparison: Comparison,
    scores: Sequence[TaskScore],
    chosen: Sequence[TaskScore],
    known: Sequence[Entry],
    shown: Sequence[Entry],
) -> list[str]:
    sizes = {e.row.metrics[s.key].n for s in chosen for e in shown if s.key in e.row.metrics}
    items = f"{min(sizes):,}" if len(sizes) == 1 else f"{min(sizes):,} to {max(sizes):,}"
    paired = (
        "Right: difference on the same items with its 95 % interval; beyond the"
        f" {margin_text(comparison)} band a loss is not tolerated."
    )
    return [
        f"{items} items a task. Left: score with its 95 % interval.",
        paired if any(not entry.is_baseline for entry in shown) else "",
        dropped_note(len(scores), len(chosen), "largest differences"),
        left_out(known, shown),
    ]


def _summary(shown: Sequence[Entry]) -> str:
    said = []
    for entry in shown:
        value = entry.row.metrics.get("tasks_mean")
        if value is not None and value.value is not None:
            mean = numbers.percent(value.value)
            said.append(f"{entry.name}: mean {mean}, {entry.row.verdict.text}")
    return f"{'; '.join(said)}." if said else ""
