"""Capital that is fair at the null, sequences that cover at every look, exact to a whole draw."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evalkit.analysis.betting import (
    Draws,
    anytime_p,
    confidence_sequence,
    log_capital,
)
from evalkit.errors import EvalkitError


def _ones(count: int) -> np.ndarray:
    return np.ones(count)


def test_capital_is_fair_where_the_claim_is_just_true() -> None:
    # Losses, ties and gains with probabilities .2, .5, .3: the mean is .1; all series of four.
    shares = {-1.0: 0.2, 0.0: 0.5, 1.0: 0.3}
    series = np.array(list(itertools.product(shares, repeat=4)))
    chance = np.prod(np.vectorize(shares.get)(series), axis=1)
    capital = np.exp(log_capital(Draws(series, _ones(4)), 0.1))
    assert chance @ capital == pytest.approx(np.ones(4))
    assert (chance @ np.exp(log_capital(Draws(series, _ones(4)), 0.2)) < 1).all()


def test_capital_is_fair_for_clusters_of_unequal_size() -> None:
    # One item of mean -.2 or three that move together: E[total] / E[size] is the mean of items.
    units = [(1.0, 1.0, 0.2), (-1.0, 1.0, 0.3), (3.0, 3.0, 0.3), (-3.0, 3.0, 0.2)]
    mean = sum(t * p for t, _, p in units) / sum(s * p for _, s, p in units)
    picks = np.array(list(itertools.product(range(4), repeat=3)))
    totals, sizes, chances = (np.array([unit[i] for unit in units])[picks] for i in range(3))
    capital = np.exp(log_capital(Draws(totals, sizes, largest=3), mean))
    assert chances.prod(axis=1) @ capital == pytest.approx(np.ones(3))


def test_sequences_cover_at_every_look() -> None:
    rng = np.random.default_rng(2)
    draws = Draws(rng.choice([-1.0, 0.0, 1.0], size=(400, 400), p=[0.06, 0.9, 0.04]), _ones(400))
    above, below = anytime_p(draws, -0.02), anytime_p(draws.mirrored(), 0.02)
    assert (np.minimum(above, below) < 0.025).mean() <= 0.05


def test_bounds_agree_with_p_values_and_hold_the_estimate() -> None:
    series = np.random.default_rng(3).choice([-1.0, 0.0, 1.0], size=300, p=[0.2, 0.75, 0.05])
    draws = Draws(series, _ones(300))
    found = confidence_sequence(draws)
    assert found.low < found.estimate < found.high
    assert anytime_p(draws, found.low) == pytest.approx(0.025, rel=1e-4)
    assert anytime_p(draws.mirrored(), -found.high) == pytest.approx(0.025, rel=1e-4)
    mirrored = confidence_sequence(draws.mirrored())
    assert [-mirrored.high, -mirrored.estimate, -mirrored.low] == pytest.approx(
        [found.low, found.estimate, found.high], abs=1e-5
    )


def test_what_was_shown_once_stays_shown() -> None:
    early = np.concatenate([np.ones(20), -np.ones(60)])
    draws = Draws(early, _ones(80))
    assert anytime_p(draws, 0.0) == anytime_p(Draws(early[:20], _ones(20)), 0.0) < 0.001


def test_without_flips_the_sequence_is_wide_at_first_and_narrows() -> None:
    some, many = (confidence_sequence(Draws(np.zeros(n), _ones(n))) for n in (20, 2000))
    assert -1 < some.low < many.low < 0 == pytest.approx(many.estimate, abs=1e-6)
    empty = confidence_sequence(Draws(np.zeros(0), _ones(0)))
    assert [empty.low, empty.estimate, empty.high] == pytest.approx([-1, 0, 1], abs=1e-6)


def test_values_beyond_their_bounds_are_refused() -> None:
    with pytest.raises(EvalkitError, match="its values lie outside"):
        Draws(np.array([1.5]), _ones(1))
    with pytest.raises(EvalkitError, match="one is larger"):
        Draws(np.array([1.5]), np.array([2.0]))
    with pytest.raises(EvalkitError, match="confidence 2"):
        confidence_sequence(Draws(np.zeros(3), _ones(3)), 2)
