"""A variant's weights and the kernel that serves them, apart, as a grid."""

from __future__ import annotations

from evalkit import numbers
from evalkit.records import Comparison
from evalkit.records.decomposition import Decomposition, Divergence
from evalkit.view.cells import Grid, Line, label

TITLE = "weights and kernels apart: mean KL in nats, which do not add up"
_TITLES = ("weights alone", "as served", "difference, paired", "served from weights", "tokens")


def decomposition_grid(comparison: Comparison) -> Grid | None:
    """One line a variant that was looked at, with the reason where nothing could be; else None."""
    rows = [row for row in comparison.rows if row.decomposition is not None]
    lines = [_line(label(row), row.decomposition) for row in rows if row.decomposition]
    return Grid(_TITLES, tuple(lines)) if lines else None


def _line(name: str, found: Decomposition) -> Line:
    if found.reason:
        return Line(name, message=numbers.clean(f"not measured: {found.reason}"))
    alone, served, direct = map(_around, (found.weights, found.served, found.direct))
    return Line(name, (alone, served, _signed(found.difference), direct, f"{found.tokens:,}"))


def _around(value: Divergence | None) -> str:
    if value is None:
        return numbers.MISSING
    low, high = numbers.small(value.low), numbers.small(value.high)
    return f"{numbers.small(value.value)} [{low}, {high}]"


def _signed(value: Divergence | None) -> str:
    """The difference, whose sign is told: "- 2.0e-05 [-5.0e-05, 1.0e-05]"."""
    if value is None:
        return numbers.MISSING
    sign = f"{numbers.MINUS} " if value.value < 0 else "+ "
    bounds = [
        (numbers.MINUS if bound < 0 else "") + numbers.small(abs(bound))
        for bound in (value.low, value.high)
    ]
    return f"{sign}{numbers.small(abs(value.value))} [{', '.join(bounds)}]"
