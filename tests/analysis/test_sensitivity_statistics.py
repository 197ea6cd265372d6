"""The statistics of a damage map, of made-up tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evalkit.analysis.sensitivity import (
    additivity,
    additivity_words,
    control_words,
    damage_sums,
    mean_divergence,
    mean_of_windows,
    open_ranks,
    perplexity_change,
    rank_correlation,
    unit_sums,
)
from evalkit.analysis.summaries import TokenTable

WINDOWS, TOKENS = 12, 128


def table(kl: Any, nll: Any = 2.0, windows: int = WINDOWS) -> TokenTable:
    """A pass over windows of TOKENS tokens; `kl` is one value a token, or one for all."""
    count = windows * TOKENS
    columns = {
        "window": np.repeat(np.arange(windows), TOKENS),
        "kl": np.broadcast_to(np.asarray(kl, float), count).astype(np.float32),
        "nll": np.broadcast_to(np.asarray(nll, float), count).astype(np.float32),
    }
    folded = {f"sum_{name}": np.bincount(columns["window"], columns[name], windows)
              for name in ("kl", "nll")}  # fmt: skip
    of_windows = {"slice": np.zeros(windows, int), "document": np.arange(windows),
                  "scored": np.full(windows, TOKENS), **folded}  # fmt: skip
    return TokenTable(of_windows, columns.__getitem__)


def noisy(mean: float, seed: int) -> Any:
    return np.random.default_rng(seed).gamma(2.0, mean / 2, WINDOWS * TOKENS)


def test_the_sum_over_the_whole_says_what_it_means() -> None:
    assert additivity([0.1, 0.2], 0.3, 1e-6) == pytest.approx(1.0)
    assert additivity([1e-7], 2e-6, 1e-6) is None
    assert "predicted by its sum" in additivity_words(1.05)
    assert "make up for each other" in additivity_words(1.6)
    assert "more than the map predicts" in additivity_words(0.5)
    assert "no ratio" in additivity_words(None)
    assert control_words(3.0, 1.0) == "better rounding"
    assert control_words(1.0, 1.0) == "more bits"
    assert control_words(0.3, 1.0) == "well rounded"


def test_a_restored_piece_is_what_the_whole_loses_by_it_and_may_be_negative() -> None:
    whole, helped, harmed = table(0.5), table(0.4), table(0.6)
    assert damage_sums(helped, whole).sum() == pytest.approx(0.1 * WINDOWS * TOKENS, rel=1e-5)
    assert damage_sums(harmed, whole).sum() < 0
    assert perplexity_change(table(0, 2.1), table(0, 2.0)) == pytest.approx(
        np.exp(2.1) - np.exp(2.0), rel=1e-5
    )


def test_few_tokens_are_uncertain_by_the_noise_floor_alone() -> None:
    few = table(0.25, windows=2)
    found = mean_divergence(few, unit_sums(few), 1e-3)
    assert (found.low, found.high) == pytest.approx((0.249, 0.251))
    many = table(noisy(0.25, 1))
    found = mean_divergence(many, unit_sums(many), 1e-3)
    assert found.low < found.estimate < found.high and found.high - found.low > 2e-3


def test_text_is_spent_on_pieces_whose_rank_is_open() -> None:
    damage = {
        "far": table(noisy(1.0, 1)), "one": table(noisy(0.1, 2)), "other": table(noisy(0.1, 3)),
        "small": table(noisy(1e-4, 4)), "smaller": table(noisy(1e-4, 5)),
    }  # fmt: skip
    sums = {name: unit_sums(one) for name, one in damage.items()}
    assert open_ranks(damage["far"], sums) == {"one", "other"}
    few = {name: table(value, windows=2) for name, value in (("a", 1.0), ("b", 0.1))}
    assert open_ranks(few["a"], {name: unit_sums(one) for name, one in few.items()}) == {"a", "b"}


def test_ranks_are_compared_where_there_are_three_that_differ() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_means_of_windows_have_an_interval_where_there_are_enough() -> None:
    tokens = np.full(20, 64)
    found = mean_of_windows(np.random.default_rng(0).gamma(2.0, 3.2, 20), tokens)
    assert found.low < found.estimate < found.high
    few = mean_of_windows(np.array([6.4, 6.4]), np.array([64, 64]))
    assert few.low == few.estimate == few.high == pytest.approx(0.1)
