"""The times between tokens."""

from __future__ import annotations

from evalkit.analysis.sweep import percentile
from evalkit.records.bench import Bench
from evalkit.view.bench import heading
from evalkit.view.charts.bench_series import excluded_note, looks, points_by_variant, short_names
from evalkit.view.charts.canvas import HEIGHT, Chart, chart, finish, page, titled
from evalkit.view.charts.variants import INK

WHISKERS = (5, 25, 50, 75, 95)


@chart(place=30)
def steps(bench: Bench) -> Chart:
    """Times between tokens at batch 1: box from 25 to 75 %, whiskers from 5 to 95 %, 99 % as x."""
    shown = {
        name: points[0]
        for name, points in points_by_variant(
            bench,
            lambda p: p.phase == "decode" and p.batch_size == 1 and p.context == bench.prompt,
        ).items()
    }
    height = max(HEIGHT, 2.4 + 0.42 * len(shown))
    figure, (axes,) = page(heading(bench), "Time between tokens", height=height)
    known = looks(bench)
    for place, (name, point) in enumerate(shown.items()):
        low, first, middle, third, high = (percentile(point.latencies_ms, s) for s in WHISKERS)
        colour = known[name]["color"]
        axes.plot([low, high], [place, place], color=colour, linewidth=1.5)
        axes.barh(place, third - first, 0.5, first, color=colour, alpha=0.35, edgecolor=colour)
        axes.plot([middle, middle], [place - 0.25, place + 0.25], color=INK, linewidth=2)
        axes.plot(percentile(point.latencies_ms, 99), place, "x", color=colour, markersize=8)
    axes.set_yticks(range(len(shown)), [short_names(bench)[name] for name in shown])
    axes.tick_params("y", length=0)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(True, axis="x")
    titled(axes, "", "milliseconds (left is better)")
    count = sorted({len(point.latencies_ms) for point in shown.values()})
    notes = [
        f"{count[0]:,} steps each" if len(count) == 1 else f"{count[0]:,} to {count[-1]:,} steps",
        "at batch 1. Line: median; box: 25 to 75 %; whiskers: 5 to 95 %; cross: 99 %.",
        excluded_note(bench),
    ]
    said = [f"{name} {point.latency_ms_p50:.3g} ms" for name, point in shown.items()]
    return finish(figure, notes, f"Median: {'; '.join(said)}.")
