"""Asymptotic sequences: they cover at every look, widen the fixed interval, need a first look."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evalkit.analysis.asymptotic import FIRST_LOOK, asymptotic_sequence, boundary
from evalkit.errors import EvalkitError


def test_sequences_cover_at_every_look_for_skewed_values() -> None:
    rng = np.random.default_rng(0)
    looks = np.arange(FIRST_LOOK, 2001)
    widths = np.array([boundary(int(units), 0.05, 100) for units in looks])
    missed = 0
    for _ in range(300):
        values = rng.exponential(size=2000)
        mean = np.cumsum(values) / np.arange(1, 2001)
        spread = np.sqrt(np.cumsum(values**2) / np.arange(1, 2001) - mean**2)
        missed += bool((np.abs(mean - 1)[looks - 1] > (spread[looks - 1] * widths)).any())
    assert missed <= 0.08 * 300


def test_a_ratio_of_unequal_windows_and_its_bounds() -> None:
    sizes = np.tile([255.0, 100.0], 50)
    totals = 2.0 * sizes + np.tile([10.0, -10.0, 4.0, -4.0], 25)
    found = asymptotic_sequence(totals, sizes)
    assert found.estimate == pytest.approx(2.0)
    assert found.high - found.estimate == pytest.approx(found.estimate - found.low)
    deviation = np.std(totals - 2.0 * sizes, ddof=1) / sizes.mean()
    half = deviation * boundary(100, 0.05, 100)
    assert found.high - 2.0 == pytest.approx(half)
    # At its narrowest it is half as wide again as an interval for a single look, 1.96 / sqrt(n).
    assert 1.4 < boundary(100, 0.05, 100) / 0.196 < 1.6


def test_nothing_is_said_before_the_first_look() -> None:
    early = asymptotic_sequence(np.ones(FIRST_LOOK - 1), np.ones(FIRST_LOOK - 1))
    assert early.estimate == 1.0 and not early.is_possible
    assert math.isnan(asymptotic_sequence(np.ones(0), np.ones(0)).estimate)
    with pytest.raises(EvalkitError, match="confidence 0"):
        asymptotic_sequence(np.ones(3), np.ones(3), 0)
