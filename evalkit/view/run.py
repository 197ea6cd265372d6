"""A stored run as a sheet: one line a measurement."""

from __future__ import annotations

import math
import statistics

from evalkit import numbers
from evalkit.paths import called, called_words
from evalkit.records import Measurement, Run
from evalkit.view.cells import Grid, Line
from evalkit.view.sheet import Sheet


def sheet(run: Run) -> Sheet:
    """Model, suite, status and kernel, then the measurements; its sentence says how it ended."""
    pieces = [called(run.model.name), run.suite.name, run.status, run.kernel, run.created]
    return Sheet(
        title="Run",
        heading=[numbers.clean(piece) for piece in pieces if piece],
        grid=run_grid(run),
        remarks=run.notes,
        sentence=f"{called_words(run.variant.label)}: {run.message or run.status}",
    )


def run_grid(run: Run) -> Grid:
    """One line a measurement: median of the raw values, how many, how it was measured."""
    lines = []
    for one in run.measurements:
        cells = (
            _median(one),
            str(len(one.values)) if one.values else "stored in Parquet",
            numbers.clean(one.convention),
        )
        lines.append(Line(numbers.clean(one.metric), cells))
    return Grid(("median", "values", "convention"), tuple(lines))


def _median(one: Measurement) -> str:
    values = [value for value in one.values if not math.isnan(value)]
    if not values:
        return numbers.MISSING
    unit = "" if one.unit == "bytes" else one.unit
    return f"{numbers.figure(statistics.median(values), one.unit)} {unit}".rstrip()
