"""Grids of text in a terminal: columns in line, what is too wide folded, shortened or left out."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from evalkit import numbers
from evalkit.view.cells import Grid, Line

GAPS = (3, 2)
LONGEST_LABEL = 36
# Where a table is folded, so is a cell wider than NARROWEST. What follows a verdict's word, such as
# "12,400 more items", may be as wide as WIDEST.
NARROWEST, WIDEST = 14, 18
MOST_SKIPPED = 3
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
    """The columns that are shown, by their places, their widths, and the blanks between them.

    Where cells are `folded`, an interval stands below its value, and words are wrapped.
    """

    label: int
    places: tuple[int, ...]
    widths: tuple[int, ...]
    gap: int
    width: int | None
    folded: bool

    @property
    def is_too_wide(self) -> bool:
        """Whether a line of it is wider than it may be."""
        taken = self.label + sum(self.widths) + self.gap * len(self.widths)
        return self.width is not None and taken > self.width


def _layout(grid: Grid, width: int | None) -> _Layout:
    """All columns on one line each, else folded, else the most important ones that fit."""
    every = tuple(range(len(grid.titles)))
    for folded in (False, True):
        for gap in GAPS:
            found = _laid_out(grid, every, gap, width, folded)
            if not found.is_too_wide:
                return found
    shown: tuple[int, ...] = ()
    # A narrow column may take the room that was too little for one that matters more; without an
    # order of importance that would leave gaps.
    left = MOST_SKIPPED if grid.importance else 1
    for place in sorted(every, key=lambda one: grid.importance[one] if grid.importance else one):
        tried = tuple(sorted((*shown, place)))
        if not left:
            break
        if _laid_out(grid, tried, GAPS[-1], width, True).is_too_wide:
            left -= 1
        else:
            shown = tried
    return _laid_out(grid, shown, GAPS[-1], width, True)


def _laid_out(
    grid: Grid, places: tuple[int, ...], gap: int, width: int | None, folded: bool
) -> _Layout:
    rows = [grid.titles, *(line.cells for line in grid.lines if line.cells)]
    widths = tuple(
        max(cell_len(part) for row in rows for part in _parts(row[place], folded))
        for place in places
    )
    limit = LONGEST_LABEL if width is None else max(8, min(LONGEST_LABEL, width // 3))
    label = min(limit, max((cell_len(line.label) for line in grid.lines), default=0))
    return _Layout(label, places, widths, gap, width, folded)


def _parts(cell: str, folded: bool) -> list[str]:
    """The lines of a cell: a value with its interval below it, words of a few at a time."""
    if not folded or cell_len(cell) <= NARROWEST:
        return [cell]
    value, bracket, interval = cell.partition(" [")
    if bracket:
        return [value, f"[{interval}"]
    head, colon, rest = cell.partition(": ")
    return [f"{head}:", *_balanced(rest, WIDEST)] if colon else _balanced(cell, NARROWEST)


def _balanced(text: str, most: int) -> list[str]:
    """`text` in as few lines of `most` cells as hold it, as equal in length as its words allow."""
    fewest = textwrap.wrap(text, most, break_long_words=False)
    tries = (textwrap.wrap(text, size, break_long_words=False) for size in range(4, most))
    return next((lines for lines in tries if len(lines) == len(fewest)), fewest)


def grid_lines(grid: Grid, width: int | None) -> list[Text]:
    """Titles and lines in columns; which ones do not fit into `width`, a line below says."""
    layout = _layout(grid, width)
    lines = _row_texts(Line("", grid.titles), layout)
    for line in grid.lines:
        lines += _line_texts(line, layout)
    return lines + _dropped(grid, layout)


def _row_texts(line: Line, layout: _Layout) -> list[Text]:
    """A row of as many lines as its longest cell has, each cell in its colour."""
    cells = [_parts(line.cells[place], layout.folded) for place in layout.places if line.cells]
    findings = [line.findings[place] if line.findings else "" for place in layout.places]
    texts = []
    names = _label_lines(line.label, layout.label)
    for number in range(max(map(len, [names, *cells]))):
        name = names[number] if number < len(names) else ""
        text = Text(set_cell_size(name, layout.label))
        for parts, size, finding in zip(cells, layout.widths, findings, strict=False):
            part = parts[number] if number < len(parts) else ""
            text.append(" " * layout.gap)
            text.append(set_cell_size(part, size), _style(finding))
        text.rstrip()
        texts.append(text)
    return texts


def _style(finding: str) -> str:
    """The colour of a cell; the baseline's are those of its row."""
    word = finding.partition(":")[0]
    return "" if word == "baseline" else _STYLES.get(word, "")


def _line_texts(line: Line, layout: _Layout) -> list[Text]:
    if line.message:
        return _message_texts(line, layout)
    if line.finding == "noise" and not any(line.cells[place] for place in layout.places):
        return []
    texts = _row_texts(line, layout)
    if line.finding in ("baseline", "noise"):
        for text in texts:
            text.stylize(_STYLES[line.finding])
    return texts


def _message_texts(line: Line, layout: _Layout) -> list[Text]:
    start = layout.label + layout.gap
    parts = wrap(line.message, None if layout.width is None else layout.width - start)
    heads = _label_lines(line.label, layout.label)
    lines = max(len(parts), len(heads))
    heads, parts = ([*one, *[""] * (lines - len(one))] for one in (heads, parts))
    return [
        Text(set_cell_size(head, start)).append(part, _STYLES["failed"])
        for head, part in zip(heads, parts, strict=True)
    ]


def _dropped(grid: Grid, layout: _Layout) -> list[Text]:
    hidden = [title for place, title in enumerate(grid.titles) if place not in layout.places]
    if not hidden:
        return []
    names = ", ".join(title.partition(",")[0] for title in hidden)
    said = (
        f"not shown in {layout.width} columns: {names} (a wider terminal or --format json has all)"
    )
    return [styled(line, "dim") for line in wrap(said, layout.width, "  ")]


def _label_lines(name: str, size: int) -> list[str]:
    """`name` in lines of at most `size` cells, broken before an option or a word."""
    lines = [""]
    for word in re.split(r"(?<=[, ])", name):
        if lines[-1] and cell_len(lines[-1] + word.rstrip()) > size:
            lines.append("")
        lines[-1] += word
    return [_shortened(line.rstrip(), size) for line in lines]


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
