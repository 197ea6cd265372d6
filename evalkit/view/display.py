"""How each kind of result shows itself in notebooks: its page, its table, its charts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from evalkit.analysis.planner import Plan
from evalkit.errors import EvalkitError, unknown
from evalkit.records import Comparison, Run
from evalkit.records.bench import Bench
from evalkit.store.store import Store


@singledispatch
def html(record: Any) -> str:
    """The record as HTML, all text of models and data escaped."""
    raise EvalkitError(f"{type(record).__name__} has no HTML form")


@singledispatch
def table(record: Any) -> Any:
    """The record's table as a styled pandas DataFrame."""
    raise EvalkitError(f"{type(record).__name__} has no table")


@html.register
def _(record: Comparison) -> str:
    from evalkit.view import notebook
    from evalkit.view.table import header_pieces, remarks

    title = record.sentence or "Comparison"
    return notebook.section(title, header_pieces(record), table(record), remarks(record))


@table.register
def _(record: Comparison) -> Any:
    from evalkit.view import notebook
    from evalkit.view.cells import main_grid

    return notebook.styled_table(main_grid(record))


@html.register
def _(record: Bench) -> str:
    from evalkit.view import bench_table, notebook

    pieces = bench_table.heading(record)
    return notebook.section("Bench", pieces, table(record), bench_table.remarks(record))


@table.register
def _(record: Bench) -> Any:
    from evalkit.view import bench_table, notebook

    return notebook.styled_table(bench_table.bench_grid(record))


@html.register
def _(record: Plan) -> str:
    from evalkit.view import notebook, plan_table

    remarks = [*record.notes, *plan_table.remarks(record)]
    return notebook.section("Plan", plan_table.heading(record), table(record), remarks)


@table.register
def _(record: Plan) -> Any:
    from evalkit.view import notebook, plan_table

    return notebook.styled_table(plan_table.plan_grid(record))


@html.register
def _(record: Run) -> str:
    from evalkit.view import notebook

    pieces = [record.model.name, record.suite.name, record.status, record.kernel, record.created]
    title = f"{record.variant.label}: {record.message or record.status}"
    return notebook.section(title, [p for p in pieces if p], table(record), record.notes)


@table.register
def _(record: Run) -> Any:
    from evalkit.view import notebook

    return notebook.styled_table(notebook.run_grid(record))


class Plots:
    """Charts of a result by their short names: `result.plot.tradeoff()`."""

    def __init__(self, record: Any) -> None:
        self._record = record

    def __dir__(self) -> list[str]:
        return _chart_names(self._record)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in _chart_names(self._record):
            raise AttributeError(str(unknown("chart", name, _chart_names(self._record))))
        return lambda: _drawn(name, self._record)

    def __repr__(self) -> str:
        return f"charts: {', '.join(_chart_names(self._record))}"


def _chart_names(record: Any) -> list[str]:
    from evalkit.view import charts

    return charts.chart_names(charts.kind_of(record))


def _drawn(name: str, record: Any) -> Any:
    from evalkit.results.load_measured import reopen
    from evalkit.view import charts

    has_tables = isinstance(record, Comparison)
    tables = reopen(record, Store(record.store or None)) if has_tables else None
    return charts.draw(name, record, tables)


def flip_browser(comparison: Comparison, task: str | None = None) -> Any:
    """Flipped items with controls for task, variant and direction; a table without widgets."""
    from evalkit.results.flips import flips
    from evalkit.view.flip_browser import FlipBrowser

    return FlipBrowser(flips(comparison, Store(comparison.store or None), task))


def worst_tokens(comparison: Comparison, variant: str | None, count: int) -> Any:
    """The tokens a variant makes least likely against the baseline, as a styled DataFrame."""
    from evalkit.results.worst_tokens import worst_tokens as found
    from evalkit.view import notebook

    labels = [row.variant.label for row in comparison.rows if row.status == "ok"]
    chosen = variant or (labels[-1] if labels else "")
    if chosen not in labels[1:]:
        raise unknown("variant", chosen, labels[1:])
    tokens: Sequence[Any] = found(comparison, Store(comparison.store or None), chosen, count)
    return notebook.styled_table(notebook.token_grid(tokens))
