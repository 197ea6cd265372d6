"""Verdicts: what an interval allows to be said, and the margin it is held against."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.paired import PairedDifference
from evalkit.errors import EvalkitError, UsageError
from evalkit.records import Direction, Value, Word


@dataclass(frozen=True)
class Margin:
    """The loss that is tolerated: one number with two readings.

    A value of 0.01 is one percentage point of a share (accuracy, agreement), so 70.0 % may become
    69.0 %; and one percent of a quantity without an upper end (perplexity), so 8.00 may become
    8.08. `--margin 1pp` and `--margin 1%` therefore mean the same for every metric; the word only
    decides how the margin is printed. One number serves both because at 1 pp and 1 % they are
    losses of about the same weight, and because two options would leave it open which one a
    verdict used.

    Attributes:
        value: as a fraction, 0 to 1.
        text: as it was written, without spaces, such as "1pp".
    """

    value: float
    text: str

    @property
    def points(self) -> float:
        """The margin of a score between 0 and 1, absolute: 0.01 for "1pp"."""
        return self.value

    def of(self, reference: float) -> float:
        """The margin of a quantity whose baseline is `reference`, in its unit: 1 % of it."""
        return self.value * abs(reference)


def parse_margin(text: str) -> Margin:
    """Read a margin: percentage points "1pp", percent "1%", or a fraction "0.01".

    Raises:
        UsageError: for anything else, a negative margin, and a bare number of 0.1 or more, which
            is more likely meant in points.
    """
    words = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)(pp|%|)", re.sub(r"\s", "", text.lower()))
    allowed = "percentage points or percent from 0 to below 100 are allowed, for example 1pp or 1%"
    if words is None:
        raise UsageError(f"margin {text!r}: {allowed}")
    number, unit = float(words[1]), words[2]
    value = number / 100 if unit else number
    if not unit and number >= 0.1:
        raise UsageError(
            f"margin {text!r} has no unit: write {number:g}pp, or a fraction below 0.1"
        )
    if value >= 1:
        raise UsageError(f"margin {text!r}: {allowed}")
    return Margin(value, f"{number:g}{unit}")


def judge(
    interval: Interval, *, margin: float, direction: Direction, noise_floor: float = 0.0
) -> Word:
    """Verdict on a difference, variant minus baseline, from its confidence interval.

    The loss is the change in the bad direction: upwards where lower is better. The rules, the
    first that holds:

    1. NOT_MEASURED: there is no difference (nan).
    2. INCONCLUSIVE: the difference has no interval (nan bounds).
    3. BETTER: the whole interval is a gain beyond zero and beyond the noise floor.
    4. NO_LOSS: the whole interval is below a loss of `margin`, or at it. This holds even where the
       interval excludes zero: a loss that is certain but harmless is "no loss" beyond the margin.
       A margin below the noise floor counts as the noise floor, for a loss within it cannot be
       told from none.
    5. WORSE: the whole interval is a loss beyond zero and beyond the noise floor. It reaches over
       the margin or lies beyond it; `is_beyond` tells which.
    6. INCONCLUSIVE: everything else, so above all an interval that holds both zero and the margin.

    A difference within the noise floor is thus never better or worse. With 95 % intervals and no
    true difference, 3 and 5 together come up in at most 5 % of cases.

    Args:
        interval: of the difference, in the unit of the metric.
        margin: tolerated loss in the same unit, 0 or more: `Margin.points` or `Margin.of`.
        direction: which way is better.
        noise_floor: largest difference that rescoring the baseline alone gives, same unit.

    Raises:
        EvalkitError: for a negative margin or noise floor, or a direction that does not exist.
    """
    if not (margin >= 0 and noise_floor >= 0):
        raise EvalkitError(f"margin {margin} and noise floor {noise_floor} must be 0 or more")
    if math.isnan(interval.estimate):
        return Word.NOT_MEASURED
    if not interval.is_possible:
        return Word.INCONCLUSIVE
    least, most = loss_bounds(interval, direction)
    if most < -noise_floor:
        return Word.BETTER
    if most <= max(margin, noise_floor):
        return Word.NO_LOSS
    return Word.WORSE if least > noise_floor else Word.INCONCLUSIVE


def loss_bounds(interval: Interval, direction: Direction) -> tuple[float, float]:
    """The least and the most that may be lost, in the unit of the metric; a gain is negative.

    Raises:
        EvalkitError: for a direction that does not exist.
    """
    if direction not in ("lower", "higher"):
        raise EvalkitError(f"direction {direction!r}: allowed are lower, higher")
    low, high = interval.low, interval.high
    return (low, high) if direction == "lower" else (-high, -low)


def is_beyond(
    interval: Interval, *, margin: float, direction: Direction, noise_floor: float = 0.0
) -> bool:
    """Whether the whole interval is a loss beyond the margin (and the noise floor)."""
    return loss_bounds(interval, direction)[0] > max(margin, noise_floor)


def delta_of(value: Value) -> Interval:
    """The paired difference of a value; nan where it or a bound is not known."""
    bounds = (value.delta, value.delta_low, value.delta_high)
    return Interval(*(math.nan if bound is None else bound for bound in bounds))


def noise_of(value: Value) -> float:
    """The noise floor of a value, in its unit."""
    return float(value.details.get("noise_floor") or 0.0)


def rules_out(value: Value, margin: float) -> bool:
    """Whether a loss of more than `margin`, in the value's unit, is ruled out: `judge`'s rule."""
    word = judge(
        delta_of(value), margin=margin, direction=value.direction, noise_floor=noise_of(value)
    )
    return word.is_harmless


def judge_task(
    paired: PairedDifference,
    margin: float,
    adjusted_p: float,
    *,
    direction: Direction = "higher",
    noise_floor: float = 0.0,
    significance: float = 0.05,
) -> Word:
    """Verdict on a task: `judge`, where better and worse also need a significant p.

    Over several tasks the p-values are adjusted (`paired.holm` on `PairedDifference.p_value`), so
    that without any true difference the chance of a single "better" or "worse" among all of them
    stays below `significance`. Without a significant p, "better" becomes "no loss" (its interval
    is a gain) and "worse" becomes "inconclusive".

    Args:
        paired: the task's paired difference.
        margin: tolerated loss in the unit of the scores, 0 or more.
        adjusted_p: p-value adjusted over the tasks.
        direction, noise_floor: as in `judge`.
        significance: largest p (excluded) of a difference.

    Raises:
        EvalkitError: as `judge`, and for a p outside 0 to 1.
    """
    if not 0 <= adjusted_p <= 1:
        raise EvalkitError(f"adjusted p {adjusted_p}: it must lie between 0 and 1")
    word = judge(paired.interval, margin=margin, direction=direction, noise_floor=noise_floor)
    if adjusted_p < significance:
        return word
    weaker = {Word.BETTER: Word.NO_LOSS, Word.WORSE: Word.INCONCLUSIVE}
    return weaker.get(word, word)
