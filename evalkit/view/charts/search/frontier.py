"""Divergence against bytes: what is predicted at every size, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from evalkit import numbers
from evalkit.records.search import FoundMix, FrontierPoint, Rival, Search
from evalkit.view.charts.canvas import (
    Chart,
    chart,
    finish,
    legend,
    logarithmic,
    not_measured,
    page,
)
from evalkit.view.charts.variants import MUTED, PAPER, PLACE_COLOURS, PLACE_MARKERS, drawable
from evalkit.view.search import heading

_MEGA = 1e6
_SMALLEST = 1e-7
_KINDS = ("the mix", "head and tail", "random", "smaller", "larger")
_NAMES = {"smaller": "uniform, next smaller", "larger": "uniform, next larger"}


@chart(place=10)
def frontier(search: Search) -> Chart:
    """Predicted divergence of the best mixes, measured ones of each mix and what it must beat.

    Raises EvalkitError where no mix was measured and no frontier was asked for.
    """
    best = [point for point in search.frontier if not point.format]
    measured = [mix for mix in search.mixes if mix.kl is not None]
    if not best and not measured:
        raise not_measured("a mix", "run evalkit search again, or give --frontier")
    figure, (axes,) = page(heading(search), "Mixes of formats: divergence against bytes of weights")
    _predicted(axes, best, "best mix, predicted", "-")
    _predicted(axes, [point for point in search.frontier if point.format], "uniform, predicted", "")
    for mix in measured:
        _mix(axes, mix)
    axes.set_yscale("log")
    axes.set_xlabel("weights, MB (left is smaller)")
    axes.set_ylabel("mean KL divergence, nats (down is closer)")
    logarithmic(axes.yaxis)
    axes.grid(True)
    handles, labels = axes.get_legend_handles_labels()
    legend(axes, list({label: one for one, label in zip(handles, labels, strict=True)}.values()))
    said = [
        f"{numbers.byte_size(mix.bytes)}: {numbers.small(mix.kl or 0.0)} nats, {mix.advice}"
        for mix in measured
    ]
    return finish(figure, ["Lines: 95 % intervals, each alone; the verdict is paired."],
                  drawable(" ".join(said)))  # fmt: skip


def _predicted(axes: Axes, points: Sequence[FrontierPoint], name: str, line: str) -> None:
    shown = [point for point in points if point.predicted_kl > 0]
    if shown:
        axes.plot([one.bytes / _MEGA for one in shown], [one.predicted_kl for one in shown],
                  color=MUTED, linestyle=line, marker="." if line else "x", label=name)  # fmt: skip


def _mix(axes: Axes, mix: FoundMix) -> None:
    bounds = (mix.low or 0.0, mix.kl or 0.0, mix.high or 0.0)
    _point(axes, "the mix", mix.bytes, bounds)
    for one in mix.held_out:
        _point(axes, one.kind, one.bytes, _bounds(one))


def _bounds(one: Rival) -> tuple[float, float, float]:
    return one.low, one.kl, one.high


def _point(axes: Axes, kind: str, size: float, bounds: tuple[float, float, float]) -> None:
    low, value, high = (max(one, _SMALLEST) for one in bounds)
    place = _KINDS.index(kind)
    axes.errorbar(
        size / _MEGA,
        value,
        yerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
        color=PLACE_COLOURS[place],
        marker=PLACE_MARKERS[place],
        markerfacecolor=PLACE_COLOURS[place] if not place else PAPER,
        linestyle="none",
        markersize=9,
        label=_NAMES.get(kind, kind),
    )
