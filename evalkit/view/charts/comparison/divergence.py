"""How far the predictions are from the baseline's: the distribution over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from evalkit import numbers
from evalkit.analysis.summaries import TokenTable
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
    power,
)
from evalkit.view.charts.variants import (
    GREYED,
    INK,
    MUTED,
    PAPER,
    Entry,
    entries,
    left_out,
    measured,
)

Floats = NDArray[np.float64]
FIX = "give a text with --text and compare two variants or more"
PERCENTILES = (
    ("kl_divergence_median", "median", "|"),
    ("kl_divergence_mean", "mean", "D"),
    ("kl_divergence_p90", "90 %", "<"),
    ("kl_divergence_p99", "99 %", "o"),
    ("kl_divergence_p999", "99.9 %", "s"),
    ("kl_divergence_max", "largest", "x"),
)
# Below this a divergence of float32 sums is rounding.
SMALLEST = 1e-9


@chart(place=50)
def divergence(comparison: Comparison, tables: Tables) -> Chart:
    """Distribution of the KL divergence over tokens, per variant and of the noise floor.

    The percentiles come from the comparison; the shape above them is drawn where `tables` hold
    the per-token values. Raises EvalkitError where no divergence was measured.
    """
    known = [entry for entry in entries(comparison) if not entry.is_baseline]
    shown = measured(known, "kl_divergence_mean")
    if not shown:
        raise not_measured("KL divergence", FIX)
    has_noise = "kl_divergence_mean" in comparison.noise_floor
    rows = len(shown) + has_noise
    figure, (axes,) = canvas(
        comparison,
        "KL divergence from the baseline, token by token",
        height=max(HEIGHT, 2.4 + 0.5 * rows),
    )
    for place, entry in enumerate(shown):
        values = {name: entry.row.metrics.get(name) for name, _, _ in PERCENTILES}
        _ridge(axes, place, _tokens(tables, entry, "kl"), entry.look.colour)
        _percentiles(axes, place, values, entry.look.colour)
    names = [entry.name for entry in shown]
    if has_noise:
        floor = {n: Value(v, "nats") for n, v in comparison.noise_floor.items()}
        _ridge(axes, len(shown), _noise(comparison, tables), GREYED)
        _percentiles(axes, len(shown), floor, MUTED)
        names.append("noise floor")
    _log_axis(axes)
    axes.set_yticks(range(rows), names)
    axes.tick_params("y", length=0)
    axes.set_ylim(rows - 0.5, -0.85)
    axes.grid(True, axis="x")
    axes.set_xlabel("KL divergence, nats per token, logarithmic (left is closer)")
    legend(axes, _percentile_handles())
    n = max(entry.row.metrics["kl_divergence_mean"].n for entry in shown)
    notes = [
        f"{n:,} tokens. Lines at the markers: 95 % intervals. At the left edge: {power(SMALLEST)}"
        f" and less{_at_rounding(shown, tables)}.",
        "Noise floor: the baseline scored again with another batch size; around it a divergence"
        " does not rank."
        if has_noise
        else "Noise floor: not measured.",
        left_out(known, shown),
    ]
    return finish(figure, notes, summary(shown, "kl_divergence_mean"))


def _ridge(axes: Axes, place: int, values: Floats | None, colour: str) -> None:
    """The share of tokens in ranges of equal ratio, as an area on the line of the variant.

    Those at rounding have no place on the axis: a bar for them would dwarf the shape of the others,
    so a note counts them. Where they are most of all there is no shape.
    """
    if values is None or not len(values):
        return
    seen = values[values > SMALLEST]
    if len(seen) < len(values) / 2:
        return
    logs = np.log10(seen)
    counts, edges = np.histogram(logs, bins=np.arange(np.log10(SMALLEST), 2.01, 0.1))
    heights = 0.75 * counts / counts.max()
    middles = 10 ** ((edges[:-1] + edges[1:]) / 2)
    filled = counts.cumsum() > 0
    filled &= counts[::-1].cumsum()[::-1] > 0
    axes.fill_between(
        middles[filled], place, place - heights[filled], color=colour, alpha=0.3, linewidth=0
    )
    axes.plot(middles[filled], place - heights[filled], color=colour, linewidth=1)


def _at_rounding(shown: Sequence[Entry], tables: Tables) -> str:
    """The share of each variant's tokens that the shapes leave out, in words."""
    found = [(entry.name, _tokens(tables, entry, "kl")) for entry in shown]
    said = [
        f"{name} {numbers.percent(float(np.mean(values <= SMALLEST)))}"
        for name, values in found
        if values is not None and len(values)
    ]
    return f" (tokens that the shapes leave out: {', '.join(said)})" if said else ""


def _percentiles(axes: Axes, place: int, values: Any, colour: str) -> None:
    drawn = []
    for name, _, marker in PERCENTILES:
        value = values.get(name)
        if value is None or value.value is None:
            continue
        x = max(value.value, SMALLEST)
        drawn.append(x)
        if value.low is not None and value.high is not None:
            span = [max(value.low, SMALLEST), max(value.high, SMALLEST)]
            axes.plot(span, [place, place], color=colour, linewidth=4, alpha=0.55)
        edge = colour if marker in "|x" else PAPER
        axes.plot(x, place, marker=marker, color=colour, markersize=8, markeredgecolor=edge,
                  markeredgewidth=2 if marker in "|x" else 0.8, zorder=3)  # fmt: skip
    if drawn:
        axes.plot([min(drawn), max(drawn)], [place, place], color=colour, linewidth=1)


def _percentile_handles() -> list[Line2D]:
    return [
        Line2D([], [], color=INK, marker=cast(Any, marker), linestyle="none", markersize=8,
               markeredgewidth=2 if marker in "|x" else 0.8, label=name)
        for _, name, marker in PERCENTILES
    ]  # fmt: skip


def _log_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, SMALLEST / 3), max(high, 10 * SMALLEST))
    logarithmic(axes.xaxis)


def has_tokens(tables: Tables, entry: Entry) -> bool:
    """Whether `tables` hold the variant's per-token values."""
    label = entry.row.variant.label
    return label in tables and tables[label].tokens is not None


def token_table(tables: Tables, entry: Entry) -> TokenTable:
    """The variant's per-token values."""
    table = tables[entry.row.variant.label].tokens
    assert table is not None
    return table


def _tokens(tables: Tables, entry: Entry, column: str) -> Floats | None:
    return _scored(token_table(tables, entry), column) if has_tokens(tables, entry) else None


def _noise(comparison: Comparison, tables: Tables) -> Floats | None:
    base = tables.get(comparison.baseline)
    return None if base is None or base.noise is None else _scored(base.noise, "kl")


def _scored(table: TokenTable, column: str) -> Floats:
    inside = table.select(None)[table.tokens("window")]
    values: Floats = table.tokens(column)[inside].astype(np.float64)
    return values


def summary(shown: Sequence[Entry], metric: str) -> str:
    """The metric of each variant in one sentence, for the description of a chart."""
    said = [
        f"{entry.name}: {numbers.small(entry.row.metrics[metric].value or 0.0)}" for entry in shown
    ]
    return f"{metric.replace('_', ' ')}: {'; '.join(said)}."
