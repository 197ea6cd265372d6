"""Decode under sustained load."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from evalkit.records.bench import Bench, Soak
from evalkit.view.bench import heading
from evalkit.view.charts.bench_series import looks, short_names
from evalkit.view.charts.canvas import Chart, chart, finish, legend, not_measured, page, titled


@chart(place=60)
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
    for look, one in zip(looks(), bench.soaks, strict=False):
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
    names = short_names(bench)
    handles = [
        Line2D([], [], color=look["color"], linestyle=look["linestyle"], linewidth=2,
               label=f"{names[one.variant]}, batch {one.batch_size}")
        for look, one in zip(looks(), bench.soaks, strict=False)
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


def _trace(axes: Axes, one: Soak, name: str, look: dict[str, Any]) -> None:
    pairs = [(s.seconds, getattr(s, name)) for s in one.samples if getattr(s, name) is not None]
    if pairs:
        axes.plot(*zip(*pairs, strict=True), color=look["color"], linestyle=look["linestyle"])
