"""The answers that changed between right and wrong, task by task and variant by variant."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from evalkit.records import Comparison, Value
from evalkit.view.charts.canvas import Chart, Tables, canvas, chart, finish, legend, not_measured
from evalkit.view.charts.scores import FLIPS
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
    PAPER,
    Entry,
    bar_handle,
    drawable,
    entries,
    left_out,
    measured,
)


@chart(place=40)
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
    chosen = keys[: most_tasks(len(shown))]
    places = bar_places(len(chosen), len(shown))
    figure, (axes,) = canvas(
        comparison,
        "Flips: answers that changed between right and wrong",
        height=bars_height(places),
    )
    largest = max(1.0, *(_count(entry, key) for entry in shown for key in chosen))
    for row, key in enumerate(chosen):
        for column, entry in enumerate(shown):
            if measured([entry], key):
                _flip_bars(axes, entry, entry.row.metrics[key], places[row, column], largest)
                _p_label(axes, entry.row.metrics[key], places[row, column])
    names = [
        f"{drawable(key.removesuffix(FLIPS))}\nn = {max(_items(e, key) for e in shown):,}"
        for key in chosen
    ]
    task_axis(axes, names, places)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlim(-1.2 * largest, 1.6 * largest)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda x, _: f"{abs(x):g}")
    axes.set_xlabel("items: ← right became wrong\u2003wrong became right →")
    legend(axes, [bar_handle(entry) for entry in shown])
    notes = [
        "p: exact McNemar test of both directions being as frequent, not adjusted over tasks.",
        dropped_note(len(keys), len(chosen), "most flips"),
        left_out([e for e in known if not e.is_baseline], shown),
    ]
    return finish(figure, notes, _flip_summary(shown, keys))


def _flip_bars(axes: Axes, entry: Entry, value: Value, y: float, largest: float) -> None:
    lost = float(value.details.get("right_to_wrong") or 0)
    won = float(value.details.get("wrong_to_right") or 0)
    look = entry.look
    for width, side in ((-lost, "right"), (won, "left")):
        axes.barh(y, width, 0.86, color=look.colour, edgecolor=PAPER, hatch=look.hatch, linewidth=0)
        gap = 0.015 * largest * (-1 if side == "right" else 1)
        text = f"{abs(width):,.0f}"
        axes.text(width + gap, y, text, ha=side, va="center", fontsize=9.5, color=INK)


def _p_label(axes: Axes, value: Value, y: float) -> None:
    """How likely so uneven counts are by chance, in a column of its own beside the bars."""
    p = value.details.get("mcnemar_p")
    if p is None or not value.value:
        return
    text = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    place = axes.get_yaxis_transform()
    axes.text(0.995, y, text, ha="right", va="center", fontsize=9.5, color=INK, transform=place)


def _count(entry: Entry, key: str) -> float:
    value = entry.row.metrics.get(key)
    details = value.details if value else {}
    return float(max(details.get("right_to_wrong") or 0, details.get("wrong_to_right") or 0))


def _items(entry: Entry, key: str) -> int:
    return entry.row.metrics[key].n if key in entry.row.metrics else 0


def _flip_summary(shown: Sequence[Entry], keys: Sequence[str]) -> str:
    said = []
    for entry in shown:
        details = [entry.row.metrics[key].details for key in keys if key in entry.row.metrics]
        lost = sum(int(one.get("right_to_wrong") or 0) for one in details)
        won = sum(int(one.get("wrong_to_right") or 0) for one in details)
        said.append(f"{entry.name}: {lost:,} right to wrong, {won:,} wrong to right")
    return f"{'; '.join(said)}."
