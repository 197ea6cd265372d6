"""What stands in each cell of the table as plain text, for terminal and Markdown alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from evalkit import numbers
from evalkit.records import Column, Comparison, Row, Value
from evalkit.records.answers import Answers

# The verdict is the last thing that a narrow table leaves out.
_VERDICT_IMPORTANCE = 0


@dataclass(frozen=True)
class Line:
    """One row of a table: its label and cells, or a message instead of cells.

    `findings` has a verdict's word for each cell, empty for a cell that has none: a colour is that
    of a cell, in the direction of its own metric. `finding` is what the row as a whole is:
    "baseline", "noise", "failed", or its verdict.
    """

    label: str
    cells: tuple[str, ...] = ()
    message: str = ""
    finding: str = ""
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """Titles of the columns after the label, and the lines.

    Where not all columns fit, those with the lowest number in `importance` stay; without numbers
    the first do.
    """

    titles: tuple[str, ...]
    lines: tuple[Line, ...]
    importance: tuple[int, ...] = ()


@dataclass(frozen=True)
class Writing:
    """How cells of one kind are written.

    `cell` writes a value beside the baseline's, which is None in the baseline's own row and where
    the two cannot be compared; `noise` writes the noise floor.
    """

    cell: Callable[[Value, Value | None], str]
    noise: Callable[[float], str] | None = None


def _size(value: Value, base: Value | None) -> str:
    ratio = _ratio(value, base)
    return numbers.byte_size(_number(value)) if ratio is None else numbers.divided(1 / ratio)


def _speed(value: Value, base: Value | None) -> str:
    ratio = _ratio(value, base)
    return numbers.rate(_number(value)) if ratio is None else numbers.times(ratio)


def _difference(value: Value, base: Value | None) -> str:
    if base is None or value.delta is None:
        return numbers.around(_number(value), value.low, value.high)
    return numbers.difference(value.delta, value.delta_low, value.delta_high)


def _points(value: Value, base: Value | None) -> str:
    if base is None or value.delta is None:
        low, high = _scaled(value.low), _scaled(value.high)
        return numbers.around(100 * _number(value), low, high, least=1, unit=" %")
    low, high = _scaled(value.delta_low), _scaled(value.delta_high)
    return numbers.difference(100 * value.delta, low, high, least=1)


WRITINGS: Mapping[str, Writing] = {
    "size": Writing(_size),
    "bits": Writing(lambda value, base: numbers.plain(_number(value), 1)),
    "speed": Writing(_speed),
    "difference": Writing(
        _difference, lambda floor: f"± {numbers.plain(floor, numbers.places(floor, 2, 2))}"
    ),
    "divergence": Writing(lambda value, base: numbers.small(_number(value)), numbers.small),
    "agreement": Writing(
        lambda value, base: numbers.percent(_number(value)),
        lambda floor: numbers.percent(1 - floor),
    ),
    "points": Writing(
        _points,
        lambda floor: f"± {numbers.plain(100 * floor, numbers.places(100 * floor, 2, 1))}",
    ),
}


def main_grid(comparison: Comparison) -> Grid:
    """One line a variant, then the noise floor; columns nobody measured are left out."""
    rows = comparison.rows
    columns = [c for c in comparison.columns if any(has(row.metrics, c.metric) for row in rows)]
    base = baseline_row(comparison)
    lines = [_line(row, base, columns) for row in rows]
    noise = _noise_line(comparison, columns)
    if any(noise.cells):
        lines.append(noise)
    titles = [numbers.clean(column.title) for column in columns]
    importance = (*(column.importance for column in columns), _VERDICT_IMPORTANCE)
    return Grid((*titles, f"verdict at {margin_text(comparison)}"), tuple(lines), importance)


def slice_grid(comparison: Comparison) -> Grid | None:
    """Text by text: a line with its name, then one line a variant; None for a single text."""
    names = dict.fromkeys(name for row in comparison.rows for name in row.slices)
    if len(names) < 2:
        return None
    columns = [column for column in comparison.columns if column.measured_on == "texts"]
    base = baseline_row(comparison)
    lines: list[Line] = []
    for name in names:
        lines.append(Line(numbers.clean(name)))
        mine = base.slices.get(name, {}) if base else {}
        for row in comparison.rows:
            if name in row.slices:
                against = None if row is base else mine
                cells = _cells(row.slices[name], against, columns)
                findings = _findings(row.slices[name], against, columns)
                lines.append(Line(f"  {label(row)}", cells, findings=findings))
    titles = tuple(numbers.clean(column.title) for column in columns)
    return Grid(titles, tuple(lines), tuple(column.importance for column in columns))


def against_baseline(column: Column) -> bool:
    """Whether the metric is measured against the baseline, which therefore has none."""
    return column.cell in ("divergence", "agreement")


def baseline_row(comparison: Comparison) -> Row | None:
    """The baseline's row, or None where it is not among the rows."""
    return next((row for row in comparison.rows if row.variant.label == comparison.baseline), None)


