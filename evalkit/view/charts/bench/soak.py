"""Decode under sustained load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from evalkit import numbers
from evalkit.records.bench import Bench, Soak
from evalkit.view.bench import heading
from evalkit.view.charts.bench_series import looks, short_names
from evalkit.view.charts.canvas import Chart, chart, finish, legend, not_measured, page, titled

SINCE = "seconds since the start"


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
    title = "Decode under sustained load"
    figure, panels = page(heading(bench), title, columns=1 + len(sensors))
    known, names = looks(bench), short_names(bench)
    for one in bench.soaks:
        look = known[one.variant]
        _trace(panels[0], one, "tokens_per_second", look)
        for axes, (_, name) in zip(panels[1:], sensors, strict=True):
            _trace(axes, one, name, look)
        if one.throttled_after is not None:
            panels[0].axvline(one.throttled_after, color=look["color"], linestyle=":")
    panels[0].set_ylim(bottom=0)
    titled(panels[0], "speed", SINCE, "tokens/s (up is better)")
    for axes, (title, _) in zip(panels[1:], sensors, strict=True):
        titled(axes, title.partition(",")[0], SINCE, title)
    for axes in panels:
        axes.grid(True)
    handles = [
        Line2D([], [], color=known[one.variant]["color"], linewidth=2,
               linestyle=known[one.variant]["linestyle"],
               label=f"{names[one.variant]}\nbatch {one.batch_size}: {_words(one)}")
        for one in bench.soaks
    ]  # fmt: skip
    legend(panels[-1], handles)
    missing = "" if sensors else "Power, temperature and throttling are not available here."
    said = [
        f"{names[one.variant]}: speed {_words(one)}, {numbers.rate(one.first)} at first,"
        f" {numbers.rate(one.last)} at last"
        for one in bench.soaks
    ]
    throttled = any(one.throttled_after is not None for one in bench.soaks)
    dotted = "Dotted: throttling begins." if throttled else ""
    return finish(figure, [dotted, missing, _left_out(bench, names)], f"{'; '.join(said)}.")


def _words(one: Soak) -> str:
    """Whether the speed held, and by how much it fell where it did not."""
    return "held" if one.held else f"fell by {numbers.percent(1 - one.last / one.first)}"


def _left_out(bench: Bench, names: Mapping[str, str]) -> str:
    """The variants without a trace, in words: no chart hides them."""
    soaked = {one.variant for one in bench.soaks}
    missing = [short for name, short in names.items() if name not in soaked]
    return f"Not shown: {', '.join(missing)} (sustained load not measured)." if missing else ""


def _trace(axes: Axes, one: Soak, name: str, look: dict[str, Any]) -> None:
    pairs = [(s.seconds, getattr(s, name)) for s in one.samples if getattr(s, name) is not None]
    if pairs:
        axes.plot(*zip(*pairs, strict=True), color=look["color"], linestyle=look["linestyle"])
