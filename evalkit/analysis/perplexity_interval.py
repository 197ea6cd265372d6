"""The interval of a perplexity: made on its logarithm, and none where windows are too few."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from evalkit.analysis.blocks import MIN_COSINES
from evalkit.analysis.bootstrap import Interval, bootstrap_interval
from evalkit.records import Row, Value

# With fewer, the variance has under four degrees of freedom: the bounds would be multiples of the
# perplexity itself.
FEWEST_WINDOWS = MIN_COSINES + 1
_LARGEST = 700.0


def perplexity_interval(
    sums: npt.NDArray[np.float64], groups: npt.ArrayLike, strata: npt.ArrayLike
) -> Interval:
    """exp(Σ nll / Σ weight) with its bounds; `sums` has shape (windows, 2): nll, weight.

    The mean is resampled, in nats, where its distribution is nearly symmetric, and its bounds are
    raised to e: so a perplexity is never below 1. The bounds are nan below FEWEST_WINDOWS.
    """
    if len(sums) < FEWEST_WINDOWS:
        totals = sums.sum(axis=0)
        return Interval(float(exp_of(totals[0] / totals[1])), np.nan, np.nan)
    mean = bootstrap_interval(
        lambda totals: totals[:, 0] / totals[:, 1], sums, groups=groups, strata=strata
    )
    bounds = np.maximum([mean.low, mean.high], 0.0)
    return Interval(float(exp_of(mean.estimate)), *map(float, exp_of(bounds)))


def exp_of(nats: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """e to the power of `nats`, at most what a float64 holds."""
    return np.asarray(np.exp(np.minimum(nats, _LARGEST)))


def interval_notes(row: Row) -> tuple[str, ...]:
    """A line naming the texts of too few windows for an interval; none where there are enough."""
    scored = {"": row.metrics} | row.slices
    counts = {text: _windows(metrics) for text, metrics in scored.items()}
    few = {text: count for text, count in counts.items() if 0 < count < FEWEST_WINDOWS}
    if not few:
        return ()
    named = [
        f"{count} window{'s' * (count > 1)}{f' of {text}' if text else ''}"
        for text, count in few.items()
    ]
    give = "gives" if list(few.values()) == [1] else "give"
    return (
        f"perplexity: {', '.join(named)} {give} no useful interval, {FEWEST_WINDOWS} at least are"
        " needed: give a longer text or a smaller --context",
    )


def _windows(metrics: Mapping[str, Value]) -> int:
    return int(metrics["perplexity"].details.get("windows", 0)) if "perplexity" in metrics else 0
