"""Planning: how many items an answer needs."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from evalkit.analysis.spread import tango_variance
from evalkit.errors import EvalkitError


def items_needed(
    margin: float,
    discordance: float,
    *,
    delta: float = 0.0,
    power: float = 0.8,
    confidence: float = 0.95,
    design_effect: float = 1.0,
    is_binary: bool = True,
) -> int | None:
    """Items in all (not on top) that would show no loss beyond `margin` with this power.

    That is, with which the interval of `paired_difference` lies above -margin.

    Args:
        margin: tolerated loss in the unit of the scores, above zero (0.01 for 1 pp).
        discordance: share of items that flip (mean squared difference of real scores).
        delta: assumed true difference, variant minus baseline, where higher is better. The default
            assumes that there is none; pass the observed one to plan on it.
        power: probability of the verdict.
        confidence: of the two-sided interval.
        design_effect: see `PairedDifference`.
        is_binary: scores are 0 or 1, so that the interval is Tango's, else Student's.

    Returns:
        The number of items, or None where no number would do: the assumed loss is not below the
        margin.

    Raises:
        EvalkitError: for an argument out of range.
    """
    _check_plan(discordance, power, confidence, design_effect)
    if not margin > 0:
        raise EvalkitError(f"margin {margin}: it must be above 0; try 0.01 for 1 pp")
    if delta <= -margin:
        return None
    flips = max(discordance, abs(delta) if is_binary else delta**2)
    true_variance = flips - delta**2
    null_variance = true_variance
    if is_binary:
        null_variance = tango_variance(-margin, (flips + delta) / 2, (flips - delta) / 2)
    critical, other = -float(ndtri((1 - confidence) / 2)), float(ndtri(power))
    wanted = critical * np.sqrt(null_variance) + other * np.sqrt(true_variance)
    return max(2, int(np.ceil(design_effect * (wanted / (delta + margin)) ** 2)))


def _check_plan(discordance: float, power: float, confidence: float, design_effect: float) -> None:
    allowed = {
        f"discordance {discordance}: it must be 0 or more": discordance >= 0,
        f"power {power}: it must lie between 0.5 and 1; try 0.8": 0.5 <= power < 1,
        f"confidence {confidence}: it must lie between 0 and 1; try 0.95": 0 < confidence < 1,
        f"design effect {design_effect}: it must be 1 or more": design_effect >= 1,
    }
    for message, holds in allowed.items():
        if not holds:
            raise EvalkitError(message)
