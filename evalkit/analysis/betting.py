"""Always-valid inference for a bounded mean: a gambler's capital is evidence at every look.

Take a mean that is claimed to be at most m. A gambler who may only make bets that are fair or
losing where the claim is true starts with a capital of 1. Were the claim true, the chance that the
capital ever reaches 1/α would be at most α (Ville 1939). So 1/capital is a p-value that may be read
after every item, and the means against which the capital stays small form a confidence sequence:
it covers the true mean at all times at once, and so whenever somebody stops (Waudby-Smith and
Ramdas 2023, "Estimating means of bounded random variables by betting", Journal of the Royal
Statistical Society B 86:1, sections 4 and 5).

One bet stakes the share b of the capital on a unit (an item, or a group of items that belong
together), drawn independently: with values from a on, a unit of z = Σ (value − a) over its n items
leaves the part

    1 − b · n / n_max + b · z / (n_max · (m − a))

of its capital. That is never negative, its expectation is at most 1 where the mean is at most m,
and it falls in m, so that the means not refuted are an interval. How much to stake best is not
known beforehand: the capital is spread over a dozen stakes (their "diversified Kelly betting"),
which no look at the data changes and which costs little against the best of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from evalkit.analysis.blocks import FloatArray
from evalkit.analysis.bootstrap import Interval
from evalkit.errors import EvalkitError

# From the stake that suits a tenth of all items flipping in a hundred thousand, to all of it.
STAKES = np.geomspace(0.02, 1.0, 12)
# Logarithm of a capital beyond which nobody counts on.
_ENOUGH = 700.0
# Bounds are exact to this share of the range of values, the estimate to 2^-16 of what they leave.
_RESOLUTION = 1e-9
_HALVINGS = 16


@dataclass(frozen=True)
class Draws:
    """What was drawn so far, in the order of drawing, which must be random.

    Attributes:
        totals: sum of the values of each unit's items, shape (..., units); leading dimensions are
            separate series.
        sizes: items of each unit, shape (units,) or that of `totals`.
        low, high: bounds of the value of an item.
        largest: items of the largest unit that there is, drawn or not.

    Units are independent, and the mean is E[total] / E[size].

    Raises:
        EvalkitError: for totals outside the bounds, or units beyond the largest.
    """

    totals: FloatArray
    sizes: FloatArray
    low: float = -1.0
    high: float = 1.0
    largest: float = 1.0

    def __post_init__(self) -> None:
        rounding = 1e-9 * self.largest * (self.high - self.low)
        excess = self.excess
        if excess.size and not (
            (excess >= -rounding).all()
            and (excess <= (self.high - self.low) * self.sizes + rounding).all()
            and (self.sizes <= self.largest).all()
        ):
            raise EvalkitError(
                f"units of at most {self.largest:g} items with values from {self.low:g} to"
                f" {self.high:g} were declared: one is larger, or its values lie outside"
            )

    @property
    def excess(self) -> FloatArray:
        """Sum of value − low over the items of each unit, shape of `totals`."""
        return np.asarray(self.totals - self.low * self.sizes)

    def mirrored(self) -> Draws:
        """The draws with every value negated: a lower bound of theirs is an upper bound of ours."""
        return dataclasses.replace(self, totals=-self.totals, low=-self.high, high=-self.low)


def log_capital(draws: Draws, mean: float) -> FloatArray:
    """Logarithm of the capital staked against "the mean is at most `mean`", shape of the totals.

    Entry i is the capital after unit i; it is inf where the draws contradict the claim outright.
    """
    gain, cost = _returns(draws, mean)
    change = gain - cost
    capital = np.zeros(change.shape)
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        for stake in STAKES:
            path = np.cumsum(np.log(1 + stake * change), axis=-1)
            capital += np.exp(np.minimum(path, _ENOUGH))
        found = np.log(capital / len(STAKES))
    refuted = np.maximum.accumulate(np.isinf(gain), axis=-1)
    return np.where(refuted, math.inf, found)


def anytime_p(draws: Draws, mean: float) -> FloatArray:
    """P-value of "the mean is at most `mean`" after all draws, valid at every look, shape (...,).

    It is the smallest since the first draw: what was shown once stays shown.
    """
    return np.exp(-_best(draws, mean))


def confidence_sequence(draws: Draws, confidence: float = 0.95) -> Interval:
    """Bounds of the mean that hold at all looks together with probability `confidence`.

    They are the narrowest since the first draw. The estimate is the value against which the least
    was ever won, so the one left of the sequence as its confidence falls: it lies within the
    bounds, and unlike the plain mean it is not drawn towards where somebody stopped.

    Raises:
        EvalkitError: for a confidence outside 0 to 1.
    """
    if not 0 < confidence < 1:
        raise EvalkitError(f"confidence {confidence}: it must lie between 0 and 1; try 0.95")
    wanted = -math.log((1 - confidence) / 2)
    other = draws.mirrored()
    low, high = _refuted_up_to(draws, wanted), -_refuted_up_to(other, wanted)
    estimate = _least_refuted(draws, other, low, high)
    if low > high:
        # Both sides refute everything: possible with probability below 1 − confidence.
        low = high = estimate
    return Interval(estimate, low, high)


def _returns(draws: Draws, mean: float) -> tuple[FloatArray, FloatArray]:
    """What a unit brings and costs for each part of the capital staked on it."""
    excess = draws.excess
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.asarray(excess / (draws.largest * (mean - draws.low)))
    return np.where(excess <= 0, 0.0, gain), np.asarray(draws.sizes / draws.largest)


def _best(draws: Draws, mean: float) -> FloatArray:
    """Logarithm of the largest capital since the start, which is 1; shape (...,)."""
    return np.asarray(log_capital(draws, mean).max(axis=-1, initial=0.0))


def _refuted_up_to(draws: Draws, wanted: float) -> float:
    """The largest mean against which the logarithm of the capital ever reached `wanted`."""

    def excess(mean: float) -> float:
        return min(float(_best(draws, mean)), 2 * wanted) - wanted

    lowest = draws.low + _RESOLUTION * (draws.high - draws.low)
    if excess(lowest) <= 0:
        return draws.low
    # At the upper bound of the values nothing can be won.
    return float(brentq(excess, lowest, draws.high, xtol=_RESOLUTION * (draws.high - draws.low)))


def _least_refuted(draws: Draws, other: Draws, low: float, high: float) -> float:
    """The middle of the means for which as much was won against "at most" as "at least"."""

    def difference(mean: float) -> float:
        won, lost = float(_best(draws, mean)), float(_best(other, -mean))
        return 0.0 if won == lost else won - lost

    low, high = min(low, high), max(low, high)
    first, last = (_crossing(difference, low, high, upper) for upper in (False, True))
    return (first + last) / 2


def _crossing(falling: Callable[[float], float], low: float, high: float, upper: bool) -> float:
    """Where a falling function becomes zero, or with `upper` ceases to be zero."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        value = falling(middle)
        low, high = (middle, high) if value > 0 or (upper and value == 0) else (low, middle)
    return (low + high) / 2
