"""Building a Value: an interval, its paired difference and a verdict, without NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping

from evalkit.analysis.bootstrap import Interval
from evalkit.records import Direction, Value


def value_of(
    interval: Interval,
    n: int,
    delta: Interval | None,
    verdict: str,
    details: Mapping[str, object],
    unit: str = "",
    claim: str = "",
    direction: Direction = "none",
) -> Value:
    """The Value of `interval`; `delta` is variant minus baseline, None where there is none."""
    return Value(
        value=finite(interval.estimate),
        unit=unit,
        n=n,
        low=finite(interval.low),
        high=finite(interval.high),
        delta=finite(delta.estimate) if delta else None,
        delta_low=finite(delta.low) if delta else None,
        delta_high=finite(delta.high) if delta else None,
        verdict=verdict,
        claim=claim,
        direction=direction,
        details=dict(details),
    )


def finite(value: float) -> float | None:
    """`value`, or None for NaN and infinity: what is unknown is not a number."""
    return float(value) if math.isfinite(value) else None
