"""Speed, memory and size: values from repetitions, ratios to the baseline, verdicts."""

from __future__ import annotations

import math

import numpy as np

from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.values import finite, value_of
from evalkit.records import Measurement, Value, Word

# Repetitions in one process understate how much speed differs between processes.
SPEED_NOISE = 0.05
FEWEST_SAMPLES = 3
# What the range of five repetitions covers.
_COVERED = 1 - 2.0**-4


def sampled_value(measurement: Measurement, base: Measurement | None, is_baseline: bool) -> Value:
    """The median of a measurement's samples and its ratio to the baseline's.

    Not comparable where machine or settings differ.
    """
    interval = median_interval(measurement.values)
    details = dict(measurement.details)
    n = len(measurement.values)

    def valued(delta: Interval | None, word: str) -> Value:
        return value_of(
            interval, n, delta, word, details, measurement.unit, direction=measurement.direction
        )

    if is_baseline:
        return valued(Interval(0.0, 0.0, 0.0), Word.BASELINE)
    if base is None or not base.values:
        return valued(None, Word.NOT_MEASURED)
    if base.machine != measurement.machine or base.convention != measurement.convention:
        return valued(None, Word.NOT_COMPARABLE)
    ratio = ratio_interval(base.values, measurement.values)
    details |= {
        "ratio": finite(ratio.estimate),
        "ratio_low": finite(ratio.low),
        "ratio_high": finite(ratio.high),
    }
    other = median_interval(base.values)
    delta = Interval(
        interval.estimate - other.estimate,
        interval.low - other.high,
        interval.high - other.low,
    )
    return valued(delta, _sampled_word(measurement, ratio))


def not_measured(measurement: Measurement) -> Value:
    """The Value of a measurement without values, whose detail "reason" says why there are none."""
    return Value(
        None, measurement.unit, details=dict(measurement.details), direction=measurement.direction
    )


def _sampled_word(measurement: Measurement, ratio: Interval) -> Word:
    """Better or worse where every ratio of samples is beyond the noise between processes.

    A single sample is exact, as a count of bytes is.
    """
    if not ratio.is_possible and len(measurement.values) > 1:
        return Word.INCONCLUSIVE
    noise = SPEED_NOISE if measurement.machine else 0.0
    low = ratio.low if ratio.is_possible else ratio.estimate
    high = ratio.high if ratio.is_possible else ratio.estimate
    if low > 1 + noise:
        return Word.BETTER if measurement.direction == "higher" else Word.WORSE
    if high < 1 - noise:
        return Word.WORSE if measurement.direction == "higher" else Word.BETTER
    return Word.NO_LOSS if 1 - noise <= low and high <= 1 + noise else Word.INCONCLUSIVE


def median_interval(samples: tuple[float, ...]) -> Interval:
    """Median of repetitions with two of the samples as its bounds (order statistics); none
    below three samples.

    The range of n samples covers the median with probability 1 − 2^(1−n): 94 % for five, and less
    for fewer. Of more samples as many are left out at either end as leave 94 %.
    """
    values = np.sort(np.asarray(samples, dtype=np.float64))
    if len(values) < FEWEST_SAMPLES:
        return Interval(float(np.median(values)), math.nan, math.nan)
    left_out = _left_out(len(values))
    return Interval(float(np.median(values)), values[left_out].item(), values[-1 - left_out].item())


def _left_out(n: int) -> int:
    """How many of `n` samples lie beyond either bound of the median's interval."""
    found, tail = 0, 0.5**n
    while found + 1 < n / 2:
        tail += math.comb(n, found + 1) * 0.5**n
        if 2 * tail > 1 - _COVERED:
            break
        found += 1
    return found


def ratio_interval(baseline: tuple[float, ...], variant: tuple[float, ...]) -> Interval:
    """Ratio of medians, variant over baseline, with the extreme ratios of the samples as bounds."""
    top, bottom = median_interval(variant), median_interval(baseline)
    return Interval(top.estimate / bottom.estimate, top.low / bottom.high, top.high / bottom.low)
