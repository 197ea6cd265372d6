"""Planned numbers of items and effects, held against simulated tasks of that size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evalkit.analysis.paired import PairedDifference, paired_difference
from evalkit.analysis.power import items_needed
from evalkit.errors import EvalkitError


def share(
    n: int, discordance: float, delta: float, holds: Callable[[PairedDifference], bool]
) -> float:
    """Share of 1000 simulated tasks whose paired difference `holds`."""
    rng = np.random.default_rng(0)
    found = 0
    for lost, gained, _ in rng.multinomial(
        n, [(discordance - delta) / 2, (discordance + delta) / 2, 1 - discordance], size=1000
    ):
        baseline = np.ones(n)
        baseline[:gained] = 0
        variant = np.ones(n)
        variant[n - lost :] = 0
        found += holds(paired_difference(baseline, variant))
    return found / 1000


@pytest.mark.parametrize(
    ("margin", "discordance", "delta"),
    [
        (0.01, 0.02, 0.0),
        (0.01, 0.05, 0.0),
        (0.02, 0.1, 0.0),
        (0.02, 0.1, -0.005),
        (0.02, 0.1, 0.01),
        (0.03, 0.2, 0.0),
        (0.05, 0.03, 0.0),
    ],
)
def test_items_needed_give_the_stated_power(
    margin: float, discordance: float, delta: float
) -> None:
    n = items_needed(margin, discordance, delta=delta, power=0.8)
    assert n is not None
    assert 0.75 <= share(n, discordance, delta, lambda paired: paired.low > -margin) <= 0.85


def test_a_higher_power_is_kept_too() -> None:
    n = items_needed(0.02, 0.08, power=0.9)
    assert n is not None
    assert 0.85 <= share(n, 0.08, 0.0, lambda paired: paired.low > -0.02) <= 0.95


def test_real_scores_need_items_by_their_variance() -> None:
    n = items_needed(0.02, 0.1**2, is_binary=False)
    assert n is not None
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(1000):
        baseline = rng.random(n)
        found += paired_difference(baseline, baseline + 0.1 * rng.standard_normal(n)).low > -0.02
    assert 0.75 <= found / 1000 <= 0.85


def test_an_assumed_loss_beyond_the_margin_needs_more_than_any_number() -> None:
    assert items_needed(0.01, 0.1, delta=-0.01) is None
    assert items_needed(0.01, 0.1, delta=-0.02) is None
    close, none = items_needed(0.01, 0.1, delta=-0.009), items_needed(0.01, 0.1)
    assert close is not None and none is not None and close > 50 * none


def test_clusters_multiply_and_flips_raise_the_number() -> None:
    one, two = items_needed(0.01, 0.05), items_needed(0.01, 0.05, design_effect=2)
    assert one is not None and two is not None and abs(two - 2 * one) <= 1
    assert items_needed(0.01, 0.0) == 381
    counts = [items_needed(0.01, discordance) or 0 for discordance in (0, 0.02, 0.05, 0.2)]
    assert counts == sorted(counts)


def test_the_method_plans_with_what_was_seen() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.random(400) < 0.7
    variant = np.where(rng.random(400) < 0.08, ~baseline, baseline)
    paired = paired_difference(baseline, variant)
    assert paired.items_needed(0.01) == items_needed(0.01, paired.discordance)
    assert paired.items_needed(0.03, delta=paired.delta, power=0.9) == items_needed(
        0.03, paired.discordance, delta=paired.delta, power=0.9
    )
    real = paired_difference(baseline * 0.5, variant * 0.5)
    assert real.items_needed(0.01) == items_needed(0.01, real.discordance, is_binary=False)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: items_needed(0.0, 0.1), "margin 0.0: it must be above 0"),
        (lambda: items_needed(0.01, -0.1), "discordance -0.1"),
        (lambda: items_needed(0.01, 0.1, power=80), "power 80"),
        (lambda: items_needed(0.01, 0.1, confidence=1), "confidence 1"),
        (lambda: items_needed(0.01, 0.1, design_effect=0.5), "design effect 0.5"),
    ],
)
def test_bad_input_is_one_line(call: Callable, words: str) -> None:
    with pytest.raises(EvalkitError, match=words):
        call()
