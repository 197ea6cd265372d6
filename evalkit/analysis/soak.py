"""What sustained load did: whether the speed held, when throttling began, when it was steady."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from evalkit.records.bench import Soak, SoakSample

# A speed within this share of its first counts as held, and of its last as steady.
HELD, STEADY = 0.05, 0.03
_NEIGHBOURS = 5


def judge(variant: str, batch_size: int, samples: Sequence[SoakSample]) -> Soak:
    """The finding on `samples` in order of time (at least one).

    `first` and `last` are medians of the first and the last tenth, of three samples at least.
    """
    speeds = [sample.tokens_per_second for sample in samples]
    tenth = max(3, len(speeds) // 10)
    first, last = statistics.median(speeds[:tenth]), statistics.median(speeds[-tenth:])
    throttled = next((sample for sample in samples if sample.throttle), None)
    reasons = dict.fromkeys(reason for sample in samples for reason in sample.throttle)
    return Soak(
        variant=variant,
        batch_size=batch_size,
        samples=tuple(samples),
        first=first,
        last=last,
        held=last >= (1 - HELD) * first,
        throttled_after=None if throttled is None else throttled.seconds,
        throttled_by=tuple(reasons),
        steady_after=_steady_after(samples, last),
    )


def _steady_after(samples: Sequence[SoakSample], last: float) -> float | None:
    """Seconds after which the speed, smoothed over a few samples, stays close to its last."""
    speeds = [sample.tokens_per_second for sample in samples]
    smooth = [
        statistics.median(speeds[max(0, i - _NEIGHBOURS // 2) : i + _NEIGHBOURS // 2 + 1])
        for i in range(len(speeds))
    ]
    away = [i for i, speed in enumerate(smooth) if abs(speed - last) > STEADY * last]
    if not away:
        return samples[0].seconds
    return samples[away[-1] + 1].seconds if away[-1] + 1 < len(samples) else None
