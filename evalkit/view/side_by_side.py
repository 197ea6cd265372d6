"""Two answers beside each other in a terminal, the fork marked and what follows it dimmed."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from evalkit.numbers import clean
from evalkit.view.layout import styled, wrap

FORK = "▸"
_GAP = 3
_WIDEST = 78
_MOST_LINES = 8


@dataclass(frozen=True)
class Pair:
    """A title, and two texts with their names that are equal up to a fork."""

    title: str
    names: tuple[str, str]
    texts: tuple[str, str]


def fork_of(one: str, other: str) -> int | None:
    """The number of characters that two texts begin with alike; None where they are equal."""
    if one == other:
        return None
    for index, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return index
    return min(len(one), len(other))


def pair_lines(pair: Pair, width: int | None) -> list[Text]:
    """The pair in two columns of at most `width` together, shortened to where the fork is."""
    column = (min(width or _WIDEST, _WIDEST) - _GAP) // 2
    sides = [
        _column(clean(text), clean(pair.texts[1 - i]), column) for i, text in enumerate(pair.texts)
    ]
    lines = [styled(line, "bold") for line in wrap(pair.title, width)]
    heads = [set_cell_size(clean(name), column) for name in pair.names]
    lines.append(styled((" " * _GAP).join(heads).rstrip(), "underline"))
    for index in range(max(map(len, sides))):
        left, right = (side[index] if index < len(side) else Text() for side in sides)
        left.append(" " * (column + _GAP - cell_len(left.plain)))
        line = left.append_text(right)
        line.rstrip()
        lines.append(line)
    return lines


def _column(text: str, other: str, width: int) -> list[Text]:
    """The lines of one side; of a long shared beginning its end is shown."""
    if not text:
        return [Text("(empty)", style="dim")]
    fork = fork_of(text, other)
    marked = text if fork is None else f"{text[:fork]}{FORK}{text[fork:]}"
    marks = len(text) if fork is None else fork
    pieces = _cut(marked, width)
    first = 0
    if fork is not None:
        holds = next(i for i, (start, piece) in enumerate(pieces) if start + len(piece) > marks)
        first = max(0, min(holds - 2, len(pieces) - _MOST_LINES))
    shown = pieces[first : first + _MOST_LINES]
    lines = []
    for number, (start, piece) in enumerate(shown):
        line = Text(piece)
        if fork is not None:
            line.stylize("dim", max(0, min(len(piece), fork + 1 - start)))
        if (number == 0 and first) or (
            number == _MOST_LINES - 1 and first + number + 1 < len(pieces)
        ):
            line = Text("…").append_text(line[: len(piece) - 1] if number else line[1:])
        lines.append(line)
    return lines


def _cut(text: str, width: int) -> list[tuple[int, str]]:
    """`text` in pieces of at most `width` columns, at blanks where there are, with their starts."""
    pieces: list[tuple[int, str]] = []
    start = 0
    while start < len(text):
        end = start
        used = 0
        while end < len(text) and used + cell_len(text[end]) <= width:
            used += cell_len(text[end])
            end += 1
        blank = text.rfind(" ", start, end)
        if end < len(text) and blank > start:
            end = blank + 1
        pieces.append((start, text[start:end]))
        start = max(end, start + 1)
    return pieces
