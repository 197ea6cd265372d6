"""Charts of a bench: batch sweep, context sweep, step latencies, roofline, soak."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from evalkit.analysis.sweep import percentile
from evalkit.errors import unknown
from evalkit.records.bench import Bench, BenchPoint, Soak
from evalkit.view.bench import heading, limits
from evalkit.view.charts.bench_memory import bench_memory
from evalkit.view.charts.canvas import (
    HEIGHT,
    Chart,
    finish,
    legend,
    logarithmic,
    not_measured,
    page,
    styled,
    titled,
)
from evalkit.view.charts.plan import COLOURS, LINES, MARKERS
from evalkit.view.charts.variants import INK, MUTED, drawable, shortened

MORE = "measure it with evalkit bench"
WHISKERS = (5, 25, 50, 75, 95)


@styled
def batches(bench: Bench) -> Chart:
    """Decode tokens/s and time per step over the batch size, with the knee of each variant."""
    shown = _series(bench, lambda p: p.phase == "decode" and p.context == bench.prompt)
    figure, (left, right) = page(heading(bench), "Decode over the batch size", columns=2)
    for look, (name, points) in zip(_looks(), shown.items(), strict=False):
        sizes = [point.batch_size for point in points]
        _line(left, sizes, points, look)
        right.plot(sizes, [cast(float, p.latency_ms_p50) for p in points], **look, linewidth=2)
        for point in points:
            if point.batch_size == bench.knee.get(name):
                speed = cast(float, point.tokens_per_second)
                left.plot(point.batch_size, speed, "o", markersize=17, color=look["color"],
                          fillstyle="none", markeredgewidth=1.6)  # fmt: skip
    for axes in (left, right):
        _powers_of_two(axes)
        axes.set_ylim(bottom=0)
    titled(left, "throughput", "sequences at once", "tokens/s of all together (up is better)")
    titled(right, "one step", "sequences at once", "milliseconds, median (down is better)")
    legend(right, [*_handles(bench, shown), _ring()])
    return finish(figure, [_intervals(shown), _excluded(bench)], _said(shown, "batch"))


@styled
def contexts(bench: Bench) -> Chart:
    """Prefill and decode tokens/s at batch 1 over the length of the prompt."""
    prefill = _series(bench, lambda p: p.phase == "prefill" and p.batch_size == 1)
    decode = _series(bench, lambda p: p.phase == "decode" and p.batch_size == 1)
    if all(len(points) < 2 for points in decode.values()):
        raise not_measured("more than one prompt length", f"{MORE} --contexts 512,2048")
    figure, panels = page(heading(bench), "Speed over the length of the prompt", columns=2)
    for axes, shown, title in zip(panels, (prefill, decode), ("prefill", "decode"), strict=True):
        for look, points in zip(_looks(), shown.values(), strict=False):
            ordered = sorted(points, key=lambda point: point.context)
            _line(axes, [point.context for point in ordered], ordered, look)
        _powers_of_two(axes)
        axes.set_ylim(bottom=0)
        titled(axes, title, "tokens of the prompt", "tokens/s at batch 1 (up is better)")
    legend(panels[-1], _handles(bench, decode))
    return finish(figure, [_intervals(decode), _excluded(bench)], _said(decode, "context"))


@styled
def steps(bench: Bench) -> Chart:
    """Times between tokens at batch 1: box from 25 to 75 %, whiskers from 5 to 95 %, 99 % as x."""
    shown = {
        name: points[0]
        for name, points in _series(
            bench,
            lambda p: p.phase == "decode" and p.batch_size == 1 and p.context == bench.prompt,
        ).items()
    }
    height = max(HEIGHT, 2.4 + 0.42 * len(shown))
    figure, (axes,) = page(heading(bench), "Time between tokens", height=height)
    for place, (look, point) in enumerate(zip(_looks(), shown.values(), strict=False)):
        low, first, middle, third, high = (percentile(point.latencies_ms, s) for s in WHISKERS)
        colour = look["color"]
        axes.plot([low, high], [place, place], color=colour, linewidth=1.5)
        axes.barh(place, third - first, 0.5, first, color=colour, alpha=0.35, edgecolor=colour)
        axes.plot([middle, middle], [place - 0.25, place + 0.25], color=INK, linewidth=2)
        axes.plot(percentile(point.latencies_ms, 99), place, "x", color=colour, markersize=8)
    axes.set_yticks(range(len(shown)), [_names(bench)[name] for name in shown])
    axes.tick_params("y", length=0)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(True, axis="x")
    titled(axes, "", "milliseconds (left is better)")
    count = sorted({len(point.latencies_ms) for point in shown.values()})
    notes = [
        f"{count[0]:,} steps each" if len(count) == 1 else f"{count[0]:,} to {count[-1]:,} steps",
        "at batch 1. Line: median; box: 25 to 75 %; whiskers: 5 to 95 %; cross: 99 %.",
        _excluded(bench),
    ]
    said = [f"{name} {point.latency_ms_p50:.3g} ms" for name, point in shown.items()]
    return finish(figure, notes, f"Median: {'; '.join(said)}.")


@styled
def roofline(bench: Bench) -> Chart:
    """Operations/s over operations per byte of every point, under the machine's measured roof."""
    rates = bench.rates
    shown = _series(bench, lambda p: bool(p.bytes_per_step and p.flops_per_step))
    if rates is None:
        raise not_measured("what the machine can do", MORE)
    figure, (axes,) = page(heading(bench), "Roofline: measured points under the machine's limits")
    most = max(rates.flops.values())
    found = []
    for look, points in zip(_looks(), shown.values(), strict=False):
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
    legend(axes, [*_handles(bench, shown, line=False), *filled])
    notes = [f"Roof: {limits(rates)}, measured ({drawable(rates.method)}).", _excluded(bench)]
    return finish(figure, notes, f"{len(found)} points.")


