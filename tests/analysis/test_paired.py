"""Paired task statistics, held against scipy, statsmodels, definitions and simulations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize, stats

from evalkit.analysis.blocks import FloatArray, IndexArray
from evalkit.analysis.paired import (
    PairedDifference,
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
)
from evalkit.errors import EvalkitError


def flips(
    rng: np.random.Generator, n: int, discordance: float, delta: float
) -> tuple[IndexArray, IndexArray]:
    """Scores of 0 and 1 of two variants with this share of flips and true difference."""
    draw = rng.random(n)
    lost, gained = draw < (discordance - delta) / 2, draw > 1 - (discordance + delta) / 2
    return np.where(gained, 0, 1), np.where(lost, 0, 1)


def scores(both: int, lost: int, gained: int, neither: int) -> tuple[IndexArray, IndexArray]:
    counts = [both, lost, gained, neither]
    return np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)


def covered(simulate: Callable[[np.random.Generator], PairedDifference], truth: float) -> float:
    found = [simulate(np.random.default_rng(seed)) for seed in range(1000)]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


def test_the_numbers_of_a_small_table() -> None:
    paired = paired_difference(*scores(both=60, lost=9, gained=3, neither=28))
    assert (paired.n, paired.right_to_wrong, paired.wrong_to_right) == (100, 9, 3)
    assert (paired.baseline_mean, paired.variant_mean) == (0.69, 0.63)
    assert paired.delta == pytest.approx(-0.06)
    assert paired.standard_error == pytest.approx(np.sqrt(0.12 - 0.06**2) / 10)
    assert paired.discordance == pytest.approx(0.12)
    assert paired.mcnemar_p == paired.p_value == pytest.approx(0.145996, abs=1e-6)
    assert paired.interval.low == paired.low < -0.06 < paired.high


@pytest.mark.parametrize("lost", [0, 1, 4, 9, 40])
@pytest.mark.parametrize("gained", [0, 1, 3, 25])
def test_mcnemar_equals_scipy(lost: int, gained: int) -> None:
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("lost", "gained"), [(0, 5), (12, 3), (40, 38)])
def test_mcnemar_equals_statsmodels(lost: int, gained: int) -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    expected = tables.mcnemar([[50, lost], [gained, 20]], exact=True).pvalue
    assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("lost", "gained", "n"), [(5, 1, 60), (0, 4, 50), (30, 22, 200)])
def test_bounds_are_the_differences_the_score_test_just_accepts(
    lost: int, gained: int, n: int
) -> None:
    paired = paired_difference(*scores(n - lost - gained, lost, gained, 0))
    for bound in (paired.low, paired.high):
        # The shares most likely under the bound, found by maximising the likelihood itself.
        def unlikelihood(share: float, bound: float = bound) -> float:
            rest = 1 - 2 * share - bound
            counts = np.array([lost, gained, n - lost - gained])
            return -float(counts @ np.log(np.maximum([share, share + bound, rest], 1e-300)))

        limits = (max(0.0, -bound), (1 - bound) / 2)
        share = optimize.minimize_scalar(
            unlikelihood, bounds=limits, method="bounded", options={"xatol": 1e-12}
        ).x
        score = (paired.delta - bound) / np.sqrt((2 * share + bound - bound**2) / n)
        assert abs(score) == pytest.approx(stats.norm.ppf(0.975), rel=1e-3)


@pytest.mark.parametrize(
    ("n", "discordance", "delta"),
    [(60, 0.12, 0.0), (100, 0.1, -0.03), (200, 0.04, 0.0), (500, 0.06, -0.01), (500, 0.2, 0.02)],
)
def test_covers_the_true_difference(n: int, discordance: float, delta: float) -> None:
    share = covered(lambda rng: paired_difference(*flips(rng, n, discordance, delta)), delta)
    assert 0.93 <= share <= 0.97


def test_real_scores_cover_and_equal_the_paired_t_test() -> None:
    def simulate(rng: np.random.Generator) -> PairedDifference:
        baseline = rng.beta(2, 2, 40)
        return paired_difference(baseline, baseline - 0.02 + 0.1 * rng.standard_t(5, 40))

    assert 0.93 <= covered(simulate, -0.02) <= 0.97
    rng = np.random.default_rng(0)
    baseline, variant = rng.random(25), rng.random(25)
    paired, expected = paired_difference(baseline, variant), stats.ttest_rel(variant, baseline)
    assert paired.p_value == pytest.approx(expected.pvalue)
    assert (paired.low, paired.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert paired.mcnemar_p is paired.right_to_wrong is paired.wrong_to_right is None


def clustered(rng: np.random.Generator, discordance: float = 0.1) -> tuple[FloatArray, ...]:
    """500 items in 50 clusters, three of ten items copying the fate of their cluster."""
    clusters = np.repeat(np.arange(50), 10)
    draw = np.where(rng.random(500) < 0.3, rng.random(50)[clusters], rng.random(500))
    lost, gained = draw < discordance / 2, draw > 1 - discordance / 2
    return np.where(gained, 0, 1), np.where(lost, 0, 1), clusters


def test_clusters_widen_the_interval_so_that_it_covers() -> None:
    assert 0.93 <= covered(lambda rng: paired_difference(*clustered(rng)), 0.0) <= 0.97
    widths = []
    for seed in range(50):
        baseline, variant, clusters = clustered(np.random.default_rng(seed))
        blind, aware = (paired_difference(baseline, variant, c) for c in (None, clusters))
        widths.append((aware.high - aware.low) / (blind.high - blind.low))
        assert aware.p_value >= blind.p_value == aware.mcnemar_p
    assert 1.1 < np.median(widths) < 1.6


def test_clustered_errors_equal_their_definition() -> None:
    baseline, variant, clusters = clustered(np.random.default_rng(1))
    paired = paired_difference(baseline, variant, clusters)
    residual = variant - baseline - paired.delta
    totals = [residual[clusters == c].sum() for c in range(50)]
    assert paired.standard_error == pytest.approx(np.sqrt(50 / 49 * np.square(totals).sum()) / 500)
    alone = paired_difference(baseline, variant, np.arange(500))
    assert alone == paired_difference(baseline, variant)
    names = np.array([f"passage {c}" for c in clusters])
    assert paired_difference(baseline, variant, names) == paired


@pytest.mark.parametrize("n", [50, 500, 5000])
def test_no_flip_is_no_proof_of_no_difference(n: int) -> None:
    paired = paired_difference(np.ones(n), np.ones(n))
    z = stats.norm.ppf(0.975) ** 2
    assert paired.high == pytest.approx(z / (n + z)) and paired.low == pytest.approx(-z / (n + z))
    assert (paired.delta, paired.standard_error, paired.p_value) == (0, 0, 1)


def test_real_scores_without_a_change_have_a_width_in_their_unit() -> None:
    shares = np.random.default_rng(0).random(100)
    binary = paired_difference(np.ones(100), np.ones(100))
    assert paired_difference(shares, shares).high == pytest.approx(binary.high)
    percents = np.append(100 * shares[:98], [0, 100])
    assert paired_difference(percents, percents).high == pytest.approx(100 * binary.high)


@pytest.mark.parametrize("item", [(1, 0), (0, 1), (1, 1)])
def test_every_item_the_same_keeps_within_range(item: tuple[int, int]) -> None:
    paired = paired_difference([item[0]] * 8, [item[1]] * 8)
    assert -1 <= paired.low <= paired.delta <= paired.high <= 1
    assert paired.low < paired.high


def test_one_cluster_or_one_real_score_has_no_interval() -> None:
    assert not paired_difference([0.2], [0.4]).interval.is_possible
    assert not paired_difference([1, 0, 1], [1, 1, 1], [7, 7, 7]).interval.is_possible
    assert not mean_interval([1, 0, 1], [7, 7, 7]).is_possible
    assert not mean_interval([0.5]).is_possible


@pytest.mark.parametrize(("right", "n"), [(0, 20), (13, 20), (20, 20), (371, 500)])
def test_accuracy_interval_equals_scipys_wilson(right: int, n: int) -> None:
    interval = mean_interval(np.arange(n) < right)
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert interval.estimate == right / n
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_mean_of_real_scores_equals_students_t() -> None:
    values = np.random.default_rng(0).random(30)
    interval = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_clustered_accuracy_covers() -> None:
    hits = 0
    clusters = np.repeat(np.arange(60), 5)
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        draw = np.where(rng.random(300) < 0.6, rng.random(60)[clusters], rng.random(300))
        interval = mean_interval(draw < 0.7, clusters)
        hits += interval.low <= 0.7 <= interval.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_holm_of_a_worked_example_in_any_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.005, 0.01, 0.03, 0.04]) == pytest.approx((0.02, 0.03, 0.06, 0.06))
    assert holm([0.4, 0.9]) == (0.8, 0.9)
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([0.03]) == (0.03,)
    assert holm([]) == ()


def test_holm_equals_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    values = np.random.default_rng(0).random(12) ** 3
    assert holm(list(values)) == pytest.approx(multitest.multipletests(values, method="holm")[1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: paired_difference([], []), "one finite number per item"),
        (lambda: paired_difference([1, 0], [1]), "2 baseline and 1 variant"),
        (lambda: paired_difference([1, np.nan], [1, 1]), "baseline scores .* one finite number"),
        (lambda: paired_difference([1, 0], [1, 1], [0]), "one id for each of 2 items"),
        (lambda: paired_difference([1, 0], [1, 1], confidence=95), "between 0 and 1"),
        (lambda: mean_interval([0.5, 0.6], confidence=0), "between 0 and 1"),
        (lambda: mean_interval([[1, 0]]), "one finite number per item"),
        (lambda: holm([0.1, 1.2]), "between 0 and 1"),
        (lambda: holm([0.1, np.nan]), "between 0 and 1"),
    ],
)
def test_bad_input_is_one_line(call: Callable, words: str) -> None:
    with pytest.raises(EvalkitError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
