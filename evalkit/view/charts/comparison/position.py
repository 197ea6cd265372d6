"""Perplexity and divergence by position in the window: does the damage grow with the context?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes

from evalkit.analysis.summaries import TokenTable
from evalkit.records import Comparison
from evalkit.view.charts.canvas import (
    Chart,
    Tables,
    canvas,
    chart,
    finish,
    legend,
    logarithmic,
    not_measured,
    power,
    titled,
)
from evalkit.view.charts.comparison.divergence import (
    SMALLEST,
    Floats,
    has_tokens,
    summary,
    token_table,
)
from evalkit.view.charts.variants import MUTED, Entry, entries, left_out, marker_handle, measured

POSITIONS = 12
POSITION = "position in the window, tokens"
CONFIDENT = 1.959964  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class Curve:
    """Means over bins of the position: positions, means and half widths of 95 %, each (bins,)."""

    positions: Floats
    means: Floats
    halves: Floats


@chart(place=60)
def position(comparison: Comparison, tables: Tables) -> Chart:
    """Perplexity, and KL divergence from the baseline, by position in the window.

    Raises EvalkitError where `tables` hold no per-token values.
    """
    known = entries(comparison)
    shown = [e for e in measured(known, "perplexity") if has_tokens(tables, e)]
    if not shown:
        raise not_measured(
            "values token by token", "open the comparison with its store and give it a text"
        )
    others = [e for e in shown if not e.is_baseline and "kl_divergence_mean" in e.row.metrics]
    title = "Perplexity and divergence by position in the window"
    figure, panels = canvas(comparison, title, columns=2 if others else 1)
    # The curves of all variants lie on one another: the first panel says where text is hard, the
    # second what quantizing adds there.
    first = [entry for entry in shown if entry.is_baseline] or shown[:1]
    for entry in first:
        curve = by_position(token_table(tables, entry), "nll")
        _curve(panels[0], entry, _exponential(curve), band=True)
    titled(panels[0], f"perplexity of {first[0].name}", POSITION, "perplexity (lower is better)")
    if others:
        _divergences(panels[1], others, tables, comparison.noise_floor)
    for axes in panels:
        axes.grid(True)
    legend(panels[-1], [marker_handle(e, line=True) for e in (*first, *others)])
    n = max(entry.row.metrics["perplexity"].n for entry in shown)
    notes = [
        f"{n:,} tokens in bins of as many each; bands: 95 % interval over windows.",
        f"{power(SMALLEST)} nats stands for that and less." if others else "",
        left_out(known, shown),
    ]
    return finish(figure, notes, summary(shown, "perplexity"))


def by_position(table: TokenTable, column: str, bins: int = POSITIONS) -> Curve:
    """Mean of a per-token column in `bins` ranges of position that hold about as many tokens.

    The half width treats windows as independent: 1.96 standard errors of a ratio of sums over
    windows (Cochran 1977, "Sampling Techniques", section 6.3); nan for a single window.
    """
    window = table.tokens("window")
    inside = table.select(None)[window]
    window, place = window[inside].astype(np.int64), table.tokens("position")[inside]
    values = table.tokens(column)[inside].astype(np.float64)
    edges = np.unique(np.quantile(place, np.linspace(0, 1, bins + 1), method="nearest"))
    index = np.clip(np.searchsorted(edges, place, side="right") - 1, 0, max(0, len(edges) - 2))
    count = max(1, len(edges) - 1)
    n = np.bincount(index, minlength=count).astype(np.float64)
    means = np.bincount(index, values, count) / n
    cells, cell = np.unique(index * (window.max() + 1) + window, return_inverse=True)
    of_cell = cells // (window.max() + 1)
    residuals = np.bincount(cell, values - means[index])
    groups = np.bincount(of_cell, minlength=count)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(groups > 1, groups / (groups - 1.0), np.nan)
        errors = np.sqrt(scale * np.bincount(of_cell, residuals**2, count)) / n
    return Curve(np.bincount(index, place, count) / n, means, CONFIDENT * errors)


def _exponential(curve: Curve) -> Curve:
    means = np.exp(curve.means)
    return Curve(curve.positions, means, means * curve.halves)


def _curve(axes: Axes, entry: Entry, curve: Curve, band: bool) -> None:
    look = entry.look
    axes.plot(
        curve.positions,
        np.maximum(curve.means, SMALLEST),
        color=look.colour,
        marker=cast(Any, look.marker),
        markersize=6,
        linestyle=look.line,
        linewidth=1.7,
    )
    if band and np.isfinite(curve.halves).all():
        low = np.maximum(curve.means - curve.halves, SMALLEST)
        high = np.maximum(curve.means + curve.halves, SMALLEST)
        axes.fill_between(curve.positions, low, high, color=look.colour, alpha=0.16, linewidth=0)


def _divergences(
    axes: Axes, others: Sequence[Entry], tables: Tables, noise_floor: Mapping[str, float]
) -> None:
    for entry in others:
        _curve(axes, entry, by_position(token_table(tables, entry), "kl"), band=True)
    titled(axes, "KL divergence from it", POSITION, "nats per token, logarithmic (lower is closer)")
    floor = noise_floor.get("kl_divergence_mean", 0.0)
    if floor > SMALLEST:
        axes.axhline(floor, color=MUTED, linestyle=":", linewidth=1.5)
        axes.annotate(
            "noise floor",
            (0.99, floor),
            (0, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            fontsize=9.5,
            color=MUTED,
        )
    axes.set_yscale("log")
    logarithmic(axes.yaxis)
