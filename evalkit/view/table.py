"""The table of `compare` in a terminal: a pure function of a Comparison and a width.

Names, messages and notes come from models and files: they are put into rich Text objects, which
read no markup, and are freed of control characters first.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console, Group
from rich.text import Text

from evalkit.records import Column, Comparison, Environment, Row
from evalkit.view import numbers
from evalkit.view.cells import (
    against_baseline,
    baseline_row,
    has,
    label,
    main_grid,
    slice_grid,
)
from evalkit.view.layout import grid_lines, styled, wrap, wrapped_pieces


def print_table(comparison: Comparison, console: Console | None = None) -> None:
    """Print the table on `console` (standard output).

    A terminal gets the columns that fit; a file or pipe gets all of them.
    """
    console = console or Console(highlight=False)
    width = console.width if console.is_terminal else None
    lines = render_table(comparison, width)
    console.print(lines, soft_wrap=True)


def table_text(comparison: Comparison, width: int | None = None) -> str:
    """The table as plain text, at most `width` columns wide (None: as wide as it is)."""
    console = Console(file=io.StringIO(), width=width or 10_000, color_system=None)
    console.print(render_table(comparison, width), soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def render_table(comparison: Comparison, width: int | None = None) -> Group:
    """Header, table, texts one by one, recommendation and remarks as lines for rich.

    Columns that do not fit into `width` are dropped from the right, and a line says which.
    """
    lines = wrapped_pieces(header_pieces(comparison), width)
    lines += [Text(), *grid_lines(main_grid(comparison), width, verdict=True), Text()]
    slices = slice_grid(comparison)
    if slices is not None:
        lines += [Text("text by text"), *grid_lines(slices, width), Text()]
    if comparison.sentence:
        lines += [styled(line, "bold") for line in wrap(comparison.sentence, width)]
    for remark in remarks(comparison):
        lines += [Text(line) for line in wrap(remark, width, "  ")]
    return Group(*lines)


def header_pieces(comparison: Comparison) -> list[str]:
    """Model, parameters, device, suite and baseline in a few words each."""
    model, suite = comparison.model, comparison.suite
    pieces = [numbers.clean(model.name)]
    if model.weights == "random":
        pieces.append("random weights")
    if model.parameters:
        pieces.append(f"{numbers.count(model.parameters)} parameters")
    if comparison.environment is not None:
        pieces.append(_device(comparison.environment))
    pieces.append(f"suite {numbers.clean(suite.name)}{_amount(comparison)}")
    if suite.texts:
        pieces.append(f"{suite.convention} windows of {suite.context}")
    pieces.append(f"baseline {numbers.clean(comparison.baseline)}")
    return pieces


def remarks(comparison: Comparison) -> list[str]:
    """One line each: kernels that ran, what was not measured and why, notes, where results are."""
    ran = [
        f"{numbers.clean(row.variant.text)} {numbers.clean(row.kernel)}"
        for row in comparison.rows
        if row.kernel
    ]
    found = [f"ran: {' · '.join(ran)}"] if ran else []
    found += not_measured(comparison)
    found += [f"note: {numbers.clean(note)}" for note in comparison.notes]
    found += [
        f"note on {label(row)}: {numbers.clean(note)}"
        for row in comparison.rows
        for note in row.notes
    ]
    if comparison.store:
        found.append(f"results: {numbers.clean(comparison.store)}")
    return found


def not_measured(comparison: Comparison) -> list[str]:
    """Lines naming the metrics that variants without a failure do not have, with the reason."""
    rows = [row for row in comparison.rows if row.status == "ok"]
    gaps: dict[tuple[str, str], list[str]] = {}
    for column in comparison.columns:
        missing = [row for row in rows if _lacks(comparison, row, column)]
        if missing:
            whose = "" if len(missing) == len(rows) else _names(missing)
            gaps.setdefault((whose, _reason(comparison, missing[0], column)), []).append(
                numbers.clean(column.title).partition(",")[0]
            )
    return [
        f"not measured{f' for {whose}' if whose else ''}: {', '.join(titles)}"
        f"{f' ({reason})' if reason else ''}"
        for (whose, reason), titles in gaps.items()
    ]


def _lacks(comparison: Comparison, row: Row, column: Column) -> bool:
    own = row is baseline_row(comparison)
    return not has(row.metrics, column.metric) and not (own and against_baseline(column))


def _names(rows: Iterable[Row]) -> str:
    return ", ".join(label(row) for row in rows)


def _reason(comparison: Comparison, row: Row, column: Column) -> str:
    metric = column.metric
    stated = row.metrics[metric].details.get("reason") if metric in row.metrics else None
    if stated:
        return numbers.clean(str(stated))
    if column.measured_on == "tasks" and not comparison.suite.tasks:
        return "the suite has no tasks"
    if column.measured_on == "texts" and not comparison.suite.texts:
        return "the suite has no text"
    if column.measured_on != "model" and comparison.model.weights == "random":
        return "random weights"
    return ""


def _amount(comparison: Comparison) -> str:
    rows = [row for row in comparison.rows if row.status == "ok"]
    tokens = max((r.metrics["perplexity"].n for r in rows if "perplexity" in r.metrics), default=0)
    words = [f"{numbers.count(tokens)} tokens"] if tokens else []
    tasks = len(comparison.suite.tasks)
    if tasks:
        limits = {task.limit for task in comparison.suite.tasks}
        each = limits.pop() if len(limits) == 1 else None
        words.append(f"{tasks} task{'s' * (tasks > 1)}" + (f" of {each:,} items" if each else ""))
    return f": {', '.join(words)}" if words else ""


def _device(environment: Environment) -> str:
    if environment.device == "cpu":
        return f"CPU {environment.threads} thread{'s' * (environment.threads != 1)}"
    # The machine's name ends with the GPU and, in brackets, its hash.
    gpu = environment.machine.rpartition(" [")[0].rpartition(", ")[2]
    return numbers.clean(f"{environment.device} {gpu}")
