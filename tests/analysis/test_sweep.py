"""Batch sweeps, knees, and intervals over rounds."""

from __future__ import annotations

import math
import random

import pytest

from evalkit.analysis import sweep


def throughput(batch: int, limit: float = 100.0, most: float = 1000.0) -> float:
    """A roofline: linear until `most`, then flat."""
    return min(limit * batch, most)


def swept(speed, *, most: int = 512, fits: int = 10**9) -> tuple[list[int], dict[int, float]]:  # type: ignore[no-untyped-def]
    measured: dict[int, float] = {}
    order: list[int] = []
    failed = None
    while (batch := sweep.next_batch(measured, most=most, failed=failed)) is not None:
        order.append(batch)
        if batch > fits:
            failed = batch
        else:
            measured[batch] = speed(batch)
    return order, measured


def test_a_sweep_doubles_to_the_knee_and_refines_it_once() -> None:
    order, measured = swept(throughput)
    assert order == [1, 2, 4, 8, 16, 32, 24]
    assert sweep.knee(measured) == 16


def test_a_sweep_refines_towards_what_does_not_fit() -> None:
    order, measured = swept(float, fits=11)
    assert order == [1, 2, 4, 8, 16, 12]
    assert sweep.knee(measured) == 8


def test_a_sweep_ends_at_once_where_nothing_fits_or_nothing_is_gained() -> None:
    assert swept(throughput, fits=0)[0] == [1]
    assert swept(lambda batch: 5.0)[0] == [1, 2]
    assert swept(float, most=4)[0] == [1, 2, 4]


def test_the_knee_is_five_percent_for_a_quarter_more() -> None:
    exponent = math.log(1.05) / math.log(1.25)
    above, below = (lambda b, e=exponent + d: b**e for d in (0.01, -0.01))
    assert sweep.knee({1: above(1), 2: above(2)}) == 2
    assert sweep.knee({1: below(1), 2: below(2)}) == 1


def test_intervals_cover_and_a_variant_is_not_faster_than_itself() -> None:
    generator = random.Random(0)
    covered = agree = called = faster = 0
    repeats = 1000
    for _ in range(repeats):
        runs = [[100 * math.exp(generator.gauss(0, 0.04)) for _ in range(5)] for _ in range(2)]
        bounds = [sweep.interval(run) for run in runs]
        covered += bounds[0][0] <= 100 <= bounds[0][1]
        agree += bounds[0][0] <= bounds[1][1] and bounds[1][0] <= bounds[0][1]
        called += sweep.verdict(*runs) != ""
        faster += sweep.verdict([1.3 * value for value in runs[0]], runs[1]) == "faster"
    assert 0.93 <= covered / repeats <= 0.97
    assert agree / repeats >= 0.95
    assert called / repeats <= 0.002
    assert faster / repeats >= 0.9


def test_a_clear_difference_is_called_by_its_direction() -> None:
    rounds, slower = [100.0, 101.0, 99.0, 100.0], [80.0, 81.0, 79.5, 80.0]
    assert sweep.verdict(rounds, slower) == "faster"
    assert sweep.verdict(slower, rounds) == "slower"
    assert sweep.verdict([103.0, 104.0, 102.0, 103.0], rounds) == ""


@pytest.mark.parametrize("rounds", [[3.0], [3.0, 3.1]])
def test_one_round_or_two_have_no_interval(rounds: list[float]) -> None:
    assert sweep.interval(rounds) is None
    assert sweep.ratio(rounds, rounds) is None
    assert sweep.verdict([6.0] * len(rounds), rounds) == ""


def test_percentiles_lie_between_neighbours() -> None:
    assert sweep.percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert sweep.percentile([1.0], 99) == 1.0
    assert sweep.percentile(list(map(float, range(101))), 95) == pytest.approx(95)


def test_unsteady_is_a_deviation_of_a_tenth() -> None:
    assert sweep.is_unsteady([1.0, 1.3])
    assert not sweep.is_unsteady([1.0, 1.01])
    assert not sweep.is_unsteady([1.0])
