"""How far a variant's predictions are from the baseline's on the same tokens.

p and q are the full distributions of baseline and variant, a and b the negative log-likelihoods
of the true token under them. Definitions: the perplexity program of llama.cpp (KL divergence, Δp,
same top token); 1 − total variation is the acceptance rate of speculative decoding with the
variant as draft (Leviathan et al. 2023). Around the noise floor a divergence tells how much
changed, not in which direction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evalkit.analysis.gate import Limit
from evalkit.metrics._spec import Columns, TokenMetric
from evalkit.records import Column, Direction

Values = Callable[[Columns], NDArray[np.float32]]


def _column(name: str) -> Values:
    return lambda columns: columns[name]


def _log_ratio(columns: Columns) -> NDArray[np.float32]:
    return columns["nll"] - columns["ref_nll"]


def _metric(
    name: str,
    column: str,
    summary: str,
    definition: str,
    *,
    unit: str = "",
    direction: Direction = "lower",
    needs: tuple[str, ...] = (),
    values: Values | None = None,
) -> TokenMetric:
    return TokenMetric(
        name=name,
        unit=unit,
        direction=direction,
        version=1,
        needs=needs or (column,),
        column=column,
        values=values or _column(column),
        summary=summary,
        definition=definition,
    )


def _kl(suffix: str, summary: str, words: str) -> TokenMetric:
    definition = f"{words} over scored tokens of the KL divergence Σ p (ln p − ln q)"
    return _metric(f"kl_divergence_{suffix}", "kl", summary, definition, unit="nats")


def _delta_p(suffix: str, summary: str, words: str, direction: Direction = "none") -> TokenMetric:
    definition = f"{words} over scored tokens of Δp = q(true token) − p(true token)"
    return _metric(f"delta_p_{suffix}", "delta_p", summary, definition, direction=direction)


SPECS: tuple[TokenMetric, ...] = (
    _kl("mean", "mean", "mean"),
    _kl("median", "p50", "median"),
    _kl("p90", "p90", "90th percentile"),
    _kl("p95", "p95", "95th percentile"),
    _kl("p99", "p99", "99th percentile"),
    _kl("p999", "p99.9", "99.9th percentile"),
    _kl("max", "max", "maximum"),
    _delta_p("mean", "mean", "mean"),
    _delta_p("rms", "rms", "root mean square", "lower"),
    _delta_p("p1", "p1", "1st percentile"),
    _delta_p("p5", "p5", "5th percentile"),
    _delta_p("median", "p50", "median"),
    _delta_p("p95", "p95", "95th percentile"),
    _delta_p("p99", "p99", "99th percentile"),
    _metric(
        "top1_agreement",
        "same_top1",
        "mean",
        "share of scored tokens at which p and q have the same most probable token",
        direction="higher",
    ),
    _metric(
        "total_variation",
        "tv",
        "mean",
        "mean over scored tokens of the total variation ½ Σ |p − q|",
    ),
    _metric(
        "log_perplexity_ratio",
        "log_ratio",
        "mean",
        "ln of the variant's perplexity over the baseline's: mean of b − a over scored tokens",
        unit="nats",
        needs=("nll", "ref_nll"),
        values=_log_ratio,
    ),
)
COLUMNS = (
    Column("kl_divergence_mean", "KL", "divergence", place=60, importance=40),
    Column("top1_agreement", "top-1", "agreement", place=70, importance=70),
)
LIMITS = (
    Limit("max_kl", "kl_divergence_mean", "0.05", "Mean KL divergence, in nats."),
    Limit(
        "min_top1", "top1_agreement", "97%", "Share of tokens with the baseline's top token.",
        units=("%",), at_least=True,
    ),
)  # fmt: skip
