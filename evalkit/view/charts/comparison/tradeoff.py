"""Quality lost against what it buys: decode speed here, bytes of weights in tradeoff_memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from evalkit import numbers
from evalkit.analysis.verdicts import parse_margin
from evalkit.records import Comparison, Value
from evalkit.view.charts.canvas import (
    Chart,
    Tables,
    canvas,
    chart,
    finish,
    legend,
    not_measured,
    tolerated,
)
from evalkit.view.charts.pareto import (
    Point,
    Span,
    drawn_bounds,
    pareto_front,
    significantly_dominated,
    span,
)
from evalkit.view.charts.variants import (
    GREYED,
    INK,
    MUTED,
    Entry,
    entries,
    left_out,
    marker_handle,
    measured,
)


@dataclass(frozen=True)
class Quality:
    """A way to say how much quality is lost, as a Span in which more is worse."""

    metric: str
    title: str
    axis: str
    unit: str
    loss: Callable[[Value], Span | None]


@dataclass(frozen=True)
class Gain:
    """What quantization buys: a metric, its scale for the axis, and which way is better."""

    metric: str
    title: str
    axis: str
    show: Callable[[float], str]
    more_is_better: bool
    is_exact: bool
    missing: str


def _points_lost(value: Value) -> Span | None:
    if value.delta is None:
        return None
    return span(-100 * value.delta, _times(value.delta_high, -100), _times(value.delta_low, -100))


def _percent_more(value: Value) -> Span | None:
    if value.delta is None or value.value is None or value.value == value.delta:
        return None
    scale = 100 / (value.value - value.delta)
    return span(
        scale * value.delta, _times(value.delta_low, scale), _times(value.delta_high, scale)
    )


QUALITIES = (
    Quality("tasks_mean", "Mean task score lost", "mean task score lost", "pp", _points_lost),
    Quality("perplexity", "Perplexity added", "perplexity added", "%", _percent_more),
    Quality(
        "word_perplexity", "Word perplexity added", "word perplexity added", "%", _percent_more
    ),
)
SPEED = Gain(
    "decode_tokens_per_second", "decode speed", "decode speed, tokens/s at batch 1 (right is "
    "better)", numbers.rate, True, False, "measure speed with evalkit compare on this machine",
)  # fmt: skip
MEMORY = Gain(
    "weight_bytes", "bytes of weights", "weights, {unit} (left is better)", numbers.byte_size,
    False, True, "compare variants that can be loaded",
)  # fmt: skip


GREYED_NOTE = "Greyed: another variant is at least as good in both, whatever the intervals allow."


@chart(place=10)
def tradeoff(comparison: Comparison, tables: Tables) -> Chart:
    """Quality lost against decode speed, with intervals, the Pareto front and the margin.

    Raises EvalkitError where no variant has both.
    """
    return draw_tradeoff(comparison, SPEED)


def draw_tradeoff(comparison: Comparison, gain: Gain) -> Chart:
    """Quality lost against `gain`; raises EvalkitError where no variant has both."""
    known = entries(comparison)
    quality = max(
        QUALITIES, key=lambda quality: (len(_have(known, quality, gain)), _judged(known, quality))
    )
    points = _have(known, quality, gain)
    if all(point.entry.is_baseline for point in points):
        raise not_measured(
            f"{gain.title} and quality of a variant beside the baseline", gain.missing
        )
    figure, (axes,) = canvas(comparison, f"{quality.title} against {gain.title}")
    scale, unit = _unit(points) if gain is MEMORY else (1.0, "")
    dominated = {
        point.entry.name
        for point in points
        if significantly_dominated(point, points, gain.more_is_better)
    }
    margin = _margin(axes, comparison, quality)
    for point in points:
        _plot(axes, point, scale, point.entry.name in dominated)
    front = _front(axes, points, gain, scale)
    axes.set_xlabel(gain.axis.format(unit=unit))
    axes.set_ylabel(f"{quality.axis}, {quality.unit} (down is better)")
    axes.margins(0.08)
    axes.grid(True)
    handles = [_handle(point, point.entry.name in dominated) for point in points]
    legend(axes, [*handles, *front, *margin])
    notes = _notes(points, known, quality, gain)
    notes += [GREYED_NOTE] if dominated else []
    return finish(figure, notes, _summary(points, quality, gain))


def _have(known: Sequence[Entry], quality: Quality, gain: Gain) -> list[Point]:
    found = []
    for entry in measured(measured(known, quality.metric), gain.metric):
        value = entry.row.metrics[gain.metric]
        loss = Span(0.0, 0.0, 0.0) if entry.is_baseline else None
        loss = loss or quality.loss(entry.row.metrics[quality.metric])
        assert value.value is not None
        if loss is not None:
            exact = value.value if gain.is_exact else None
            low = value.low if value.low is not None else exact
            high = value.high if value.high is not None else exact
            found.append(Point(entry, span(value.value, low, high), loss))
    return found


def _judged(known: Sequence[Entry], quality: Quality) -> int:
    """How many rows' verdicts rest on `quality`; that of the tasks may rest on one of them."""
    metrics = [entry.row.verdict.metric for entry in known]
    return sum(
        metric == quality.metric or ("." in metric and quality.metric == "tasks_mean")
        for metric in metrics
    )


