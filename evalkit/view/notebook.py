"""Results as HTML for notebooks: a title, a styled table, and the small print folded away."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from evalkit import numbers
from evalkit.view.cells import Grid, Line
from evalkit.view.sheet import Sheet

_COLOURS = {
    "no loss": "#1a6e33",
    "better": "#1a6e33",
    "worse": "#b3261e",
    "failed": "#b3261e",
    "inconclusive": "#7a5200",
    "noise": "#656d77",
}


def section(sheet: Sheet) -> str:
    """Title, what it is about, the table, and preface and remarks behind a click."""
    remarks = [*sheet.preface, *sheet.remarks]
    lines = "".join(f"<li>{escape(numbers.clean(remark))}</li>" for remark in remarks)
    details = f"<details><summary>what ran, and notes</summary><ul>{lines}</ul></details>"
    title = escape(numbers.clean(sheet.sentence or sheet.title))
    about = escape(" · ".join(numbers.clean(piece) for piece in sheet.heading))
    return (
        f"<div><p><strong>{title}</strong><br><small>{about}</small></p>"
        f"{styled_table(sheet.grid).to_html()}{details if remarks else ''}</div>"
    )


def styled_table(grid: Grid) -> Styler:
    """A grid as a DataFrame with the labels as index; a message stands in the first column.

    Everything is escaped. A cell has the colour of its own finding, as in the terminal.
    """
    rows = [_row(line, len(grid.titles)) for line in grid.lines]
    index = pd.Index(_unique([line.label for line in grid.lines]), name=None)
    frame = pd.DataFrame(rows, columns=list(grid.titles), index=index)
    colours = np.array([_colours(line, len(grid.titles)) for line in grid.lines])
    return (
        frame.style.format(escape="html")
        .format_index(escape="html", axis=0)
        .format_index(escape="html", axis=1)
        .apply(lambda _: colours, axis=None)
        .set_table_styles(
            [{"selector": "th, td", "props": "text-align: left; white-space: nowrap"}]
        )
    )


def token_grid(tokens: Sequence[Any]) -> Grid:
    """Tokens with what stood before them and their probabilities, worst first."""
    lines = [
        Line(
            str(place),
            (
                numbers.clean(one.text),
                f"…{numbers.clean(one.context)}",
                repr(one.token),
                numbers.percent(one.baseline),
                numbers.percent(one.variant),
            ),
        )
        for place, one in enumerate(tokens, 1)
    ]
    return Grid(("text", "before it", "token", "baseline", "variant"), tuple(lines))


def _row(line: Line, columns: int) -> list[str]:
    cells = [line.message] if line.message else list(line.cells)
    return cells + [""] * (columns - len(cells))


def _unique(labels: Sequence[str]) -> list[str]:
    """Labels that differ, as a styled index must: a repeated one gets invisible spaces."""
    seen: dict[str, int] = {}
    found = []
    for label in labels:
        seen[label] = seen.get(label, -1) + 1
        found.append(label + "\u200b" * seen[label])
    return found


def _colours(line: Line, columns: int) -> list[str]:
    """The style of each cell: its own finding's, of a message and of the noise floor the row's."""
    whole = line.finding if line.finding in ("failed", "noise") and not line.findings else ""
    return [_colour(finding) for finding in line.findings or (whole,) * columns]


def _colour(finding: str) -> str:
    colour = next((c for word, c in _COLOURS.items() if finding.startswith(word)), "")
    return f"color: {colour}" if colour else ""
