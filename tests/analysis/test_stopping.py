"""Decisions at the margin: right where the loss is clear, rarely wrong at either null."""

from __future__ import annotations

import numpy as np
import pytest

from evalkit.analysis.betting import Draws, anytime_p
from evalkit.analysis.stopping import (
    Decision,
    Loss,
    decide,
    mean_difference,
    paired_loss,
    shared_confidence,
)

MARGIN = 0.01


def _loss(values: np.ndarray) -> Loss:
    return Loss(Draws(values, np.ones(values.shape[-1])))


def _flips(rate: float, loss: float, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Item losses of 1 (right to wrong), -1 and 0, with flips at `rate` and mean `loss`."""
    shares = [(rate + loss) / 2, (rate - loss) / 2, 1 - rate]
    return np.random.default_rng(seed).choice([1.0, -1.0, 0.0], size=shape, p=shares)


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [(0.0, Decision.SMALLER), (0.08, Decision.LARGER), (0.01, Decision.OPEN)],
)
def test_a_loss_is_decided_where_it_is_clear(loss: float, wanted: Decision) -> None:
    series = _flips(0.1, loss, (20_000,))
    assert decide([_loss(series).p_values(MARGIN)]) == (wanted,)


def test_better_than_zero_alone_decides_nothing() -> None:
    # Worse than the baseline without doubt, by just the margin.
    losing = _loss(_flips(0.012, 0.01, (5_000,)))
    assert losing.difference().high < 0
    assert decide([losing.p_values(MARGIN)]) == (Decision.OPEN,)


@pytest.mark.parametrize("loss", [0.0, MARGIN])
def test_wrong_decisions_are_rare_at_both_nulls(loss: float) -> None:
    draws = Draws(_flips(0.1, loss, (300, 1500)), np.ones(1500))
    wrong = anytime_p(draws.mirrored(), -MARGIN) if loss else anytime_p(draws, MARGIN)
    assert (wrong <= 0.025).mean() <= 0.05


def test_flips_of_two_percent_take_about_two_thousand_items() -> None:
    series = _flips(0.02, 0.0, (101, 4000))
    decided = [
        (anytime_p(Draws(series[:, :n], np.ones(n)).mirrored(), -MARGIN) <= 0.025).mean()
        for n in (1200, 3000)
    ]
    assert decided[0] < 0.5 < decided[1]


def test_clusters_are_bet_on_whole() -> None:
    # Copies of one answer say no more than one: in clusters they do not decide, apart they would.
    base, variant = np.ones(3000), np.ones(3000)
    variant[600:640] = 0
    clusters = np.repeat(np.arange(75), 40)
    together = paired_loss(base, variant, clusters, largest=40)
    apart = paired_loss(base, variant, np.arange(3000), largest=1)
    assert together.draws.totals.tolist().count(40.0) == 1 and together.draws.sizes.sum() == 3000
    assert together.p_values(MARGIN)[1] > 0.5
    assert apart.p_values(MARGIN)[1] < 1e-3
    lower = paired_loss(variant, base, clusters, largest=40, higher_is_better=False)
    assert np.array_equal(lower.draws.totals, together.draws.totals)


def test_holm_takes_both_claims_of_every_task() -> None:
    assert decide([(0.024, 1.0)]) == (Decision.SMALLER,)
    assert decide([(1.0, 0.026)]) == (Decision.OPEN,)
    assert decide([(0.012, 1.0), (1.0, 1.0)]) == (Decision.SMALLER, Decision.OPEN)
    assert decide([(0.013, 1.0), (1.0, 1.0)]) == (Decision.OPEN, Decision.OPEN)
    # A decided task leaves more to the next.
    assert decide([(0.001, 1.0), (1.0, 0.016)]) == (Decision.SMALLER, Decision.LARGER)


def test_bounds_of_the_mean_hold_for_all_tasks_together() -> None:
    losses = [_loss(_flips(0.1, 0.02, (n,), seed=n)) for n in (300, 600)]
    wide = [one.difference(shared_confidence(2)) for one in losses]
    assert wide == [one.difference(0.975) for one in losses]
    mean = mean_difference(wide)
    assert mean.low == pytest.approx(np.mean([one.low for one in wide]))
    assert mean.high == pytest.approx(np.mean([one.high for one in wide]))
    assert mean.low < mean.estimate < mean.high
    assert shared_confidence(1) == pytest.approx(0.95)


def test_nothing_drawn_leaves_everything_open() -> None:
    empty = paired_loss(np.zeros(0), np.zeros(0), np.zeros(0, np.int64), largest=1)
    assert empty.p_values(MARGIN) == (1.0, 1.0)
    assert decide([empty.p_values(MARGIN)]) == (Decision.OPEN,)
