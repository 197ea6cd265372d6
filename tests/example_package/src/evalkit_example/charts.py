"""The Jensen-Shannon divergence of each variant."""

from __future__ import annotations

from evalkit.records import Comparison
from evalkit.view.charts.canvas import Chart, Tables, canvas, chart, finish, not_measured, titled
from evalkit.view.charts.variants import bounds, entries, left_out, measured

METRIC = "jensen_shannon_mean"


@chart(place=55)
def jensen_shannon(comparison: Comparison, tables: Tables) -> Chart:
    """Mean Jensen-Shannon divergence of each variant with its interval."""
    known = [entry for entry in entries(comparison) if not entry.is_baseline]
    shown = measured(known, METRIC)
    if not shown:
        raise not_measured("the Jensen-Shannon divergence", "compare two variants on a text")
    figure, (axes,) = canvas(comparison, "Jensen-Shannon divergence from the baseline")
    for place, entry in enumerate(shown):
        value = entry.row.metrics[METRIC]
        assert value.value is not None
        axes.barh(place, value.value, color=entry.look.colour, hatch=entry.look.hatch)
        axes.plot(bounds(value) or (value.value, value.value), (place, place), color="black")
    axes.set_yticks(range(len(shown)), [entry.name for entry in shown])
    titled(axes, "", "nats a token (left is better)")
    notes = ["Lines: 95 % interval.", left_out(known, shown)]
    return finish(figure, notes, f"{len(shown)} variants.")
