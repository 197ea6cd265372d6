"""From raw values to a number with its interval: the folds that measurements name.

Token metrics are folded from sums over windows, resampled in blocks with the same windows for
baseline and variant (paired); speeds from the samples of their repetitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalkit.analysis.bootstrap import Interval, bootstrap_interval, bootstrap_percentile
from evalkit.analysis.perplexity_interval import exp_of, perplexity_interval

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]

# Folds of sums have a paired difference; percentiles and extremes of a divergence are themselves
# differences from the baseline.
PAIRED_SUMMARIES = ("exp_mean", "exp_per_word", "exp_per_byte")


@dataclass(frozen=True)
class TokenTable:
    """Per-token values of one pass and the windows they belong to.

    `windows` has one row a window: slice, document, words, bytes, scored (tokens) and, for each
    column c of the pass, sum_c and square_c. `tokens` reads one per-token column on demand.
    """

    windows: Columns
    tokens: Callable[[str], NDArray[Any]]

    def select(self, slice_index: int | None) -> NDArray[np.bool_]:
        """Mask of the windows that were scored and belong to the slice (None: all)."""
        mask: NDArray[np.bool_] = self.windows["scored"] > 0
        return mask if slice_index is None else mask & (self.windows["slice"] == slice_index)

    def restricted(self, sample: TokenTable) -> TokenTable:
        """This pass with only the windows that `sample`, another pass over them, scored."""
        scored = np.where(sample.windows["scored"] > 0, self.windows["scored"], 0)
        return TokenTable({**self.windows, "scored": scored}, self.tokens)


def summarise(
    table: TokenTable, column: str, summary: str, slice_index: int | None = None
) -> Interval:
    """Fold `column` by `summary`: mean, exp_mean, exp_per_word, exp_per_byte, rms, max, pNN."""
    mask = table.select(slice_index)
    if summary == "max" or summary.startswith("p"):
        return _percentile(table, column, summary, mask)
    numerator = f"square_{column}" if summary == "rms" else f"sum_{column}"
    sums = _sums(table, mask, numerator, _weight(summary))
    if summary in PAIRED_SUMMARIES:
        return perplexity_interval(sums, **_blocks(table, mask))
    return bootstrap_interval(_fold(summary), sums, **_blocks(table, mask))


def paired_delta(
    baseline: TokenTable,
    variant: TokenTable,
    column: str,
    summary: str,
    slice_index: int | None = None,
) -> Interval:
    """Interval of variant − baseline of a fold of sums, over the same resampled windows."""
    mask = baseline.select(slice_index)
    fold = _fold(summary)
    sums = np.column_stack(
        [
            baseline.windows[f"sum_{column}"][mask],
            variant.windows[f"sum_{column}"][mask],
            _weights(baseline, _weight(summary))[mask],
        ]
    ).astype(np.float64)

    def difference(totals: Floats) -> Floats:
        return fold(totals[:, [1, 2]]) - fold(totals[:, [0, 2]])

    return bootstrap_interval(difference, sums, **_blocks(baseline, mask))


def correlation(baseline: NDArray[Any], variant: NDArray[Any]) -> float:
    """Pearson correlation of the two passes' negative log-likelihoods, token by token."""
    if len(baseline) < 2 or np.ptp(baseline) == 0 or np.ptp(variant) == 0:
        return math.nan
    return float(np.corrcoef(baseline, variant)[0, 1])


def _fold(summary: str) -> Callable[[Floats], Floats]:
    if summary == "mean":
        return lambda totals: totals[:, 0] / totals[:, 1]
    if summary in ("exp_mean", "exp_per_word", "exp_per_byte"):
        return lambda totals: exp_of(totals[:, 0] / totals[:, 1])
    if summary == "rms":
        return lambda totals: np.sqrt(totals[:, 0] / totals[:, 1])
    raise ValueError(f"unknown summary {summary!r}")


def _weight(summary: str) -> str:
    return {"exp_per_word": "words", "exp_per_byte": "bytes"}.get(summary, "scored")


def _sums(table: TokenTable, mask: NDArray[np.bool_], numerator: str, weight: str) -> Floats:
    columns = [table.windows[numerator][mask], _weights(table, weight)[mask]]
    return np.column_stack(columns).astype(np.float64)


def _weights(table: TokenTable, name: str) -> Floats:
    """What each window counts for in a denominator.

    Words and bytes are known of whole documents and stand on their last windows; for resampling
    windows each gets the share of its scored tokens, which leaves every document's total as it is.
    """
    weights: Floats = table.windows[name].astype(np.float64)
    if name == "scored":
        return weights
    document, scored = table.windows["document"], table.windows["scored"]
    totals = np.bincount(document, weights)
    tokens = np.maximum(1, np.bincount(document, scored))
    share: Floats = (totals / tokens)[document] * scored
    return share


def _blocks(table: TokenTable, mask: NDArray[np.bool_]) -> dict[str, Any]:
    return {"groups": table.windows["document"][mask], "strata": table.windows["slice"][mask]}


def _percentile(table: TokenTable, column: str, summary: str, mask: NDArray[np.bool_]) -> Interval:
    window = table.tokens("window")
    inside = mask[window]
    values, window = table.tokens(column)[inside], window[inside]
    if summary == "max":
        return Interval(float(values.max()), math.nan, math.nan)
    q = float(summary.removeprefix("p"))
    return bootstrap_percentile(values, window, q, **_blocks(table, mask))