@styled
def soak(bench: Bench) -> Chart:
    """Tokens/s under sustained load, and power, temperature and throttling where available."""
    if not bench.soaks:
        raise not_measured("sustained load", "measure it with evalkit bench --soak 10m")
    sensors = [
        (title, name)
        for title, name in (("power, W", "watts"), ("temperature, °C", "celsius"))
        if any(getattr(sample, name) is not None for one in bench.soaks for sample in one.samples)
    ]
    figure, panels = page(heading(bench), "Sustained decode", columns=1 + len(sensors))
    for look, one in zip(_looks(), bench.soaks, strict=False):
        _trace(panels[0], one, "tokens_per_second", look)
        for axes, (_, name) in zip(panels[1:], sensors, strict=True):
            _trace(axes, one, name, look)
        if one.throttled_after is not None:
            panels[0].axvline(one.throttled_after, color=look["color"], linestyle=":")
    panels[0].set_ylim(bottom=0)
    titled(panels[0], "speed", "seconds", "tokens/s (up is better)")
    for axes, (title, _) in zip(panels[1:], sensors, strict=True):
        titled(axes, title.partition(",")[0], "seconds", title)
    for axes in panels:
        axes.grid(True)
    names = _names(bench)
    handles = [
        Line2D([], [], color=look["color"], linestyle=look["linestyle"], linewidth=2,
               label=f"{names[one.variant]}, batch {one.batch_size}")
        for look, one in zip(_looks(), bench.soaks, strict=False)
    ]  # fmt: skip
    legend(panels[-1], handles)
    missing = "" if sensors else "Power, temperature and throttling are not available here."
    said = [
        f"{one.variant}: {'held' if one.held else 'did not hold'}, {one.first:.3g} to"
        f" {one.last:.3g} tokens/s"
        for one in bench.soaks
    ]
    throttled = any(one.throttled_after is not None for one in bench.soaks)
    dotted = "Dotted: throttling begins." if throttled else ""
    return finish(figure, [dotted, missing], f"{'; '.join(said)}.")


CHARTS: Mapping[str, Callable[[Bench], Chart]] = {
    "batches": batches,
    "contexts": contexts,
    "steps": steps,
    "roofline": roofline,
    "bench_memory": bench_memory,
    "soak": soak,
}


def draw(name: str, bench: Bench) -> Chart:
    """The chart called `name`; raises UsageError, or EvalkitError where its values are missing."""
    if name not in CHARTS:
        raise unknown("chart", name, CHARTS)
    return CHARTS[name](bench)


