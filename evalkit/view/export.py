"""Text forms that results share: strict JSON, CSV and GitHub's Markdown. No torch."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evalkit import numbers
from evalkit.view.cells import Grid


def finite(content: Any) -> Any:
    """`content` of plain JSON values with null for NaN and infinity."""
    if isinstance(content, Mapping):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def json_text(content: Any, *, indent: int = 2, ascii_only: bool = False) -> str:
    """`content` as strictly standard JSON, indented; what JSON does not know becomes its words.

    A lone surrogate, which no encoding can write, stays the escape that JSON has for it.
    """
    text = json.dumps(
        finite(content), indent=indent, allow_nan=False, ensure_ascii=ascii_only, default=str
    )
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A line with the names of the columns and one a row; a key that a row lacks stays empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def markdown_table(grid: Grid) -> str:
    """A grid as a table of GitHub's Markdown."""
    columns = len(grid.titles) + 1
    lines = [("", *grid.titles), ("---",) * columns]
    for line in grid.lines:
        # A message stands in the last cell, beside the verdicts.
        empty = ("",) * (columns - 2)
        cells = (*empty, line.message) if line.message else line.cells or (*empty, "")
        label = markdown(line.label)
        is_heading = not line.cells and not line.message
        lines.append((f"**{label}**" if is_heading else label, *map(markdown, cells)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(text: str) -> str:
    """`text` with the characters escaped that Markdown, its mathematics or HTML would read."""
    escaped = numbers.clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Brackets stay readable in intervals: only before "(" do they make a link, and Jupyter would
    # read an escaped one as the beginning of a formula.
    return re.sub(r"([\\`*_|~#$])", r"\\\1", escaped).replace("](", "]\\(")
