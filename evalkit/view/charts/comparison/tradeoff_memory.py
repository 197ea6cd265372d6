"""Quality lost against the bytes of weights it saves."""

from __future__ import annotations

from evalkit.records import Comparison
from evalkit.view.charts.canvas import Chart, Tables, chart
from evalkit.view.charts.comparison.tradeoff import MEMORY, draw_tradeoff


@chart(place=20)
def tradeoff_memory(comparison: Comparison, tables: Tables) -> Chart:
    """Quality lost against the bytes of the weights, with intervals and the Pareto front.

    Raises EvalkitError where no variant has both.
    """
    return draw_tradeoff(comparison, MEMORY)