def _series(bench: Bench, wanted: Callable[[BenchPoint], bool]) -> dict[str, list[BenchPoint]]:
    """Measured points by variant, by batch size; every variant that has any is there."""
    found: dict[str, list[BenchPoint]] = {}
    for point in bench.points:
        if point.tokens_per_second is not None and wanted(point):
            found.setdefault(point.variant, []).append(point)
    if not found:
        raise not_measured("decode of any variant", MORE)
    return {name: sorted(p, key=lambda one: one.batch_size) for name, p in found.items()}


def _names(bench: Bench) -> dict[str, str]:
    """Short names of all variants, the same in every chart of the bench."""
    return shortened(point.variant for point in bench.points)


def _looks() -> list[dict[str, Any]]:
    """Colour, marker and line of each variant by its place."""
    return [
        {
            "color": COLOURS[place % len(COLOURS)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": LINES[place % len(LINES)],
        }
        for place in range(64)
    ]


def _line(
    axes: Axes, xs: Sequence[int], points: Sequence[BenchPoint], look: dict[str, Any]
) -> None:
    speeds = [cast(float, point.tokens_per_second) for point in points]
    low = [s - (p.low if p.low is not None else s) for s, p in zip(speeds, points, strict=True)]
    high = [(p.high if p.high is not None else s) - s for s, p in zip(speeds, points, strict=True)]
    bars = np.clip([low, high], 0, None)
    axes.errorbar(xs, speeds, yerr=bars, capsize=3, linewidth=2, markersize=7, **look)


def _powers_of_two(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(True)


def _handles(bench: Bench, shown: Mapping[str, Any], *, line: bool = True) -> list[Line2D]:
    return [
        Line2D([], [], label=_names(bench)[name], linewidth=2, **look)
        if line
        else Line2D([], [], label=_names(bench)[name], color=look["color"], marker=look["marker"],
                    linestyle="none")
        for look, name in zip(_looks(), shown, strict=False)
    ]  # fmt: skip


def _ring() -> Line2D:
    return Line2D([], [], color=MUTED, marker="o", markersize=12, fillstyle="none",
                  linestyle="none", label="knee")  # fmt: skip


def _intervals(shown: Mapping[str, Sequence[BenchPoint]]) -> str:
    first = next(iter(shown.values()))[0]
    return (
        f"Median of {first.n} repetitions in {len(first.rounds)} rounds; bars: 95 % interval over"
        " rounds. Knee: beyond it 25 % more sequences gain less than 5 %."
    )


def _excluded(bench: Bench) -> str:
    """Points without a value, in words: no chart hides them."""
    names = _names(bench)
    full = [
        f"{names[point.variant]} at batch {point.batch_size}, context {point.context}"
        for point in bench.points
        if point.status == "out_of_memory" and point.phase == "decode"
    ]
    failed = sorted({names[p.variant] for p in bench.points if p.status == "failed"})
    words = f"Out of memory: {'; '.join(full)}." if full else ""
    return f"{words} Failed: {', '.join(failed)}." if failed else words


def _said(shown: Mapping[str, Sequence[BenchPoint]], over: str) -> str:
    parts = []
    for name, points in shown.items():
        first, last = points[0], points[-1]
        place = "batch_size" if over == "batch" else over
        parts.append(
            f"{name}: {first.tokens_per_second:.3g} tokens/s at {over} {getattr(first, place)},"
            f" {last.tokens_per_second:.3g} at {getattr(last, place)}"
        )
    return f"{'; '.join(parts)}."


def _passes(point: BenchPoint) -> float:
    """Forward passes a second behind a point's tokens/s."""
    tokens = point.batch_size * (point.context if point.phase == "prefill" else 1)
    return cast(float, point.tokens_per_second) / tokens


def _trace(axes: Axes, one: Soak, name: str, look: dict[str, Any]) -> None:
    pairs = [(s.seconds, getattr(s, name)) for s in one.samples if getattr(s, name) is not None]
    if pairs:
        axes.plot(*zip(*pairs, strict=True), color=look["color"], linestyle=look["linestyle"])
