"""Divergence from the baseline against the bytes of the weights, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from evalkit import numbers
from evalkit.records import Comparison
from evalkit.records.equal_bytes import FormatRow
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
)
from evalkit.view.charts.comparison.divergence import FIX, SMALLEST
from evalkit.view.charts.variants import (
    GREYED,
    MUTED,
    PAPER,
    Entry,
    entries,
    left_out,
    shortened,
)

_LEGEND_ROWS = 9


@chart(place=25)
def divergence_bytes(comparison: Comparison, tables: Tables) -> Chart:
    """Mean KL divergence of each format against its true bytes, and which are on the front.

    The order rests on paired differences, which the comparison holds. Raises EvalkitError where
    no variant has both.
    """
    rows = comparison.equal_bytes.rows
    known = {entry.row.variant.label: entry for entry in entries(comparison)}
    rows = tuple(row for row in rows if row.variants[0] in known)
    if not rows:
        raise not_measured("bytes of weights and KL divergence of one variant", FIX)
    height = max(HEIGHT, HEIGHT + 0.27 * (len(rows) - _LEGEND_ROWS))
    title = "KL divergence from the baseline against bytes of weights"
    figure, (axes,) = canvas(comparison, title, height=height)
    scale, unit = _unit(rows)
    names = shortened(row.label for row in rows)
    for row in rows:
        _plot(axes, row, known[row.variants[0]], scale)
    front = _front(axes, rows, scale)
    axes.set_yscale("log")
    axes.set_xlabel(f"weights, {unit} (left is smaller)")
    axes.set_ylabel("mean KL divergence, nats (down is closer)")
    axes.margins(0.08)
    logarithmic(axes.yaxis)
    axes.grid(True)
    legend(axes, [*(_handle(row, known[row.variants[0]], names) for row in rows), *front])
    shown = [known[label] for row in rows for label in row.variants]
    others = [entry for entry in known.values() if not entry.is_baseline]
    return finish(figure, [*_notes(comparison, rows), left_out(others, shown)], _summary(rows))


def _plot(axes: Axes, row: FormatRow, entry: Entry, scale: float) -> None:
    """A marker with its interval: full on the front, hollow where tied, grey where dominated."""
    colour = GREYED if row.place == "dominated" else entry.look.colour
    x, (low, y, high) = row.bytes / scale, (max(v, SMALLEST) for v in (row.low, row.kl, row.high))
    axes.errorbar(
        x,
        y,
        yerr=[[max(0.0, y - low)], [max(0.0, high - y)]],
        color=colour,
        marker=cast(Any, entry.look.marker),
        markerfacecolor=colour if row.place == "front" else PAPER,
        markersize=9,
        linewidth=1.6,
        zorder=3,
    )
    if len(row.variants) > 1:
        ends = [max(row.kl_least, SMALLEST), max(row.kl_most, SMALLEST)]
        axes.plot([x, x], ends, color=colour, marker="_", markersize=14, linewidth=5, alpha=0.35)


def _front(axes: Axes, rows: Sequence[FormatRow], scale: float) -> list[Line2D]:
    front = [row for row in rows if row.place == "front"]
    if len(front) < 2:
        return []
    lines = axes.step(
        [row.bytes / scale for row in front],
        [max(row.kl, SMALLEST) for row in front],
        where="post",
        color=MUTED,
        linestyle="--",
        linewidth=1.4,
        label="Pareto front",
        zorder=1,
    )
    return list(lines)


def _handle(row: FormatRow, entry: Entry, names: Mapping[str, str]) -> Line2D:
    """The name, bits of a quantized weight, and in words where it is not on the front."""
    colour = GREYED if row.place == "dominated" else entry.look.colour
    bits = row.bits_per_quantized_weight
    words = "" if bits is None else f", {numbers.plain(bits, 2)} bits"
    words += {"front": "", "tied": " (tied)", "dominated": " (dominated)"}[row.place]
    return Line2D(
        [],
        [],
        color=colour,
        marker=cast(Any, entry.look.marker),
        markerfacecolor=colour if row.place == "front" else PAPER,
        linestyle="none",
        markersize=8,
        label=f"{names[row.label]}{words}",
    )


def _notes(comparison: Comparison, rows: Sequence[FormatRow]) -> list[str]:
    tokens = max(
        (row.metrics["kl_divergence_mean"].n for row in comparison.rows
         if "kl_divergence_mean" in row.metrics), default=0,
    )  # fmt: skip
    seeds = max(len(row.variants) for row in rows)
    return [
        f"{tokens:,} tokens; lines: 95 % intervals of each format alone. The order rests on paired"
        " differences: hollow, not told from a smaller format (tied); grey, a smaller one is closer"
        " (dominated). Bits are those of a quantized weight, scales and zeros included.",
        f"Broad lines: {seeds} seeds of the calibration samples." if seeds > 1 else "",
    ]


def _summary(rows: Sequence[FormatRow]) -> str:
    said = [
        f"{row.label}: {numbers.byte_size(row.bytes)}, {numbers.small(row.kl)} nats, {row.words}"
        for row in rows
    ]
    return f"From the smallest up, {'; '.join(said)}."


def _unit(rows: Sequence[FormatRow]) -> tuple[float, str]:
    most = max(row.bytes for row in rows)
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if most >= scale:
            return scale, unit
    return 1.0, "bytes"
