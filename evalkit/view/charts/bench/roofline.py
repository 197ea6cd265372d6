"""Measured points under the machine's limits."""

from __future__ import annotations

from typing import cast

import numpy as np
from matplotlib.lines import Line2D

from evalkit.records.bench import Bench, BenchPoint
from evalkit.view.bench import heading, limits
from evalkit.view.charts.bench_series import (
    MORE,
    excluded_note,
    looks,
    points_by_variant,
    variant_handles,
)
from evalkit.view.charts.canvas import (
    Chart,
    chart,
    finish,
    legend,
    logarithmic,
    not_measured,
    page,
    titled,
)
from evalkit.view.charts.variants import INK, MUTED, drawable


@chart(place=40)
def roofline(bench: Bench) -> Chart:
    """Operations/s over operations per byte of every point, under the machine's measured roof."""
    rates = bench.rates
    shown = points_by_variant(bench, lambda p: bool(p.bytes_per_step and p.flops_per_step))
    if rates is None:
        raise not_measured("what the machine can do", MORE)
    figure, (axes,) = page(heading(bench), "Roofline: measured points under the machine's limits")
    most = max(rates.flops.values())
    found = []
    known = looks(bench)
    for name, points in shown.items():
        look = known[name]
        for point in points:
            passes = _passes(point)
            x = cast(float, point.flops_per_step) / cast(float, point.bytes_per_step)
            y = cast(float, point.flops_per_step) * passes
            found.append(x)
            axes.plot(x, y, look["marker"], color=look["color"], markersize=9,
                      fillstyle="full" if point.phase == "decode" else "none")  # fmt: skip
    xs = np.geomspace(min(found) / 3, max(*found, most / rates.bandwidth) * 3, 200)
    axes.plot(xs, np.minimum(xs * rates.bandwidth, most), color=INK, linewidth=2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    logarithmic(axes.xaxis)
    logarithmic(axes.yaxis)
    axes.grid(True)
    titled(axes, "", "operations per byte read", "operations/s (up is better)")
    filled = [
        Line2D([], [], color=MUTED, marker="o", linestyle="none", label="decode"),
        Line2D([], [], color=MUTED, marker="o", linestyle="none", label="prefill",
               fillstyle="none"),
    ]  # fmt: skip
    legend(axes, [*variant_handles(bench, shown, line=False), *filled])
    notes = [f"Roof: {limits(rates)}, measured ({drawable(rates.method)}).", excluded_note(bench)]
    return finish(figure, notes, f"{len(found)} points.")


def _passes(point: BenchPoint) -> float:
    """Forward passes a second behind a point's tokens/s."""
    tokens = point.batch_size * (point.context if point.phase == "prefill" else 1)
    return cast(float, point.tokens_per_second) / tokens
