"""Charts of a comparison: pure functions, each returning a matplotlib figure.

`draw("tradeoff", comparison, tables)` draws one by name. `tables` holds the raw values by label of
the variant and may be empty; charts that need them say so in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from evalkit.errors import unknown
from evalkit.records import Comparison
from evalkit.view.charts.canvas import Chart, Tables, image, write
from evalkit.view.charts.divergence import divergence
from evalkit.view.charts.latency import latency
from evalkit.view.charts.memory import memory
from evalkit.view.charts.position import position
from evalkit.view.charts.slices import slices
from evalkit.view.charts.tasks import flips, tasks
from evalkit.view.charts.tradeoff import tradeoff, tradeoff_memory

__all__ = ["CHARTS", "Chart", "Tables", "chart_names", "draw", "image", "write"]

CHARTS: Mapping[str, Callable[[Comparison, Tables], Chart]] = {
    "tradeoff": tradeoff,
    "tradeoff_memory": tradeoff_memory,
    "tasks": tasks,
    "flips": flips,
    "divergence": divergence,
    "position": position,
    "slices": slices,
    "memory": memory,
    "latency": latency,
}


def chart_names() -> list[str]:
    """Names of all charts, in the order of a report."""
    return list(CHARTS)


def draw(name: str, comparison: Comparison, tables: Tables | None = None) -> Chart:
    """The chart called `name`.

    Raises UsageError with a suggestion for an unknown name, and EvalkitError in one line where
    the comparison (or `tables`) lacks what the chart shows.
    """
    if name not in CHARTS:
        raise unknown("chart", name, CHARTS)
    return CHARTS[name](comparison, tables or {})
