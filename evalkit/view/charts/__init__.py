"""Charts of comparisons, benches, plans, damage maps, searches and answers.

`draw("tradeoff", comparison, tables)` draws one by name. Each is a file in the folder of what it
draws; listing names imports no matplotlib, and what a chart is made with is in
`evalkit.view.charts.canvas`. Entry points of other packages are in a group for each of `KINDS`, as
evalkit.charts.comparison.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit import plugins
from evalkit.errors import EvalkitError

if TYPE_CHECKING:
    from evalkit.view.charts.canvas import Chart, ChartFunction, Tables

__all__ = ["KINDS", "chart_names", "draw", "find_chart", "in_report_order", "kind_of"]

KINDS = ("comparison", "bench", "plan", "sensitivity", "search", "answers")


def kind_of(result: Any) -> str:
    """The kind of `result` as charts are sorted by it: one of `KINDS`, if it has any."""
    return type(result).__name__.lower()


def chart_names(kind: str) -> list[str]:
    """Names of all charts of results of `kind`, sorted; none for a kind without charts."""
    return plugins.names(f"charts.{kind}") if kind in KINDS else []


def in_report_order(kind: str) -> list[str]:
    """Names of all charts of `kind` in the order of a report."""
    return sorted(chart_names(kind), key=lambda name: (find_chart(kind, name).place, name))


def find_chart(kind: str, name: str) -> ChartFunction[...]:
    """The chart `name` of results of `kind`; raises UsageError if there is none."""
    from evalkit.view.charts.canvas import ChartFunction

    found = plugins.function(f"charts.{kind}", name)
    if not isinstance(found, ChartFunction):
        raise EvalkitError(f"chart {name!r} is not declared: decorate it with @chart()")
    return found


def draw(name: str, result: Any, tables: Tables | None = None) -> Chart:
    """The chart `name` of a result: a comparison, a bench, or another of `KINDS`.

    `tables` holds the raw values of a comparison by label of the variant and may be empty; charts
    that need them say so. Raises UsageError with a suggestion for an unknown name, and
    EvalkitError in one line where the result (or `tables`) lacks what the chart shows.
    """
    kind = kind_of(result)
    chart = find_chart(kind, name)
    return chart(result, tables or {}) if kind == "comparison" else chart(result)
