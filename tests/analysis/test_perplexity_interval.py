"""The interval of a perplexity lies on the logarithm, and few windows have none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evalkit.analysis.perplexity_interval import (
    FEWEST_WINDOWS,
    exp_of,
    interval_notes,
    perplexity_interval,
)
from evalkit.records import Row, Value, Variant

VARIANT = Variant("fp16", "transformers", asked="fp16")


def _interval(nats: list[float]) -> tuple[float, float, float]:
    sums = np.column_stack([np.array(nats) * 10, np.full(len(nats), 10.0)])
    found = perplexity_interval(sums, np.arange(len(nats)), np.zeros(len(nats), int))
    return found.estimate, found.low, found.high


def test_bounds_are_as_far_from_the_perplexity_in_nats_and_never_below_one() -> None:
    value, low, high = _interval([0.5, 5.0, 1.0, 4.0, 6.0, 2.0] * 4)
    assert value == pytest.approx(math.exp(18.5 / 6))
    below, above = math.log(value / low), math.log(high / value)
    assert below == pytest.approx(above, rel=0.15)
    assert high - value > 1.3 * (value - low)
    _, low, _ = _interval([0.0, 0.0, 4.0, 0.0, 0.0])
    assert low == 1.0


def test_a_perplexity_that_a_float_cannot_hold_stays_a_number() -> None:
    value, low, high = _interval([900.0, 1e4, 800.0, 2e3, 900.0])
    assert value == high == exp_of(1e6) < math.inf
    assert low <= value


def test_three_windows_have_a_perplexity_and_no_interval() -> None:
    value, low, high = _interval([1.0, 3.0, 5.0])
    assert value == pytest.approx(math.exp(3))
    assert math.isnan(low)
    assert math.isnan(high)
    assert not math.isnan(_interval([1.0] * (FEWEST_WINDOWS - 1) + [2.0])[1])


def _row(whole: int, **texts: int) -> Row:
    def scored(windows: int) -> dict[str, Value]:
        return {"perplexity": Value(21.0, "", details={"windows": windows})}

    slices = {name: scored(windows) for name, windows in texts.items()}
    return Row(VARIANT, "ok", metrics=scored(whole), slices=slices)


def test_the_note_names_the_windows_that_are_too_few() -> None:
    assert interval_notes(_row(3)) == (
        "perplexity: 3 windows give no useful interval, 5 at least are needed: give a longer text"
        " or a smaller --context",
    )
    assert interval_notes(_row(1))[0].startswith("perplexity: 1 window gives no useful interval")
    named = interval_notes(_row(20, novel=18, haiku=2))[0]
    assert named.startswith("perplexity: 2 windows of haiku give no useful")
    assert interval_notes(_row(5)) == interval_notes(Row(VARIANT, "failed")) == ()
