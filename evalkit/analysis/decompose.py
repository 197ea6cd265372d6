"""A variant's weights and the kernel that serves them, apart: divergences from raw tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.summaries import Floats, TokenTable, mean_of_units
from evalkit.records import Claim
from evalkit.records.decomposition import Decomposition, Divergence

if TYPE_CHECKING:
    from evalkit.analysis.compare import Measured

# The passes, by the measurement that names their table.
WEIGHTS, SERVED, DIRECT = "decomposed_weights", "decomposed_served", "decomposed_direct"
PASSES = (WEIGHTS, SERVED, DIRECT)
_COLUMN = "kl"


def decomposition(one: Measured, noise: float | None) -> Decomposition | None:
    """What was measured of `one`, or why it was not; None where nobody asked.

    `noise` is the divergence that rounding alone gives, which bounds what so few tokens say that
    no interval can be had.
    """
    holder = one.measurements().get(WEIGHTS)
    if holder is None:
        return None
    if reason := str(holder.details.get("reason", "")):
        return Decomposition(reason=reason)
    tables = [one.decomposed.get(name) for name in PASSES]
    weights, served, direct = (table for table in tables if table is not None)
    sums = {id(table): _sums(table) for table in (weights, served, direct)}
    found = [_divergence(table, sums[id(table)], noise) for table in (weights, served, direct)]
    difference = _divergence(weights, sums[id(served)] - sums[id(weights)], noise)
    return Decomposition(
        tokens=int(weights.windows["scored"].sum()),
        dtype=str(holder.details["dtype"]),
        kernel=str(holder.details["kernel"]),
        weights=found[0],
        served=found[1],
        difference=difference,
        direct=found[2],
        noise_floor=noise,
    )


def _sums(table: TokenTable) -> Floats:
    return table.units(None).sums(table.tokens(_COLUMN))


def _divergence(table: TokenTable, sums: Floats, noise: float | None) -> Divergence:
    found = mean_of_units(table, sums)
    if table.units(None).claim is Claim.TOKENS:
        around = noise or 0.0
        found = Interval(found.estimate, found.estimate - around, found.estimate + around)
    return Divergence(found.estimate, found.low, found.high)
