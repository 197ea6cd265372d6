"""What each divergence takes from the engine's statistics."""

from __future__ import annotations

import numpy as np
import pytest

from evalkit.metrics import divergence

SPECS = {spec.name: spec for spec in divergence.SPECS}
COLUMNS = {
    name: np.linspace(-1, 1, 5, dtype=np.float32) + i
    for i, name in enumerate(("nll", "ref_nll", "kl", "tv", "delta_p", "same_top1"))
}


@pytest.mark.parametrize(
    ("name", "statistic", "summary", "direction"),
    [
        ("kl_divergence_mean", "kl", "mean", "lower"),
        ("kl_divergence_median", "kl", "p50", "lower"),
        ("kl_divergence_p90", "kl", "p90", "lower"),
        ("kl_divergence_p95", "kl", "p95", "lower"),
        ("kl_divergence_p99", "kl", "p99", "lower"),
        ("kl_divergence_p999", "kl", "p99.9", "lower"),
        ("kl_divergence_max", "kl", "max", "lower"),
        ("delta_p_mean", "delta_p", "mean", "none"),
        ("delta_p_rms", "delta_p", "rms", "lower"),
        ("delta_p_p1", "delta_p", "p1", "none"),
        ("delta_p_median", "delta_p", "p50", "none"),
        ("delta_p_p99", "delta_p", "p99", "none"),
        ("top1_agreement", "same_top1", "mean", "higher"),
        ("total_variation", "tv", "mean", "lower"),
    ],
)
def test_values_are_the_engines_statistic(
    name: str, statistic: str, summary: str, direction: str
) -> None:
    spec = SPECS[name]
    np.testing.assert_array_equal(spec.values(COLUMNS), COLUMNS[statistic])
    assert (spec.needs, spec.summary, spec.direction) == ((statistic,), summary, direction)


def test_log_perplexity_ratio_is_the_variants_nll_minus_the_baselines() -> None:
    spec = SPECS["log_perplexity_ratio"]
    assert spec.summary == "mean"
    np.testing.assert_array_equal(spec.values(COLUMNS), COLUMNS["nll"] - COLUMNS["ref_nll"])
    assert set(spec.needs) == {"nll", "ref_nll"}


def test_metrics_of_one_column_share_its_values() -> None:
    for spec in divergence.SPECS:
        same = next(other for other in divergence.SPECS if other.column == spec.column)
        np.testing.assert_array_equal(spec.values(COLUMNS), same.values(COLUMNS))
