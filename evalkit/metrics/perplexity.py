"""Perplexity: exp(Σ nll / Σ tokens) over all scored tokens, never a mean over windows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evalkit.analysis.gate import Limit
from evalkit.metrics._spec import Columns, TokenMetric
from evalkit.records import Column


def _nll(columns: Columns) -> NDArray[np.float32]:
    return columns["nll"]


def _perplexity(name: str, summary: str, definition: str) -> TokenMetric:
    return TokenMetric(
        name=name,
        unit="",
        direction="lower",
        version=1,
        needs=("nll",),
        column="nll",
        values=_nll,
        summary=summary,
        definition=definition,
    )


SPECS: tuple[TokenMetric, ...] = (
    _perplexity(
        "perplexity",
        "exp_mean",
        "exp of the mean negative log-likelihood of all scored tokens",
    ),
    _perplexity(
        "word_perplexity",
        "exp_per_word",
        "exp of the summed negative log-likelihood over the words of the original pages "
        "(lm-eval's word_perplexity)",
    ),
    _perplexity(
        "byte_perplexity",
        "exp_per_byte",
        "exp of the summed negative log-likelihood over the bytes of the original pages "
        "(lm-eval's byte_perplexity)",
    ),
)
COLUMNS = (Column("perplexity", "perplexity", "difference", place=50, importance=10),)
LIMITS = (
    Limit(
        "max_perplexity_increase", "perplexity", "2%", "Increase as a share of the baseline's.",
        units=("%",), judged="increase",
    ),
)  # fmt: skip
