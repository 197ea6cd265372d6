"""A comparison as a pandas DataFrame of numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from evalkit.records import Comparison, Row, Value
from evalkit.view.cells import label

COLUMNS = (
    "variant", "resolved", "status", "text", "metric", "value", "unit", "n", "low", "high",
    "delta", "delta_low", "delta_high", "verdict", "claim", "direction",
)  # fmt: skip


def comparison_frame(comparison: Comparison, *, wide: bool = False) -> pd.DataFrame:
    """The numbers of a comparison, one value a row; or `wide`, one variant a row.

    A row of the tidy frame has COLUMNS: the variant's name in the table and its full form, the
    metric with value, unit, sample size and 95 % interval, the paired difference to the baseline
    with its own, and the verdict on it. `text` names one text of several and is empty for the whole
    suite. A variant without any metric has one row with its status.

    The wide frame has the variants as index, `status` and `verdict` of the row, then the value of
    each metric over the whole suite. What was not measured is NaN in both, never zero.
    """
    if not wide:
        lines = [line for row in comparison.rows for line in _lines(row)]
        return pd.DataFrame(lines, columns=list(COLUMNS))
    names = dict.fromkeys(name for row in comparison.rows for name in row.metrics)
    columns = {
        "status": [row.status for row in comparison.rows],
        "verdict": [row.verdict.text for row in comparison.rows],
        **{name: [_value(row, name) for row in comparison.rows] for name in names},
    }
    index = pd.Index([label(row) for row in comparison.rows], name="variant")
    return pd.DataFrame(columns, index=index)


def _lines(row: Row) -> Iterator[dict[str, Any]]:
    head = {"variant": label(row), "resolved": row.variant.text, "status": row.status}
    texts: list[tuple[str, Mapping[str, Value]]] = [("", row.metrics), *row.slices.items()]
    for text, metrics in texts:
        for metric, value in metrics.items():
            # A verdict is its word; the enumeration prints as something else.
            fields = dataclasses.asdict(value) | {"verdict": str(value.verdict)}
            yield head | {"text": text, "metric": metric} | fields
    if not any(metrics for _, metrics in texts):
        yield head | {"text": "", "verdict": row.verdict.text}


def _value(row: Row, metric: str) -> float | None:
    return row.metrics[metric].value if metric in row.metrics else None
