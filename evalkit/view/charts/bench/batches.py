"""Decode over the batch size: tokens/s and time per step."""

from __future__ import annotations

from typing import cast

from matplotlib.lines import Line2D

from evalkit.records.bench import Bench
from evalkit.view.bench import heading
from evalkit.view.charts.bench_series import (
    excluded_note,
    intervals_note,
    looks,
    plot_speeds,
    points_by_variant,
    powers_of_two,
    speed_axis,
    speeds_in_words,
    variant_handles,
)
from evalkit.view.charts.canvas import Chart, chart, finish, legend, page, titled
from evalkit.view.charts.variants import MUTED


@chart(place=10)
def batches(bench: Bench) -> Chart:
    """Decode tokens/s and time per step over the batch size, with the knee of each variant."""
    shown = points_by_variant(bench, lambda p: p.phase == "decode" and p.context == bench.prompt)
    figure, (left, right) = page(heading(bench), "Decode over the batch size", columns=2)
    known = looks(bench)
    for name, points in shown.items():
        look = known[name]
        sizes = [point.batch_size for point in points]
        plot_speeds(left, sizes, points, look)
        right.plot(sizes, [cast(float, p.latency_ms_p50) for p in points], **look, linewidth=2)
        for point in points:
            if point.batch_size == bench.knee.get(name):
                speed = cast(float, point.tokens_per_second)
                left.plot(point.batch_size, speed, "o", markersize=17, color=look["color"],
                          fillstyle="none", markeredgewidth=1.6)  # fmt: skip
    for axes in (left, right):
        powers_of_two(axes)
    speed_axis(left, shown)
    right.set_ylim(bottom=0)
    titled(left, "throughput", "sequences at once", "tokens/s of all together (up is better)")
    titled(right, "one step", "sequences at once", "milliseconds, median (down is better)")
    legend(right, [*variant_handles(bench, shown), _ring()])
    return finish(
        figure, [intervals_note(shown), excluded_note(bench)], speeds_in_words(shown, "batch")
    )


def _ring() -> Line2D:
    return Line2D([], [], color=MUTED, marker="o", markersize=12, fillstyle="none",
                  linestyle="none", label="knee")  # fmt: skip
