"""The formats of a comparison by their bytes, as a grid."""

from __future__ import annotations

from evalkit import numbers
from evalkit.records import Comparison
from evalkit.records.equal_bytes import FormatRow
from evalkit.view.cells import Grid, Line

TITLE = "by bytes: closer than every smaller format (front), by paired differences of KL"
# Two formats are read off the main table; from the third on their order is a question.
FEWEST = 3
# The answer first: a narrow terminal drops the last ones.
_TITLES = ("size", "against smaller ones", "KL", "over seeds", "bits", "of quantized")


def equal_bytes_grid(comparison: Comparison) -> Grid | None:
    """One line a format, the smallest first; None for fewer than FEWEST."""
    rows = comparison.equal_bytes.rows
    if len(rows) < FEWEST:
        return None
    lines = [Line(numbers.clean(row.label), _cells(row)) for row in rows]
    kept = [i for i in range(len(_TITLES)) if any(line.cells[i] for line in lines)]
    return Grid(
        tuple(_TITLES[i] for i in kept),
        tuple(Line(line.label, tuple(line.cells[i] for i in kept)) for line in lines),
    )


def _cells(row: FormatRow) -> tuple[str, ...]:
    seeds = f"{numbers.small(row.kl_least)} to {numbers.small(row.kl_most)}"
    return (
        numbers.byte_size(row.bytes),
        numbers.clean(row.words),
        f"{numbers.small(row.kl)} [{numbers.small(row.low)}, {numbers.small(row.high)}]",
        f"{seeds} ({len(row.variants)} seeds)" if len(row.variants) > 1 else "",
        _bits(row.bits_per_weight, 1),
        _bits(row.bits_per_quantized_weight, 2),
    )


def _bits(value: float | None, decimals: int) -> str:
    return numbers.MISSING if value is None else numbers.plain(value, decimals)
