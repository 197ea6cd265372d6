"""How each kind of result shows itself in notebooks: its page, its table, its charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evalkit.errors import unknown
from evalkit.records import Comparison
from evalkit.records.answers import Answers
from evalkit.records.sensitivity import Sensitivity
from evalkit.store.store import Store
from evalkit.view.rendering import render, sheet_of, terminal_width


def html(record: Any) -> str:
    """The record as an element of HTML, all text of models and data escaped."""
    from evalkit.view import notebook

    return notebook.section(sheet_of(record))


def page(record: Any) -> str:
    """The record as an HTML page of its own."""
    return render(record, "html")


def table(record: Any) -> Any:
    """The record's table as a styled pandas DataFrame."""
    from evalkit.view import notebook

    return notebook.styled_table(sheet_of(record).grid)


def text(record: Any) -> str:
    """The record as plain text, in the columns of the terminal that standard output is."""
    return render(record, width=terminal_width())


def brief(record: Any) -> str:
    """The record in one line: its sentence, or what it is about."""
    shown = sheet_of(record)
    return shown.sentence or " · ".join(shown.heading)


def frame(comparison: Comparison, *, wide: bool = False) -> Any:
    """The numbers of a comparison as a pandas DataFrame."""
    from evalkit.view.frame import comparison_frame

    return comparison_frame(comparison, wide=wide)


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


def pieces_frame(record: Sensitivity) -> Any:
    """The pieces of a damage map as a plain DataFrame."""
    import pandas as pd

    from evalkit.view.sensitivity import rows

    return pd.DataFrame(rows(record)).set_index("name")


def flip_browser(comparison: Comparison, task: str | None = None) -> Any:
    """Flipped items with controls for task, variant and direction; a table without widgets."""
    from evalkit.results.flips import flips
    from evalkit.view.flip_browser import FlipBrowser

    return FlipBrowser(flips(comparison, Store(comparison.store or None), task))


def answer_browser(answers: Answers) -> Any:
    """Answers beside the baseline's with menus for variant and what is shown."""
    from evalkit.view.answer_browser import AnswerBrowser

    return AnswerBrowser(answers)


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
