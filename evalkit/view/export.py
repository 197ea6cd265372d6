"""A comparison as JSON, Markdown and CSV: pure functions, no torch.

The JSON object has the schema "evalkit.comparison/1". Its keys: `schema`, `model`, `suite`,
`baseline` (as asked for), `rows`, `environment`, `runs` (ids), and `margin`, `noise_floor`,
`sentence`, `notes`. A row has `variant` (as asked for), `resolved`, `status`, `message`, `kernel`,
`metrics`, and `verdict`, `slices` (the metrics text by text), `notes`, `runs`. A metric has
`value`, `unit`, `n`, `low`, `high`, `delta`, `delta_low`, `delta_high`, `verdict`, `details`.
What was not measured is absent or null, never zero; NaN and infinity are null.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from evalkit.records import Comparison, Row, Value
from evalkit.view import numbers
from evalkit.view.cells import Grid, main_grid, slice_grid
from evalkit.view.table import header_pieces, remarks

SCHEMA = "evalkit.comparison/1"
CSV_COLUMNS = (
    "variant", "resolved", "status", "message", "kernel", "slice", "metric", "value", "unit", "n",
    "low", "high", "delta", "delta_low", "delta_high", "verdict",
)  # fmt: skip
_STATUSES = {"running": "interrupted"}


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as one object of plain values (see the module's docstring)."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "model": dataclasses.asdict(comparison.model),
        "suite": {**dataclasses.asdict(comparison.suite), "id": comparison.suite.id},
        "baseline": comparison.baseline,
        "rows": [_row(row) for row in comparison.rows],
        "environment": dataclasses.asdict(comparison.environment)
        if comparison.environment
        else None,
        "runs": list(dict.fromkeys(run for row in comparison.rows for run in row.runs)),
        "margin": comparison.margin,
        "noise_floor": comparison.noise_floor,
        "sentence": comparison.sentence,
        "notes": comparison.notes,
    }
    finite: dict[str, Any] = _finite(content)
    return finite


def dumps(comparison: Comparison) -> str:
    """`to_json` as text: one object, indented, strictly standard JSON."""
    return json.dumps(to_json(comparison), indent=2, allow_nan=False)


def to_markdown(comparison: Comparison) -> str:
    """Header, table, texts one by one, recommendation and remarks as Markdown (GitHub's)."""
    parts = [f"**{markdown(' · '.join(header_pieces(comparison)))}**"]
    parts.append(markdown_table(main_grid(comparison)))
    slices = slice_grid(comparison)
    if slices is not None:
        parts.append(markdown_table(slices))
    if comparison.sentence:
        parts.append(f"**{markdown(comparison.sentence)}**")
    parts.append("\n".join(f"- {markdown(remark)}" for remark in remarks(comparison)))
    return "\n\n".join(part for part in parts if part) + "\n"


def to_csv(comparison: Comparison) -> str:
    """One line a variant and metric; lines with a `slice` are of one text.

    A variant without any metric has one line with its status and message.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in comparison.rows:
        writer.writerows(_csv_lines(row))
    return file.getvalue()


def _row(row: Row) -> dict[str, Any]:
    return {
        "variant": row.variant.label,
        "resolved": row.variant.text,
        "status": _STATUSES.get(row.status, row.status),
        "message": row.message,
        "kernel": row.kernel,
        "metrics": _metrics(row.metrics),
        "verdict": row.verdict,
        "slices": {name: _metrics(metrics) for name, metrics in row.slices.items()},
        "notes": row.notes,
        "runs": row.runs,
    }


def _metrics(metrics: Mapping[str, Value]) -> dict[str, Any]:
    return {name: dataclasses.asdict(value) for name, value in metrics.items()}


def _finite(content: Any) -> Any:
    """`content` of plain JSON values with null for NaN and infinity."""
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


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


def _csv_lines(row: Row) -> Iterator[dict[str, Any]]:
    head = {
        "variant": row.variant.label,
        "resolved": row.variant.text,
        "status": _STATUSES.get(row.status, row.status),
        "message": row.message,
        "kernel": row.kernel,
    }
    slices = [("", row.metrics), *row.slices.items()]
    lines = [line for name, metrics in slices for line in _csv_values(name, metrics)]
    for line in lines or [{}]:
        yield head | line


def _csv_values(name: str, metrics: Mapping[str, Value]) -> Iterable[dict[str, Any]]:
    for metric, value in metrics.items():
        fields = _finite(dataclasses.asdict(value))
        fields.pop("details")
        yield {"slice": name, "metric": metric} | fields