def label(row: Row) -> str:
    """What a row is called, in its backend's words; the canonical form where none are stored."""
    return numbers.clean(row.label or row.variant.text)


def margin_text(judged: Comparison | Answers) -> str:
    """The margin with a space before its unit: "1 pp"."""
    return numbers.spaced(judged.margin)


def status_words(row: Row) -> str:
    """The status of a row in words: "out of memory"."""
    return row.status.replace("_", " ")


def failed(row: Row) -> str:
    """What failed of a row, in one line; empty where nothing did."""
    if row.status == "ok":
        return ""
    message = numbers.clean(row.message)
    return f"{status_words(row)}: {message}" if message else status_words(row)


def has(metrics: Mapping[str, Value], metric: str) -> bool:
    """Whether `metric` was measured."""
    return metric in metrics and metrics[metric].value is not None


def _line(row: Row, base: Row | None, columns: Sequence[Column]) -> Line:
    name = label(row)
    failure = failed(row)
    if failure and not row.metrics:
        return Line(name, message=failure, finding="failed")
    against = None if row is base or base is None else base.metrics
    # What failed stands below the table, beside what was not measured.
    last = status_words(row) if failure else numbers.clean(row.verdict.text)
    finding = "failed" if failure else last
    findings = (*_findings(row.metrics, against, columns), finding)
    return Line(name, (*_cells(row.metrics, against, columns), last), "", finding, findings)


def _cells(
    metrics: Mapping[str, Value], base: Mapping[str, Value] | None, columns: Iterable[Column]
) -> tuple[str, ...]:
    cells = []
    for column in columns:
        if not has(metrics, column.metric) or (base is None and against_baseline(column)):
            cells.append(numbers.MISSING)
            continue
        value = metrics[column.metric]
        known = base is not None and has(base, column.metric) and value.verdict != "not comparable"
        writing = WRITINGS[column.cell]
        cells.append(writing.cell(value, base[column.metric] if base and known else None))
    return tuple(cells)


def _findings(
    metrics: Mapping[str, Value], base: Mapping[str, Value] | None, columns: Iterable[Column]
) -> tuple[str, ...]:
    """The word for each cell that says how its metric stands against the baseline's."""
    return tuple(
        str(metrics[column.metric].verdict) if base and has(metrics, column.metric) else ""
        for column in columns
    )


def _noise_line(comparison: Comparison, columns: Iterable[Column]) -> Line:
    cells = []
    for column in columns:
        floor, write = comparison.noise_floor.get(column.metric), WRITINGS[column.cell].noise
        cells.append("" if floor is None or write is None else write(floor))
    return Line("noise floor", (*cells, ""), finding="noise")


def _number(value: Value) -> float:
    assert value.value is not None
    return value.value


def _ratio(value: Value, base: Value | None) -> float | None:
    """Variant over baseline; None where there is none to compare with, or it is as good as zero."""
    if base is None or not base.value or not value.value:
        return None
    known = value.details.get("ratio")
    if isinstance(known, (int, float)) and known:
        return float(known)
    return value.value / base.value or None


def _scaled(value: float | None) -> float | None:
    return None if value is None else 100 * value
