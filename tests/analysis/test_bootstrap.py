"""Bootstrap intervals, held against simulations in which the truth is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter
from scipy.special import ndtr

from evalkit.analysis.blocks import FloatArray
from evalkit.analysis.bootstrap import (
    Interval,
    bootstrap_interval,
    bootstrap_percentile,
)
from evalkit.errors import EvalkitError

BASELINE, LOSS = 2.5, 0.02
TRUE_DIFFERENCE = np.exp(BASELINE + LOSS) - np.exp(BASELINE)
NORMAL, LAPLACE, STUDENT, GAMMA = stats.norm(), stats.laplace(), stats.t(5), stats.gamma(4)


def autoregression(
    rng: np.random.Generator, windows: int, rho: float, distribution: Any = NORMAL
) -> FloatArray:
    """Values of `distribution` whose normal scores are autoregressive with correlation `rho`."""
    noise = rng.standard_normal(windows + 100) * np.sqrt(1 - rho**2)
    scores = lfilter([1.0], [1.0, -rho], noise)[100:]
    return scores if distribution is NORMAL else distribution.ppf(ndtr(scores))


def perplexity_difference(totals: FloatArray) -> FloatArray:
    return np.exp(totals[:, 1] / totals[:, 2]) - np.exp(totals[:, 0] / totals[:, 2])


def mean(totals: FloatArray) -> FloatArray:
    return totals[:, 0] / totals[:, 1]


def paired_sums(
    rng: np.random.Generator, windows: int, rho: float, distribution: Any = LAPLACE
) -> FloatArray:
    """Columns of a baseline and a variant whose true perplexities differ by TRUE_DIFFERENCE."""
    tokens = rng.integers(120, 512, windows).astype(float)
    baseline = BASELINE + 0.3 * autoregression(rng, windows, rho)
    excess = autoregression(rng, windows, rho, distribution) - distribution.mean()
    loss = LOSS + 0.05 * excess
    return np.column_stack([baseline * tokens, (baseline + loss) * tokens, tokens])


def coverage(
    simulate: Callable[[np.random.Generator], Interval],
    truth: float = TRUE_DIFFERENCE,
    repetitions: int = 1000,
) -> float:
    intervals = [simulate(np.random.default_rng(seed)) for seed in range(repetitions)]
    return float(np.mean([i.low <= truth <= i.high for i in intervals]))


@pytest.mark.parametrize(
    ("windows", "rho", "distribution"),
    [
        (60, 0.5, STUDENT),
        (100, 0.3, LAPLACE),
        (200, 0.5, LAPLACE),
        (400, 0.4, STUDENT),
        (80, 0.3, GAMMA),
    ],
)
def test_covers_with_correlated_windows(windows: int, rho: float, distribution: Any) -> None:
    def simulate(rng: np.random.Generator) -> Interval:
        sums = paired_sums(rng, windows, rho, distribution)
        return bootstrap_interval(perplexity_difference, sums, resamples=1000)

    assert 0.93 <= coverage(simulate) <= 0.97


@pytest.mark.parametrize("windows", [12, 24, 40, 120])
def test_covers_with_few_and_independent_windows(windows: int) -> None:
    def simulate(rng: np.random.Generator) -> Interval:
        sums = paired_sums(rng, windows, 0.0)
        return bootstrap_interval(perplexity_difference, sums, resamples=1000)

    assert 0.93 <= coverage(simulate) <= 0.97


def test_covers_documents_of_several_windows() -> None:
    def simulate(rng: np.random.Generator) -> Interval:
        documents = np.repeat(np.arange(40), rng.integers(1, 6, 40))
        values = rng.standard_normal(len(documents)) + 0.7 * rng.standard_normal(40)[documents]
        tokens = rng.integers(100, 500, len(documents)).astype(float)
        sums = np.column_stack([values * tokens, tokens])
        return bootstrap_interval(mean, sums, groups=documents, resamples=500)

    assert 0.93 <= coverage(simulate, 0.0) <= 0.97


def test_covers_texts_that_differ_and_is_narrower_for_knowing_them() -> None:
    texts = np.repeat([0, 1], [60, 120])
    widths = []

    def simulate(rng: np.random.Generator) -> Interval:
        values = autoregression(rng, 60, 0.4)
        values = np.append(values, 3 + autoregression(rng, 120, 0.4))
        sums = np.column_stack([values, np.ones(180)])
        known = bootstrap_interval(mean, sums, strata=texts, resamples=500)
        unknown = bootstrap_interval(mean, sums, resamples=500)
        widths.append((known.high - known.low) / (unknown.high - unknown.low))
        return known

    assert 0.93 <= coverage(simulate, 2.0) <= 0.97
    assert np.median(widths) < 0.5


@pytest.mark.parametrize(("q", "windows"), [(50, 60), (95, 150), (99, 200)])
def test_percentile_covers(q: float, windows: int) -> None:
    truth = np.exp(np.sqrt(1.25) * stats.norm.ppf(q / 100))

    def simulate(rng: np.random.Generator) -> Interval:
        ids = np.repeat(np.arange(windows), 60)
        shared = 0.5 * autoregression(rng, windows, 0.4)
        values = np.exp(shared[ids] + rng.standard_normal(len(ids)))
        return bootstrap_percentile(values, ids, q, resamples=500)

    assert 0.93 <= coverage(simulate, truth, repetitions=500) <= 0.97


def test_correlated_neighbours_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    ratios = []
    for _ in range(40):
        sums = paired_sums(rng, 200, 0.5)
        ordered = bootstrap_interval(perplexity_difference, sums)
        shuffled = bootstrap_interval(perplexity_difference, rng.permutation(sums))
        ratios.append((ordered.high - ordered.low) / (shuffled.high - shuffled.low))
    # A correlation of one half multiplies the standard error by sqrt(3).
    assert 1.4 < np.median(ratios) < 2.0


def test_pairing_narrows_the_interval() -> None:
    sums = paired_sums(np.random.default_rng(0), 100, 0.3)
    paired = bootstrap_interval(perplexity_difference, sums)
    alone = bootstrap_interval(lambda totals: np.exp(totals[:, 1] / totals[:, 2]), sums)
    assert paired.high - paired.low < 0.4 * (alone.high - alone.low)


def test_many_windows_give_the_width_of_theory() -> None:
    values = np.random.default_rng(0).standard_normal(50_000)
    interval = bootstrap_interval(mean, np.column_stack([values, np.ones_like(values)]))
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / np.sqrt(50_000), rel=0.15)


def test_two_windows_give_the_width_of_students_t() -> None:
    interval = bootstrap_interval(mean, [[1.0, 1.0], [3.0, 1.0]], resamples=20_000)
    exact = stats.ttest_1samp([1.0, 3.0], 0).confidence_interval()
    assert interval.high - interval.low == pytest.approx(exact.high - exact.low, rel=0.15)


def test_equal_seeds_give_equal_bounds_and_scaling_changes_nothing() -> None:
    sums = paired_sums(np.random.default_rng(0), 50, 0.3)
    first = bootstrap_interval(perplexity_difference, sums, seed=5)
    assert bootstrap_interval(perplexity_difference, sums, seed=5) == first
    assert bootstrap_interval(perplexity_difference, sums, seed=6) != first
    scaled = bootstrap_interval(perplexity_difference, 8 * sums, seed=5)
    assert scaled.low == pytest.approx(first.low) and scaled.high == pytest.approx(first.high)


def test_a_higher_confidence_gives_a_wider_interval() -> None:
    sums = paired_sums(np.random.default_rng(0), 50, 0.3)
    narrow, wide = (
        bootstrap_interval(perplexity_difference, sums, confidence=c) for c in (0.8, 0.99)
    )
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


def test_a_share_keeps_between_zero_and_one() -> None:
    agreeing = np.full(60, 100.0)
    agreeing[[4, 30]] = [97, 99]
    interval = bootstrap_interval(mean, np.column_stack([agreeing, np.full(60, 100.0)]))
    assert interval.low < interval.estimate < interval.high <= 1


def test_a_baseline_against_itself_has_no_width() -> None:
    sums = paired_sums(np.random.default_rng(0), 30, 0.3)
    sums[:, 1] = sums[:, 0]
    assert bootstrap_interval(perplexity_difference, sums) == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize("strata", [None, [0, 0, 0, 1, 1, 1]])
def test_windows_that_are_all_equal_give_no_width(strata: list[int] | None) -> None:
    tokens = np.array([100.0, 300, 200, 100, 50, 70])
    interval = bootstrap_interval(mean, np.column_stack([2.3 * tokens, tokens]), strata=strata)
    assert interval.low == interval.estimate == interval.high == pytest.approx(2.3)


def test_equal_windows_within_each_text_give_no_width() -> None:
    sums = np.column_stack([[1.0, 1, 1, 5, 5, 5], np.ones(6)])
    interval = bootstrap_interval(mean, sums, strata=[0, 0, 0, 1, 1, 1])
    assert interval.low == interval.estimate == interval.high == 3


def test_one_window_has_no_interval() -> None:
    interval = bootstrap_interval(mean, [[3.0, 2.0]])
    assert interval.estimate == 1.5
    assert np.isnan([interval.low, interval.high]).all() and not interval.is_possible


def test_a_text_of_one_window_joins_its_neighbour() -> None:
    rng = np.random.default_rng(0)
    sums = np.column_stack([rng.standard_normal(51), np.ones(51)])
    texts = np.repeat([0, 1], [1, 50])
    assert bootstrap_interval(mean, sums, strata=texts) == bootstrap_interval(mean, sums)


def test_a_statistic_without_a_value_has_no_interval() -> None:
    sums = np.column_stack([np.arange(6.0), [0, 0, 0, 0, 0, 9.0]])
    interval = bootstrap_interval(mean, sums)
    assert interval.estimate == pytest.approx(15 / 9) and not interval.is_possible


def test_documents_of_one_window_each_may_come_in_any_order() -> None:
    rng = np.random.default_rng(1)
    sums = paired_sums(rng, 40, 0.6)
    ids = np.arange(40)
    trending = sums[np.argsort((sums[:, 1] - sums[:, 0]) / sums[:, 2])]
    alone, grouped = (
        bootstrap_interval(perplexity_difference, trending, groups=g, resamples=4000)
        for g in (None, ids)
    )
    mixed = bootstrap_interval(
        perplexity_difference, rng.permutation(sums), groups=ids, resamples=4000
    )
    assert grouped.high - grouped.low == pytest.approx(mixed.high - mixed.low, rel=0.1)
    assert alone.high - alone.low > 1.1 * (grouped.high - grouped.low)


def test_percentile_equals_numpy_and_lies_within_its_bounds() -> None:
    values = np.random.default_rng(0).exponential(size=20_000)
    ids = np.repeat(np.arange(100), 200)
    for q in (50, 90, 95, 99, 99.9):
        interval = bootstrap_percentile(values, ids, q)
        assert interval.estimate == pytest.approx(np.percentile(values, q))
        assert interval.low < interval.estimate < interval.high


def test_percentile_without_enough_tokens_beyond_it_has_no_interval() -> None:
    values = np.random.default_rng(0).exponential(size=300)
    assert not bootstrap_percentile(values, np.repeat(np.arange(30), 10), 99.9).is_possible
    assert not bootstrap_percentile(values, np.zeros(300), 50).is_possible


def test_percentile_of_equal_values_has_no_width() -> None:
    interval = bootstrap_percentile(np.zeros(100), np.repeat(np.arange(10), 10), 99)
    assert interval == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_interval(mean, np.empty((0, 2))), "at least one unit"),
        (lambda: bootstrap_interval(mean, [1.0, 2.0]), r"\(units, columns\)"),
        (lambda: bootstrap_interval(mean, [[1.0, 1], [np.nan, 1]]), "unit 1 .* not finite"),
        (lambda: bootstrap_interval(mean, [[1.0, 1]] * 3, confidence=95), "between 0 and 1"),
        (lambda: bootstrap_interval(mean, [[1.0, 1]] * 3, resamples=10), "at least 100"),
        (lambda: bootstrap_interval(mean, [[1.0, 1]] * 3, groups=[1]), "groups .* each of 3"),
        (lambda: bootstrap_percentile([], [], 50), "one finite number per token"),
        (lambda: bootstrap_percentile([1.0, 2], [0, 1], 100), "between 0 and 100"),
    ],
)
def test_bad_input_is_one_line(call: Callable, words: str) -> None:
    with pytest.raises(EvalkitError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
