"""Task scores and the answers that changed, task by task and variant by variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from evalkit.analysis.verdicts import parse_margin
from evalkit.records import Comparison, Value
from evalkit.view import numbers
from evalkit.view.cells import margin_text
from evalkit.view.charts.canvas import (
    HEIGHT,
    Chart,
    Tables,
    canvas,
    finish,
    legend,
    not_measured,
    styled,
    titled,
    tolerated,
)
from evalkit.view.charts.scores import FLIPS, TaskScore, shares, worst_first
from evalkit.view.charts.variants import (
    INK,
    MUTED,
    PAPER,
    Entry,
    bar_handle,
    bounds,
    drawable,
    entries,
    left_out,
    measured,
)

# More bars than this are no longer read one by one.
MOST_BARS = 72
FIX = "give tasks with --tasks"


@styled
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
    chosen = worst_first(comparison, scores)[: _most(len(shown))]
    chosen = [score for score in scores if score in chosen]
    places = _places(len(chosen), len(shown))
    has_differences = any(not entry.is_baseline for entry in shown)
    figure, panels = canvas(
        comparison,
        "Task scores, and their difference to the baseline" if has_differences else "Task scores",
        columns=2 if has_differences else 1,
        height=_height(places),
        sharey=True,
    )
    for row, score in enumerate(chosen):
        for column, entry in enumerate(shown):
            if measured([entry], score.key):
                value = entry.row.metrics[score.key]
                _bar(panels[0], entry, value, places[row, column])
                if has_differences:
                    _difference(panels[1], entry, value, places[row, column])
    _task_axis(panels[0], [f"{drawable(s.task)}\n{drawable(s.score)}" for s in chosen], places)
    panels[0].set_xlim(0, 100)
    titled(panels[0], "score", "% of items (right is better)")
    handles = [bar_handle(entry) for entry in shown]
    if has_differences:
        _band(panels[1], comparison)
        handles.append(_band_handle(comparison))
    legend(panels[-1], handles)
    return finish(figure, _notes(comparison, scores, chosen, known, shown), _summary(shown))


@styled
def flips(comparison: Comparison, tables: Tables) -> Chart:
    """Items that turned wrong (to the left) and right (to the right), per task and variant.

    Raises EvalkitError where no variant's answers were compared with the baseline's.
    """
    known = entries(comparison)
    keys = list(dict.fromkeys(k for e in known for k in e.row.metrics if k.endswith(FLIPS)))
    shown = [e for e in known if any(measured([e], key) for key in keys)]
    if not shown:
        raise not_measured("flips", f"{FIX} and compare two variants or more")
    keys.sort(key=lambda key: -max(_count(entry, key) for entry in shown))
    chosen = keys[: _most(len(shown))]
    places = _places(len(chosen), len(shown))
    figure, (axes,) = canvas(
        comparison, "Flips: answers that changed between right and wrong", height=_height(places)
    )
    largest = max(1.0, *(_count(entry, key) for entry in shown for key in chosen))
    for row, key in enumerate(chosen):
        for column, entry in enumerate(shown):
            if measured([entry], key):
                _flip_bars(axes, entry, entry.row.metrics[key], places[row, column], largest)
    names = [
        f"{drawable(key.removesuffix(FLIPS))}\nn = {max(_items(e, key) for e in shown):,}"
        for key in chosen
    ]
    _task_axis(axes, names, places)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlim(-1.25 * largest, 1.25 * largest)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda x, _: f"{abs(x):g}")
    axes.set_xlabel("items: ← right became wrong\u2003wrong became right →")
    legend(axes, [bar_handle(entry) for entry in shown])
    notes = [
        "p: exact McNemar test of both directions being as frequent, not adjusted over tasks.",
        _dropped(len(keys), len(chosen), "most flips"),
        left_out([e for e in known if not e.is_baseline], shown),
    ]
    return finish(figure, notes, _flip_summary(shown, keys))


def _most(variants: int) -> int:
    return max(1, MOST_BARS // variants)


def _places(rows: int, columns: int) -> np.ndarray[Any, Any]:
    """Heights of the bars, shape (tasks, variants): groups with a gap, from the top down."""
    step = columns + 0.8
    return np.arange(rows)[:, None] * step + np.arange(columns)[None, :]


def _height(places: np.ndarray[Any, Any]) -> float:
    return float(max(HEIGHT, 2.4 + 0.21 * (places.max() + 1)))


def _bar(axes: Axes, entry: Entry, value: Value, y: float) -> None:
    assert value.value is not None
    look = entry.look
    axes.barh(
        y, 100 * value.value, 0.86, color=look.colour, edgecolor=PAPER, hatch=look.hatch,
        linewidth=0,
    )  # fmt: skip
    known = bounds(value)
    if known is not None:
        axes.plot([100 * known[0], 100 * known[1]], [y, y], color=INK, linewidth=1.4)


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


def _task_axis(axes: Axes, names: Sequence[str], places: np.ndarray[Any, Any]) -> None:
    axes.set_yticks(places.mean(axis=1), list(names))
    axes.tick_params("y", length=0, labelsize=10.5)
    axes.set_ylim(places.max() + 0.9, -0.9)


def _flip_bars(axes: Axes, entry: Entry, value: Value, y: float, largest: float) -> None:
    lost = float(value.details.get("right_to_wrong") or 0)
    won = float(value.details.get("wrong_to_right") or 0)
    look = entry.look
    for width, side in ((-lost, "right"), (won, "left")):
        axes.barh(y, width, 0.86, color=look.colour, edgecolor=PAPER, hatch=look.hatch, linewidth=0)
        gap = 0.015 * largest * (-1 if side == "right" else 1)
        text = f"{abs(width):,.0f}"
        p = value.details.get("mcnemar_p")
        if side == "left" and p is not None:
            text += f"\u2003p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
        axes.text(width + gap, y, text, ha=side, va="center", fontsize=8.5, color=INK)


def _count(entry: Entry, key: str) -> float:
    value = entry.row.metrics.get(key)
    details = value.details if value else {}
    return float(max(details.get("right_to_wrong") or 0, details.get("wrong_to_right") or 0))


def _items(entry: Entry, key: str) -> int:
    return entry.row.metrics[key].n if key in entry.row.metrics else 0


def _dropped(known: int, chosen: int, why: str) -> str:
    return f"{chosen} of {known} tasks: those with the {why}." if chosen < known else ""


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
        "Markers: difference on the same items with its 95 % interval; beyond the"
        f" {margin_text(comparison)} band a loss is not tolerated."
    )
    return [
        f"{items} items a task. Bars: score with its 95 % interval.",
        paired if any(not entry.is_baseline for entry in shown) else "",
        _dropped(len(scores), len(chosen), "largest differences"),
        left_out(known, shown),
    ]


def _summary(shown: Sequence[Entry]) -> str:
    said = []
    for entry in shown:
        value = entry.row.metrics.get("tasks_mean")
        if value is not None and value.value is not None:
            said.append(f"{entry.name}: mean {numbers.percent(value.value)}")
    return f"{'; '.join(said)}." if said else ""


def _flip_summary(shown: Sequence[Entry], keys: Sequence[str]) -> str:
    said = []
    for entry in shown:
        details = [entry.row.metrics[key].details for key in keys if key in entry.row.metrics]
        lost = sum(int(one.get("right_to_wrong") or 0) for one in details)
        won = sum(int(one.get("wrong_to_right") or 0) for one in details)
        said.append(f"{entry.name}: {lost:,} right to wrong, {won:,} wrong to right")
    return f"{'; '.join(said)}."