def _plot(axes: Axes, point: Point, scale: float, greyed: bool) -> None:
    colour = GREYED if greyed else point.entry.look.colour
    x, y = point.gain.value / scale, point.loss.value
    left, right = drawn_bounds(point.gain)
    bottom, top = drawn_bounds(point.loss)
    axes.add_patch(
        Rectangle(
            (left / scale, bottom),
            (right - left) / scale,
            top - bottom,
            facecolor=colour,
            edgecolor=colour,
            alpha=0.12,
            zorder=1,
        )
    )
    axes.errorbar(
        x,
        y,
        xerr=[[x - left / scale], [right / scale - x]],
        yerr=[[y - bottom], [top - y]],
        color=colour,
        marker=cast(Any, point.entry.look.marker),
        markerfacecolor="none" if greyed else colour,
        markersize=10,
        linewidth=1.6,
        zorder=2 if greyed else 3,
    )


def _front(axes: Axes, points: Sequence[Point], gain: Gain, scale: float) -> list[Line2D]:
    front = pareto_front(points, gain.more_is_better)
    if len(front) < 2:
        return []
    # Whoever wants more of the gain than one point has must accept the next one's loss.
    lines = axes.step(
        [point.gain.value / scale for point in front],
        [point.loss.value for point in front],
        where="post",
        color=MUTED,
        linestyle="--",
        linewidth=1.4,
        label="Pareto front",
        zorder=1,
    )
    return list(lines)


def _margin(axes: Axes, comparison: Comparison, quality: Quality) -> list[Patch]:
    points = 100 * parse_margin(comparison.margin).points
    axes.axhline(0, color=INK, linewidth=0.8)
    band = axes.axhspan(0, points, color=MUTED, alpha=0.13, linewidth=0, zorder=0)
    band.set_label(tolerated(comparison, quality.unit))
    return [band]


def _handle(point: Point, greyed: bool) -> Line2D:
    word = "" if point.entry.is_baseline else f"\n{point.entry.row.verdict.text}"
    if not greyed:
        return marker_handle(point.entry, word)
    handle = marker_handle(point.entry, f"{word} (dominated)", GREYED)
    handle.set_markerfacecolor("none")
    return handle


def _notes(
    points: Sequence[Point], known: Sequence[Entry], quality: Quality, gain: Gain
) -> list[str]:
    n = max(point.entry.row.metrics[quality.metric].n for point in points)
    what = "items" if quality.metric == "tasks_mean" else "tokens"
    samples = max(point.entry.row.metrics[gain.metric].n for point in points)
    speed = f"; speed: median and range of {samples} samples" if not gain.is_exact else ""
    return [
        f"Loss: paired difference to the baseline with its 95 % interval, {n:,} {what}{speed}.",
        left_out(known, [point.entry for point in points]),
    ]


def _summary(points: Sequence[Point], quality: Quality, gain: Gain) -> str:
    said = [
        f"{p.entry.name}: {gain.show(p.gain.value)},"
        f" {numbers.signed(p.loss.value, numbers.places(abs(p.loss.value), 2, 1))} {quality.unit},"
        f" {p.entry.row.verdict.text}"
        for p in points
    ]
    return f"{'; '.join(said)}."


def _unit(points: Sequence[Point]) -> tuple[float, str]:
    most = max(point.gain.value for point in points)
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if most >= scale:
            return scale, unit
    return 1.0, "bytes"


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value
