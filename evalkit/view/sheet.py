"""A result as a sheet: what it says, before any format.

Comparisons, benches, plans and runs are laid out alike. Each has one function that fills a sheet;
the table of a terminal, plain text, Markdown and the element of a notebook are made from that.

Names, messages and notes come from models and files: they are put into rich Text objects, which
read no markup, and are freed of control characters first.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.text import Text

from evalkit.view.cells import Grid
from evalkit.view.export import markdown, markdown_table
from evalkit.view.layout import grid_lines, styled, wrap, wrapped_pieces
from evalkit.view.side_by_side import Pair, pair_lines


@dataclass(frozen=True)
class Sheet:
    """What a result says, in the order in which it is read.

    `title` names its kind where it has no `sentence`. `preface` are lines before the `heading`,
    whose pieces are a few words each; `further` are grids below the first, each with its title;
    `pairs` are texts to be read beside each other; `remarks` are one line each.
    """

    title: str
    heading: Sequence[str]
    grid: Grid
    remarks: Sequence[str] = ()
    preface: Sequence[str] = ()
    further: Sequence[tuple[str, Grid]] = ()
    sentence: str = ""
    pairs: Sequence[Pair] = ()


def sheet_lines(sheet: Sheet, width: int | None = None) -> Group:
    """The sheet as lines for rich, at most `width` columns wide (None: as wide as they are).

    A grid that does not fit is folded, then leaves out its least important columns and says which.
    """
    lines = [Text(line) for note in sheet.preface for line in wrap(note, width)]
    lines += wrapped_pieces(sheet.heading, width)
    lines += [Text(), *grid_lines(sheet.grid, width), Text()]
    for title, grid in sheet.further:
        lines += [*map(Text, wrap(title, width)), *grid_lines(grid, width), Text()]
    for pair in sheet.pairs:
        lines += [*pair_lines(pair, width), Text()]
    if sheet.sentence:
        lines += [styled(line, "bold") for line in wrap(sheet.sentence, width)]
    lines += [Text(line) for remark in sheet.remarks for line in wrap(remark, width, "  ")]
    return Group(*lines)


def sheet_text(sheet: Sheet, width: int | None = None) -> str:
    """The same lines as plain text."""
    file = io.StringIO()
    console = Console(file=file, width=width or 10_000, color_system=None)
    console.print(sheet_lines(sheet, width), soft_wrap=True)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def sheet_markdown(sheet: Sheet) -> str:
    """The whole sheet as Markdown (GitHub's)."""
    parts = [markdown(note) for note in sheet.preface]
    parts += [f"**{markdown(' · '.join(sheet.heading))}**", markdown_table(sheet.grid)]
    for title, grid in sheet.further:
        parts += [markdown(title), markdown_table(grid)]
    for pair in sheet.pairs:
        texts = zip(pair.names, pair.texts, strict=True)
        parts += [markdown(pair.title), *(f"> {markdown(n)}: {markdown(t)}" for n, t in texts)]
    if sheet.sentence:
        parts.append(f"**{markdown(sheet.sentence)}**")
    parts.append("\n".join(f"- {markdown(remark)}" for remark in sheet.remarks))
    return "\n\n".join(part for part in parts if part) + "\n"
