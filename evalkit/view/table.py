"""The table of `compare` in a terminal: a pure function of a Comparison and a width.

Names, messages and notes come from models and files: they are put into rich Text objects, which
read no markup, and are freed of control characters first.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.text import Text

from evalkit.records import Comparison, Environment, Row
from evalkit.view import numbers
from evalkit.view.cells import (
    COLUMNS,
    DIVERGENCES,
    Grid,
    Line,
    baseline_row,
    has,
    label,
    main_grid,
    slice_grid,
)

GAPS = (3, 2)
LONGEST_LABEL = 36
_STYLES = {
    "baseline": "bold",
    "no loss": "green",
    "better": "green",
    "worse": "red",
    "failed": "red",
    "inconclusive": "yellow",
    "noise": "dim",
}


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
    lines = _wrapped_pieces(header_pieces(comparison), width)
    lines += [Text(), *_grid_lines(main_grid(comparison), width, verdict=True), Text()]
    slices = slice_grid(comparison)
    if slices is not None:
        lines += [Text("text by text"), *_grid_lines(slices, width), Text()]
    if comparison.sentence:
        lines += [_styled(line, "bold") for line in _wrap(comparison.sentence, width)]
    for remark in remarks(comparison):
        lines += [Text(line) for line in _wrap(remark, width, "  ")]
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
        f"note on {label(row.variant)}: {numbers.clean(note)}"
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
    for column in COLUMNS:
        missing = [row for row in rows if _lacks(comparison, row, column.metric)]
        if missing:
            whose = "" if len(missing) == len(rows) else _names(missing)
            gaps.setdefault((whose, _reason(comparison, missing[0], column.metric)), []).append(
                column.title.partition(",")[0]
            )
    return [
        f"not measured{f' for {whose}' if whose else ''}: {', '.join(titles)}"
        f"{f' ({reason})' if reason else ''}"
        for (whose, reason), titles in gaps.items()
    ]


def _lacks(comparison: Comparison, row: Row, metric: str) -> bool:
    own = row is baseline_row(comparison)
    return not has(row.metrics, metric) and not (own and metric in DIVERGENCES)


def _names(rows: Iterable[Row]) -> str:
    return ", ".join(label(row.variant) for row in rows)


def _reason(comparison: Comparison, row: Row, metric: str) -> str:
    stated = row.metrics[metric].details.get("reason") if metric in row.metrics else None
    if stated:
        return numbers.clean(str(stated))
    if metric == "tasks_mean" and not comparison.suite.tasks:
        return "the suite has no tasks"
    if metric in ("perplexity", *DIVERGENCES) and not comparison.suite.texts:
        return "the suite has no text"
    if (
        metric in ("perplexity", "tasks_mean", *DIVERGENCES)
        and comparison.model.weights == "random"
    ):
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


@dataclass(frozen=True)
class _Layout:
    """Cells of the label and of the columns that are shown, and the blanks between them."""

    label: int
    widths: tuple[int, ...]
    gap: int
    width: int | None


def _layout(grid: Grid, width: int | None) -> _Layout:
    limit = LONGEST_LABEL if width is None else max(8, min(LONGEST_LABEL, width // 3))
    first = min(limit, max((cell_len(line.label) for line in grid.lines), default=0))
    rows = [grid.titles, *(line.cells for line in grid.lines if line.cells)]
    widths = tuple(max(map(cell_len, column)) for column in zip(*rows, strict=True))
    for shown in range(len(widths), 0, -1):
        for gap in GAPS:
            if width is None or first + sum(widths[:shown]) + gap * shown <= width:
                return _Layout(first, widths[:shown], gap, width)
    return _Layout(first, (), GAPS[-1], width)


def _grid_lines(grid: Grid, width: int | None, verdict: bool = False) -> list[Text]:
    layout = _layout(grid, width)
    lines = [_row_text("", grid.titles, layout)]
    for line in grid.lines:
        lines += _line_texts(line, layout, len(grid.titles))
    lines += _dropped(grid, len(layout.widths), width, verdict)
    return lines


def _row_text(name: str, cells: Sequence[str], layout: _Layout) -> Text:
    parts = [set_cell_size(_shortened(name, layout.label), layout.label)]
    parts += [set_cell_size(cell, size) for cell, size in zip(cells, layout.widths, strict=False)]
    return Text((" " * layout.gap).join(parts).rstrip())


def _line_texts(line: Line, layout: _Layout, columns: int) -> list[Text]:
    if line.message:
        return _message_texts(line, layout)
    shown = line.cells[: len(layout.widths)]
    if line.finding == "noise" and not any(shown):
        return []
    text = _row_text(line.label, shown, layout)
    finding = line.finding.partition(":")[0]
    if finding in ("baseline", "noise"):
        text.stylize(_STYLES[finding])
    elif finding in _STYLES and len(shown) == columns:
        text.stylize(_STYLES[finding], len(text.plain) - len(line.cells[-1]))
    return [text]


def _message_texts(line: Line, layout: _Layout) -> list[Text]:
    start = layout.label + layout.gap
    parts = _wrap(line.message, None if layout.width is None else layout.width - start)
    heads = [_row_text(line.label, (), layout).plain, *[""] * (len(parts) - 1)]
    return [
        Text(set_cell_size(head, start)).append(part, _STYLES["failed"])
        for head, part in zip(heads, parts, strict=True)
    ]


def _dropped(grid: Grid, shown: int, width: int | None, verdict: bool) -> list[Text]:
    if shown == len(grid.titles):
        return []
    hidden = ", ".join(title.partition(",")[0] for title in grid.titles[shown:])
    said = f"not shown in {width} columns: {hidden} (a wider terminal or --format json has all)"
    lines = [_styled(line, "dim") for line in _wrap(said, width, "  ")]
    findings = [
        f"{line.label} {line.cells[-1]}"
        for line in grid.lines
        if line.cells and line.finding not in ("baseline", "noise")
    ]
    if verdict and findings:
        lines += [Text(x) for x in _wrap(f"{grid.titles[-1]}: {' · '.join(findings)}", width, "  ")]
    return lines


def _shortened(name: str, size: int) -> str:
    """`name` with its middle left out where it is longer than `size` cells."""
    if cell_len(name) <= size:
        return name
    head, tail = (size - 1) // 2, size - 1 - (size - 1) // 2
    ending = name
    while cell_len(ending) > tail:
        ending = ending[1:]
    return f"{set_cell_size(name, head)}…{ending}"


def _wrapped_pieces(pieces: Sequence[str], width: int | None) -> list[Text]:
    lines: list[str] = []
    for piece in pieces:
        longer = f"{lines[-1]} · {piece}" if lines else piece
        if lines and (width is None or cell_len(longer) <= width):
            lines[-1] = longer
        else:
            lines.append(piece)
    return [_styled(line, "bold") for text in lines for line in _wrap(text, width)]


def _wrap(text: str, width: int | None, indent: str = "") -> list[str]:
    text = numbers.clean(text)
    if width is None:
        return [text]
    return textwrap.wrap(text, max(width, 20), subsequent_indent=indent) or [""]


def _styled(line: str, style: str) -> Text:
    return Text(line, style=style)
