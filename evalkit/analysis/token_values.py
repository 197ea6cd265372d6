"""Values of token metrics: perplexities with their paired differences, and divergences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.summaries import (
    PAIRED_SUMMARIES,
    TokenTable,
    correlation,
    paired_delta,
    summarise,
)
from evalkit.analysis.values import finite, value_of
from evalkit.analysis.verdicts import Margin, judge
from evalkit.records import Claim, Measurement, Value, Word


def token_values(
    specs: Sequence[Measurement],
    baseline: TokenTable,
    variant: TokenTable,
    margin: Margin,
    floor: Mapping[str, float],
    slice_index: int | None,
) -> dict[str, Value]:
    """The value of each metric of `specs` over the texts, or over the slice of that index.

    `floor` is the noise floor over all texts. The baseline is compared with itself.
    """
    mask = variant.select(slice_index)
    n = int(variant.windows["scored"][mask].sum())
    if n == 0:
        return {}
    # Rounding errors average out: those of a part of the text are larger.
    stretch = math.sqrt(int(variant.windows["scored"].sum()) / n)
    found = {}
    for spec in specs:
        noise = floor.get(spec.metric, 0.0)
        if spec.details["summary"] in PAIRED_SUMMARIES:
            noise *= stretch
            found[spec.metric] = _perplexity(spec, baseline, variant, margin, noise, slice_index)
        else:
            found[spec.metric] = _divergence(spec, variant, noise, slice_index)
    return found


def _perplexity(
    spec: Measurement,
    baseline: TokenTable,
    variant: TokenTable,
    margin: Margin,
    noise: float,
    slice_index: int | None,
) -> Value:
    fold = (spec.details["column"], spec.details["summary"], slice_index)
    mask = variant.select(slice_index)
    claim = variant.units(slice_index).claim
    interval = _about(claim, summarise(variant, *fold), noise)
    delta = paired_delta(baseline, variant, *fold)
    word = Word.BASELINE
    details: dict[str, object] = {"windows": int(mask.sum()), "noise_floor": noise}
    if variant is not baseline:
        delta = _about(claim, delta, noise)
        allowed = margin.of(interval.estimate - delta.estimate)
        word = judge(delta, margin=allowed, direction="lower", noise_floor=noise)
        details["correlation"] = _correlation(baseline, variant, slice_index)
    n = int(variant.windows["scored"][mask].sum())
    return value_of(interval, n, delta, word, details, spec.unit, claim, spec.direction)


def _divergence(
    spec: Measurement, variant: TokenTable, noise: float, slice_index: int | None
) -> Value:
    """A divergence is itself the difference: it says how much changed, not in which direction."""
    claim = variant.units(slice_index).claim
    fold = (spec.details["column"], spec.details["summary"], slice_index)
    interval = _about(claim, summarise(variant, *fold), noise)
    is_share = spec.direction == "higher"
    distance = 1.0 - interval.estimate if is_share else abs(interval.estimate)
    word = Word.NO_LOSS if distance <= noise else Word.CHANGED
    neutral = 1.0 if is_share else 0.0
    delta = Interval(interval.estimate - neutral, interval.low - neutral, interval.high - neutral)
    n = int(variant.windows["scored"][variant.select(slice_index)].sum())
    details = {"noise_floor": noise}
    return value_of(interval, n, delta, word, details, spec.unit, claim, spec.direction)


def _about(claim: Claim, interval: Interval, noise: float) -> Interval:
    """The interval, of these tokens the estimate and the noise floor around it."""
    if claim is not Claim.TOKENS:
        return interval
    return Interval(interval.estimate, interval.estimate - noise, interval.estimate + noise)


def _correlation(
    baseline: TokenTable, variant: TokenTable, slice_index: int | None
) -> float | None:
    inside = variant.select(slice_index)[variant.tokens("window")]
    return finite(correlation(baseline.tokens("nll")[inside], variant.tokens("nll")[inside]))
