"""Which formats are on the Pareto front of divergence and bytes, told by paired differences.

All formats are measured against one baseline on the same tokens, so two of them are compared token
by token: the text's own variation, which widens the interval of each, cancels. Where that
interval holds zero the two are not told apart, whatever their means.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.summaries import Floats, TokenTable, mean_of_units
from evalkit.records import Claim, Row, Variant
from evalkit.records.equal_bytes import EqualBytes, FormatPair, FormatRow, Place

if TYPE_CHECKING:
    from evalkit.analysis.compare import Measured

SEED = "calibration_seed"
_COLUMN, _KL, _BYTES = "kl", "kl_divergence_mean", "weight_bytes"


@dataclass(frozen=True)
class _Seed:
    """One row of the comparison: its per-token table, and sums of its divergence over units."""

    row: Row
    table: TokenTable
    sums: Floats


def equal_bytes(rows: Sequence[Row], measured: Sequence[Measured], noise: float) -> EqualBytes:
    """The formats of `rows` that have bytes and a divergence, with their places on the front.

    The first row is the baseline. `noise` is the divergence that rounding alone gives: it bounds
    a difference where so few tokens were scored that no interval can be had.
    """
    seeds = [
        _Seed(row, one.tokens, _sums(one.tokens))
        for row, one in zip(rows[1:], measured[1:], strict=True)
        if row.status == "ok" and one.tokens is not None and _value(row, _BYTES) and _has_kl(row)
    ]
    seeds = [seed for seed in seeds if _same_tokens(seed.table, seeds[0].table)]
    pairs = {
        (a.row.variant.label, b.row.variant.label): _pair(a, b, noise)
        for a, b in itertools.permutations(seeds, 2)
    }
    groups: dict[str, list[_Seed]] = {}
    for seed in seeds:
        groups.setdefault(_method(seed.row.variant), []).append(seed)
    found = sorted(map(_format_row, groups.values()), key=lambda row: (row.bytes, row.kl))
    placed = [_placed(row, found[:place], pairs) for place, row in enumerate(found)]
    order = [label for row in placed for label in row.variants]
    return EqualBytes(
        tuple(placed), tuple(pairs[b, a] for a, b in itertools.combinations(order, 2))
    )


def _placed(
    row: FormatRow, smaller: Sequence[FormatRow], pairs: dict[tuple[str, str], FormatPair]
) -> FormatRow:
    """The row with its place beside all that are no larger.

    Formats of several seeds are told apart only where every pair of their seeds is.
    """
    tied = ""
    place: Place = "front"
    for other in smaller:
        both = [pairs[a, b] for a, b in itertools.product(row.variants, other.variants)]
        if all(pair.low > 0 for pair in both):
            return replace(row, place="dominated", other=other.label)
        if not tied and not all(pair.high < 0 for pair in both):
            place, tied = "tied", other.label
    return replace(row, place=place, other=tied)


def _pair(one: _Seed, other: _Seed, noise: float) -> FormatPair:
    """The difference of two rows over the units that they share."""
    found = mean_of_units(one.table, one.sums - other.sums)
    if one.table.units(None).claim is Claim.TOKENS:
        found = Interval(found.estimate, found.estimate - noise, found.estimate + noise)
    labels = one.row.variant.label, other.row.variant.label
    return FormatPair(*labels, found.estimate, found.low, found.high)


def _format_row(seeds: Sequence[_Seed]) -> FormatRow:
    first = seeds[0].row
    mean = mean_of_units(seeds[0].table, np.mean([seed.sums for seed in seeds], axis=0))
    each = [float(_value(seed.row, _KL) or 0.0) for seed in seeds]
    return FormatRow(
        label=first.label or first.variant.text,
        variants=tuple(seed.row.variant.label for seed in seeds),
        bytes=float(_value(first, _BYTES) or 0.0),
        bits_per_weight=_value(first, "bits_per_weight"),
        bits_per_quantized_weight=_value(first, "bits_per_quantized_weight"),
        kl=mean.estimate,
        low=mean.low,
        high=mean.high,
        kl_least=min(each),
        kl_most=max(each),
        place="front",
    )


def _method(variant: Variant) -> str:
    """The canonical form without the seed that calibration samples were drawn with."""
    return replace(variant, options=tuple(one for one in variant.options if one[0] != SEED)).text


def _value(row: Row, metric: str) -> float | None:
    found = row.metrics.get(metric)
    return None if found is None else found.value


def _has_kl(row: Row) -> bool:
    return _value(row, _KL) is not None


def _sums(table: TokenTable) -> Floats:
    return table.units(None).sums(table.tokens(_COLUMN))


def _same_tokens(one: TokenTable, other: TokenTable) -> bool:
    return np.array_equal(one.windows["scored"], other.windows["scored"])
