"""Perplexity is folded from tokens, not from windows."""

from __future__ import annotations

import numpy as np

from evalkit import plugins
from evalkit.metrics import TokenMetric, perplexity

SPECS = {spec.name: spec for spec in perplexity.SPECS}


def test_the_values_are_the_tokens_negative_log_likelihoods() -> None:
    nll = np.array([1.0, 2.0, 4.5], np.float32)
    for spec in perplexity.SPECS:
        np.testing.assert_array_equal(spec.values({"nll": nll}), nll)
        assert spec.column == "nll"
        assert spec.direction == "lower"


def test_perplexity_divides_by_tokens_and_the_others_by_words_and_bytes() -> None:
    assert {name: spec.summary for name, spec in SPECS.items()} == {
        "perplexity": "exp_mean",
        "word_perplexity": "exp_per_word",
        "byte_perplexity": "exp_per_byte",
    }


def test_the_engine_offers_what_token_metrics_need() -> None:
    for name in ("perplexity", "divergence"):
        for spec in plugins.load("metrics", name).SPECS:
            assert isinstance(spec, TokenMetric)
            assert set(spec.needs) <= set(plugins.names("statistics"))
