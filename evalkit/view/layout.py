"""Grids of text in a terminal: columns in line, what is too wide shortened, dropped or wrapped."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from evalkit import numbers
from evalkit.view.cells import Grid, Line

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


def grid_lines(grid: Grid, width: int | None, verdict: bool = False) -> list[Text]:
    """Titles and lines in columns, those that do not fit into `width` dropped from the right.

    With `verdict` the last column is said in words where it was dropped.
    """
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
    parts = wrap(line.message, None if layout.width is None else layout.width - start)
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
    lines = [styled(line, "dim") for line in wrap(said, width, "  ")]
    findings = [
        f"{line.label} {line.cells[-1]}"
        for line in grid.lines
        if line.cells and line.finding not in ("baseline", "noise")
    ]
    if verdict and findings:
        lines += [Text(x) for x in wrap(f"{grid.titles[-1]}: {' · '.join(findings)}", width, "  ")]
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


def wrapped_pieces(pieces: Sequence[str], width: int | None) -> list[Text]:
    """`pieces` of a heading with dots between them, on as many lines as `width` asks for."""
    lines: list[str] = []
    for piece in pieces:
        longer = f"{lines[-1]} · {piece}" if lines else piece
        if lines and (width is None or cell_len(longer) <= width):
            lines[-1] = longer
        else:
            lines.append(piece)
    return [styled(line, "bold") for text in lines for line in wrap(text, width)]


def wrap(text: str, width: int | None, indent: str = "") -> list[str]:
    """`text` in lines of at most `width` columns; one line where that is None."""
    text = numbers.clean(text)
    if width is None:
        return [text]
    return textwrap.wrap(text, max(width, 20), subsequent_indent=indent) or [""]


def styled(line: str, style: str) -> Text:
    """`line` in one style of rich."""
    return Text(line, style=style)
