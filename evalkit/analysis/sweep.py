"""Which batch sizes to measure, where throughput stops growing, and what repetitions tell.

Pure functions. A round is one process of a variant; rounds of all variants take turns, so that a
machine that slows down or wakes up meets all of them alike, and the spread between rounds holds
what differs from process to process (placement in memory, clock, other work).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

# A step of 25 % more sequences that gains less than 5 % is beyond the knee.
MORE, GAIN = 1.25, 1.05
UNSTEADY = 0.1
CONFIDENCE = 0.95
# The spread of two rounds has one degree of freedom: the interval would be 13 times as wide as they
# are apart.
FEWEST_ROUNDS = 3
# "Faster" and "slower" are said at this confidence, of differences larger than this.
CERTAIN, CLEAR = 0.99, 1.05


def gain(before: tuple[int, float], after: tuple[int, float]) -> float:
    """Factor of throughput for 25 % more sequences, between two (batch, tokens/s)."""
    (small, slow), (large, fast) = before, after
    return float((fast / slow) ** (math.log(MORE) / math.log(large / small)))


def next_batch(measured: Mapping[int, float], *, most: int, failed: int | None) -> int | None:
    """The batch size to measure after those of `measured` (batch to tokens/s); None at the end.

    Doubles from 1 until throughput gains less than 5 % for 25 % more sequences, or until `failed`,
    the smallest batch that did not fit, or `most`; then halves the distance around the knee once.
    """
    sizes = sorted(measured)
    if not sizes:
        return 1 if failed is None else None
    found = knee(measured)
    if failed is None and found == sizes[-1]:
        doubled = 2 * sizes[-1]
        return doubled if doubled <= most else None
    above = next((size for size in sizes if size > found), failed)
    if above is None:
        return None
    middle = (found + above) // 2
    return middle if above >= 2 * found and middle > found else None


def knee(measured: Mapping[int, float]) -> int:
    """The batch size beyond which 25 % more sequences gain less than 5 %.

    Between two sizes throughput is taken to grow as a power of the batch.
    """
    sizes = sorted(measured)
    for small, large in itertools.pairwise(sizes):
        if gain((small, measured[small]), (large, measured[large])) < GAIN:
            return small
    return sizes[-1]


def interval(rounds: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the typical speed over the medians of `rounds`, None for fewer than three.

    Student's t on logarithms, as speeds vary by factors.
    """
    if len(rounds) < FEWEST_ROUNDS:
        return None
    low, high = _log_interval([math.log(value) for value in rounds])
    return math.exp(low), math.exp(high)


def ratio(
    rounds: Sequence[float], baseline: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float, float] | None:
    """Speed over the baseline's with its interval, paired by round; None for fewer than three."""
    pairs = [math.log(a / b) for a, b in zip(rounds, baseline, strict=False)]
    if len(pairs) < FEWEST_ROUNDS:
        return None
    low, high = _log_interval(pairs, confidence)
    return math.exp(statistics.mean(pairs)), math.exp(low), math.exp(high)


def verdict(rounds: Sequence[float], baseline: Sequence[float]) -> str:
    """Whether a variant is "faster" or "slower" than the baseline; "" where that is not certain.

    The 99 % interval of the ratio must lie wholly beyond 5 %: by less, two processes of one
    variant differ too (placement in memory, clock).
    """
    _, low, high = ratio(rounds, baseline, CERTAIN) or (1.0, 1.0, 1.0)
    if low > CLEAR:
        return "faster"
    return "slower" if high < 1 / CLEAR else ""


def _log_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    from scipy.special import stdtrit  # takes longer to load than a bench to show

    count = len(values)
    half = stdtrit(count - 1, (1 + confidence) / 2) * statistics.stdev(values) / count**0.5
    middle = statistics.mean(values)
    return middle - float(half), middle + float(half)


def is_unsteady(samples: Sequence[float]) -> bool:
    """Whether the standard deviation reaches a tenth of the mean: measure again, in quiet."""
    return len(samples) > 1 and statistics.stdev(samples) >= UNSTEADY * statistics.mean(samples)


def percentile(values: Sequence[float], share: float) -> float:
    """The percentile `share` (0 to 100), between neighbours by distance."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
