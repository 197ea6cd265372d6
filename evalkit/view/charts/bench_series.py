"""What the charts of a bench share: the points of each variant, their looks, and words on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from evalkit.records.bench import Bench, BenchPoint
from evalkit.view.charts.canvas import not_measured
from evalkit.view.charts.variants import looks_of, shortened

# An axis of speeds ends so far above the highest.
HEADROOM = 1.15
MORE = "measure it with evalkit bench"


def points_by_variant(
    bench: Bench, wanted: Callable[[BenchPoint], bool]
) -> dict[str, list[BenchPoint]]:
    """Measured points by variant, by batch size; every variant that has any is there."""
    found: dict[str, list[BenchPoint]] = {}
    for point in bench.points:
        if point.tokens_per_second is not None and wanted(point):
            found.setdefault(point.variant, []).append(point)
    if not found:
        raise not_measured("decode of any variant", MORE)
    return {name: sorted(p, key=lambda one: one.batch_size) for name, p in found.items()}


def short_names(bench: Bench) -> dict[str, str]:
    """Short names of all variants, the same in every chart of the bench."""
    return shortened(point.variant for point in bench.points)


def looks(bench: Bench) -> dict[str, dict[str, Any]]:
    """The look of each variant of the bench, alike in every chart."""
    return looks_of(point.variant for point in bench.points)


def plot_speeds(
    axes: Axes, xs: Sequence[int], points: Sequence[BenchPoint], look: dict[str, Any]
) -> None:
    """Tokens/s of `points` over `xs`, with their intervals as bars."""
    speeds = [cast(float, point.tokens_per_second) for point in points]
    low = [s - (p.low if p.low is not None else s) for s, p in zip(speeds, points, strict=True)]
    high = [(p.high if p.high is not None else s) - s for s, p in zip(speeds, points, strict=True)]
    bars = np.clip([low, high], 0, None)
    axes.errorbar(xs, speeds, yerr=bars, capsize=3, linewidth=2, markersize=7, **look)


def speed_axis(axes: Axes, shown: Mapping[str, Sequence[BenchPoint]]) -> None:
    """From zero to above the highest speed.

    A longer bar leaves the panel, so that one unsteady point does not flatten all others.
    """
    speeds = [cast(float, point.tokens_per_second) for points in shown.values() for point in points]
    axes.set_ylim(0, HEADROOM * max(speeds))


def powers_of_two(axes: Axes) -> None:
    """Scale the horizontal axis by powers of two, written as plain numbers."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(True)


def variant_handles(bench: Bench, shown: Mapping[str, Any], *, line: bool = True) -> list[Line2D]:
    """A legend entry for each variant shown, with its line unless it has none."""
    names, known = short_names(bench), looks(bench)
    return [
        Line2D([], [], label=names[name], linewidth=2, **known[name])
        if line
        else Line2D([], [], label=names[name], color=known[name]["color"],
                    marker=known[name]["marker"], linestyle="none")
        for name in shown
    ]  # fmt: skip


def intervals_note(shown: Mapping[str, Sequence[BenchPoint]]) -> str:
    """A note on repetitions, intervals and the knee."""
    first = next(iter(shown.values()))[0]
    return (
        f"Median of {first.n} repetitions in {len(first.rounds)} rounds; bars: 95 % interval over"
        " rounds, cut where they leave the panel. Knee: beyond it 25 % more sequences gain less"
        " than 5 %."
    )


def excluded_note(bench: Bench) -> str:
    """Points without a value, in words: no chart hides them."""
    names = short_names(bench)
    full = [
        f"{names[point.variant]} at batch {point.batch_size}, context {point.context}"
        for point in bench.points
        if point.status == "out_of_memory" and point.phase == "decode"
    ]
    failed = sorted({names[p.variant] for p in bench.points if p.status == "failed"})
    words = f"Out of memory: {'; '.join(full)}." if full else ""
    return f"{words} Failed: {', '.join(failed)}." if failed else words


def speeds_in_words(shown: Mapping[str, Sequence[BenchPoint]], over: str) -> str:
    """The speed of each variant at its first and last point, over batch or context."""
    parts = []
    for name, points in shown.items():
        first, last = points[0], points[-1]
        place = "batch_size" if over == "batch" else over
        parts.append(
            f"{name}: {first.tokens_per_second:.3g} tokens/s at {over} {getattr(first, place)},"
            f" {last.tokens_per_second:.3g} at {getattr(last, place)}"
        )
    return f"{'; '.join(parts)}."
