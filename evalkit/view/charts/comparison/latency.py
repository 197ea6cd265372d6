"""Every speed sample as time per token: the spread, not only the middle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes

from evalkit import numbers
from evalkit.records import Comparison, Measurement
from evalkit.view.charts.canvas import (
    HEIGHT,
    Chart,
    Tables,
    canvas,
    chart,
    finish,
    not_measured,
    titled,
)
from evalkit.view.charts.variants import INK, Entry, drawable, entries, left_out, measured

PANELS = (("decode_tokens_per_second", "decode"), ("prefill_tokens_per_second", "prefill"))
# The rule of pyperf: a deviation of a tenth of the mean is worth another run.
UNSTEADY = 0.1


@chart(place=90)
def latency(comparison: Comparison, tables: Tables) -> Chart:
    """Milliseconds per token of every repetition, decode and prefill, with their medians.

    Raises EvalkitError where `tables` hold no speed samples.
    """
    known = entries(comparison)
    panels = [(metric, title) for metric, title in PANELS if _have(known, tables, metric)]
    if not panels:
        raise not_measured("speed samples", "open the comparison with its store and speed in it")
    shown = [e for e in known if any(_have([e], tables, metric) for metric, _ in panels)]
    figure, axes = canvas(
        comparison,
        "Latency: time per token, each repetition",
        columns=len(panels),
        height=max(HEIGHT, 2.4 + 0.42 * len(shown)),
        sharey=True,
    )
    for panel, (metric, title) in zip(axes, panels, strict=True):
        _panel(panel, shown, tables, metric)
        panel.tick_params("y", length=0)
        titled(panel, title, "milliseconds per token (left is better)")
    axes[0].set_yticks(range(len(shown)), [entry.name for entry in shown])
    axes[0].set_ylim(len(shown) - 0.4, -0.6)
    notes = [
        _repetitions(shown, tables, panels),
        "From top to bottom in order of time; lines: medians.",
        *_unsteady(shown, tables, panels),
        left_out(known, shown),
    ]
    return finish(figure, notes, _summary(shown, tables, panels[0][0]))


def _panel(axes: Axes, shown: Sequence[Entry], tables: Tables, metric: str) -> None:
    for place, entry in enumerate(shown):
        values = samples(tables, entry, metric)
        # In the order of time, so that a machine growing slower shows as a slope.
        heights = place + np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else [place]
        axes.plot(
            values,
            heights[: len(values)],
            color=entry.look.colour,
            marker=cast(Any, entry.look.marker),
            linestyle="none",
            markersize=7,
            alpha=0.8,
        )
        if values:
            middle = float(np.median(values))
            axes.plot([middle, middle], [place - 0.36, place + 0.36], color=INK, linewidth=2.2)
    axes.set_xlim(left=0)
    axes.margins(x=0.08)
    axes.grid(True, axis="x")


def samples(tables: Tables, entry: Entry, metric: str) -> list[float]:
    """Milliseconds per token of every repetition; empty where there are no samples."""
    measurement = _measurement(tables, entry, metric)
    return [1000 / value for value in measurement.values if value > 0] if measurement else []


def _measurement(tables: Tables, entry: Entry, metric: str) -> Measurement | None:
    raw = tables.get(entry.row.variant.label)
    return raw.measurements().get(metric) if raw is not None else None


def _have(known: Sequence[Entry], tables: Tables, metric: str) -> list[Entry]:
    return [entry for entry in measured(known, metric) if samples(tables, entry, metric)]


def _repetitions(shown: Sequence[Entry], tables: Tables, panels: Sequence[tuple[str, str]]) -> str:
    all_of = [_measurement(tables, entry, metric) for entry in shown for metric, _ in panels]
    sizes = sorted({len(one.values) for one in all_of if one is not None and one.values})
    how = dict.fromkeys(one.convention for one in all_of if one is not None and one.convention)
    count = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"{count} repetitions each ({drawable('; '.join(how)) or 'batch 1'})."


def _unsteady(
    shown: Sequence[Entry], tables: Tables, panels: Sequence[tuple[str, str]]
) -> list[str]:
    names = []
    for metric, title in panels:
        for entry in shown:
            values = samples(tables, entry, metric)
            if len(values) > 1 and np.std(values, ddof=1) >= UNSTEADY * np.mean(values):
                names.append(f"{entry.name} ({title})")
    return [f"Unsteady, deviation of 10 % or more, measure again: {', '.join(names)}."] * bool(
        names
    )


def _summary(shown: Sequence[Entry], tables: Tables, metric: str) -> str:
    said = []
    for entry in shown:
        values = samples(tables, entry, metric)
        if values:
            middle = float(np.median(values))
            said.append(f"{entry.name}: {numbers.plain(middle, numbers.places(middle, 3))} ms")
    return f"Median time per token: {'; '.join(said)}."
