"""Damage by text: which kind of text a variant is worse on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from evalkit import numbers
from evalkit.analysis.verdicts import parse_margin
from evalkit.records import Comparison, Value
from evalkit.view.charts.canvas import (
    HEIGHT,
    Chart,
    Tables,
    canvas,
    chart,
    finish,
    legend,
    logarithmic,
    not_measured,
    titled,
    tolerated,
)
from evalkit.view.charts.comparison.divergence import SMALLEST
from evalkit.view.charts.variants import (
    INK,
    MUTED,
    Entry,
    drawable,
    entries,
    left_out,
    marker_handle,
)

MOST_ROWS = 72
LONGEST = 24


@chart(place=70)
def slices(comparison: Comparison, tables: Tables) -> Chart:
    """Change of perplexity and KL divergence text by text, paired, with the margin.

    Raises EvalkitError where the suite has fewer than two texts or no variant was measured.
    """
    known = [entry for entry in entries(comparison) if not entry.is_baseline]
    shown = [entry for entry in known if entry.row.status == "ok" and entry.row.slices]
    names = list(dict.fromkeys(name for entry in shown for name in entry.row.slices))
    if len(names) < 2:
        raise not_measured("two texts or more", "give several files with --text")
    chosen = names[: max(1, MOST_ROWS // len(shown))]
    figure, (left, right) = canvas(
        comparison,
        "Damage by text",
        columns=2,
        height=max(HEIGHT, 2.4 + 0.21 * len(chosen) * (len(shown) + 0.8)),
        sharey=True,
    )
    step = len(shown) + 0.8
    for row, name in enumerate(chosen):
        for column, entry in enumerate(shown):
            metrics = entry.row.slices.get(name, {})
            y = row * step + column
            _change(left, entry, metrics.get("perplexity"), y)
            _distance(right, entry, metrics.get("kl_divergence_mean"), y)
    _axes(comparison, left, right, step * len(chosen))
    middles = np.arange(len(chosen)) * step + (len(shown) - 1) / 2
    left.set_yticks(middles, [_slice_name(name, shown) for name in chosen])
    left.tick_params("y", length=0, labelsize=10.5)
    right.tick_params("y", length=0)
    margin = Patch(color=MUTED, alpha=0.16, label=tolerated(comparison, "%"))
    legend(right, [*map(marker_handle, shown), margin])
    notes = [
        "Lines: 95 % intervals, the change of perplexity paired over the same windows.",
        f"{len(chosen)} of {len(names)} texts." if len(chosen) < len(names) else "",
        left_out(known, shown),
    ]
    return finish(figure, notes, _summary(shown, chosen))


def _change(axes: Axes, entry: Entry, value: Value | None, y: float) -> None:
    percent = _percent(value)
    if percent is not None:
        _mark(axes, entry, percent, y)


def _distance(axes: Axes, entry: Entry, value: Value | None, y: float) -> None:
    if value is not None and value.value is not None:
        low = value.value if value.low is None else value.low
        high = value.value if value.high is None else value.high
        _mark(axes, entry, tuple(max(x, SMALLEST) for x in (value.value, low, high)), y)


def _percent(value: Value | None) -> tuple[float, ...] | None:
    """Change in percent of the baseline's perplexity with its bounds."""
    if value is None or value.delta is None or value.value is None or value.value == value.delta:
        return None
    known = [value.delta if bound is None else bound for bound in
             (value.delta, value.delta_low, value.delta_high)]  # fmt: skip
    return tuple(100 * one / (value.value - value.delta) for one in known)


def _mark(axes: Axes, entry: Entry, span: Sequence[float], y: float) -> None:
    look = entry.look
    axes.plot(span[1:], [y, y], color=look.colour, linewidth=2)
    axes.plot(span[0], y, color=look.colour, marker=cast(Any, look.marker), markersize=7)


def _axes(comparison: Comparison, left: Axes, right: Axes, bottom: float) -> None:
    points = 100 * parse_margin(comparison.margin).points
    left.axvline(0, color=INK, linewidth=0.8)
    left.axvspan(0, points, color=MUTED, alpha=0.16, linewidth=0, zorder=0)
    left.set_ylim(bottom - 0.6, -0.9)
    titled(left, "perplexity", "change in % (left is better)")
    titled(right, "KL divergence", "nats per token (left is closer)")
    right.set_xscale("log")
    logarithmic(right.xaxis)
    for axes in (left, right):
        axes.grid(True, axis="x")


def _slice_name(name: str, shown: Sequence[Entry]) -> str:
    n = max(
        (e.row.slices[name]["perplexity"].n for e in shown
         if "perplexity" in e.row.slices.get(name, {})), default=0,
    )  # fmt: skip
    short = drawable(name)
    short = short if len(short) <= LONGEST else f"{short[: LONGEST - 1]}…"
    return f"{short}\n{numbers.count(n)} tokens"


def _summary(shown: Sequence[Entry], names: Sequence[str]) -> str:
    said = []
    for entry in shown:
        found = {name: _percent(entry.row.slices.get(name, {}).get("perplexity")) for name in names}
        changes = {name: change[0] for name, change in found.items() if change is not None}
        if changes:
            worst = max(changes, key=lambda name: changes[name])
            said.append(f"{entry.name}: most on {worst}, {changes[worst]:+.1f} %")
    return f"{'; '.join(said)}." if said else ""
