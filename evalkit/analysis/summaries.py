"""From raw values to a number with its interval: the folds that measurements name.

Token metrics are folded from sums over windows; their intervals come from the sums over shorter
units, resampled with the same units for baseline and variant (paired).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalkit.analysis.bootstrap import Interval, bootstrap_interval, bootstrap_percentile
from evalkit.analysis.units import Units, cut_units
from evalkit.records import Claim

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]

# Folds of sums have a paired difference; percentiles and extremes of a divergence are themselves
# differences from the baseline.
PAIRED_SUMMARIES = ("exp_mean", "exp_per_word", "exp_per_byte")
CONFIDENT = 1.959964  # two-sided 95 % of the normal distribution
_LARGEST = 700.0


@dataclass(frozen=True)
class TokenTable:
    """Per-token values of one pass and the windows they belong to.

    `windows` has one row a window: slice, document, words, bytes, scored (tokens) and, for each
    column c of the pass, sum_c and square_c. `tokens` reads one per-token column on demand.
    """

    windows: Columns
    tokens: Callable[[str], NDArray[Any]]
    _units: dict[int | None, Units] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def select(self, slice_index: int | None) -> NDArray[np.bool_]:
        """Mask of the windows that were scored and belong to the slice (None: all)."""
        mask: NDArray[np.bool_] = self.windows["scored"] > 0
        return mask if slice_index is None else mask & (self.windows["slice"] == slice_index)

    def units(self, slice_index: int | None) -> Units:
        """The units of the windows that were scored and belong to the slice (None: all)."""
        if slice_index not in self._units:
            document, text = self.windows["document"], self.windows["slice"]
            chosen = self.select(slice_index)
            self._units[slice_index] = cut_units(self.tokens("window"), chosen, document, text)
        return self._units[slice_index]

    def restricted(self, sample: TokenTable) -> TokenTable:
        """This pass with only the windows that `sample`, another pass over them, scored."""
        scored = np.where(sample.windows["scored"] > 0, self.windows["scored"], 0)
        return TokenTable({**self.windows, "scored": scored}, self.tokens)


def summarise(
    table: TokenTable, column: str, summary: str, slice_index: int | None = None
) -> Interval:
    """Fold `column` by `summary`: mean, exp_mean, exp_per_word, exp_per_byte, rms, max, pNN.

    The interval is as wide as the claim of the units asks for; about these tokens it has no width.
    The bounds of a perplexity are those of its logarithm, where its distribution is nearly
    symmetric, raised to e: so it is never below 1.
    """
    units = table.units(slice_index)
    if summary == "max" or summary.startswith("p"):
        return _percentile(table.tokens(column)[units.inside], summary, units)
    values = table.tokens(column).astype(np.float64)
    of_units = units.sums(values**2 if summary == "rms" else values)
    mask = table.select(slice_index)
    total = table.windows[f"{'square' if summary == 'rms' else 'sum'}_{column}"][mask].sum()
    mean = _ratio_interval(total, of_units, _weights(table, summary), units, mask)
    if summary in PAIRED_SUMMARIES:
        bounds = np.maximum([mean.low, mean.high], 0.0)
        return Interval(float(exp_of(mean.estimate)), *map(float, exp_of(bounds)))
    if summary == "rms":
        return Interval(*(math.sqrt(max(0.0, x)) for x in (mean.estimate, mean.low, mean.high)))
    return mean


def paired_delta(
    baseline: TokenTable,
    variant: TokenTable,
    column: str,
    summary: str,
    slice_index: int | None = None,
) -> Interval:
    """Interval of variant − baseline of an exponential fold, over the same units.

    What is uncertain is how much likelier the tokens are under one of them: the interval of the
    mean paired difference in nats, carried to the baseline's value on this text. How hard the text
    itself is, which moves both alike, stands with the values and widens no difference.
    """
    units = baseline.units(slice_index)
    mask = baseline.select(slice_index)
    weights = _weights(baseline, summary)
    theirs, own = (t.windows[f"sum_{column}"][mask].sum() for t in (variant, baseline))
    of_units = variant.units(slice_index).sums(variant.tokens(column))
    of_units -= units.sums(baseline.tokens(column))
    ratio = _ratio_interval(theirs - own, of_units, weights, units, mask)
    total = weights[mask].sum()
    reference, estimate = float(exp_of(own / total)), float(exp_of(theirs / total))
    low, high = (float(reference * np.expm1(min(x, _LARGEST))) for x in (ratio.low, ratio.high))
    return Interval(estimate - reference, low, high)


def mean_of_units(table: TokenTable, sums: Floats) -> Interval:
    """Interval of the mean a token of what sums to `sums` over the units of `table`.

    With the difference of two passes' sums over the same units it is that of a paired difference.
    """
    mask = table.select(None)
    return _ratio_interval(
        float(sums.sum()), sums, _weights(table, "mean"), table.units(None), mask
    )


def rounding_bound(
    first: TokenTable, again: TokenTable, column: str, summary: str, tokens: int
) -> float:
    """How far rounding alone moves an exponential fold over `tokens` tokens: its 95 % bound.

    `again` is a second pass over windows of `first`. The difference of two passes is their rounding
    errors, which are independent from token to token; or what their mean is, where that is more.
    """
    mask = again.select(None)
    units = again.units(None)
    noise = (again.tokens(column) - first.tokens(column)[first.units(None).inside])[units.inside]
    scored = float(mask @ again.windows["scored"])
    stretch = scored / float(_weights(again, summary)[mask].sum())
    rms = math.sqrt(float(np.mean(noise.astype(np.float64) ** 2)))
    bound = max(CONFIDENT * rms / math.sqrt(tokens), abs(float(noise.mean(dtype=np.float64))))
    sums = first.windows[f"sum_{column}"][mask].sum()
    return float(exp_of(stretch * sums / scored) * np.expm1(stretch * bound))


def exp_of(nats: float | Floats) -> Floats:
    """e to the power of `nats`, at most what a float64 holds."""
    return np.asarray(np.exp(np.minimum(nats, _LARGEST)))


def correlation(baseline: NDArray[Any], variant: NDArray[Any]) -> float:
    """Pearson correlation of the two passes' negative log-likelihoods, token by token."""
    if len(baseline) < 2 or np.ptp(baseline) == 0 or np.ptp(variant) == 0:
        return math.nan
    return float(np.corrcoef(baseline, variant)[0, 1])


def _ratio_interval(
    total: float, sums: Floats, weights: Floats, units: Units, mask: NDArray[np.bool_]
) -> Interval:
    """Interval of `total` over the weights of all windows, from sums over units.

    The estimate is that of the windows; the units, summed from the stored single precision, give
    how far the bounds are from it.
    """
    estimate = float(total / weights[mask].sum())
    if units.claim is Claim.TOKENS:
        return Interval(estimate, estimate, estimate)
    found = bootstrap_interval(
        lambda totals: totals[:, 0] / totals[:, 1],
        np.column_stack([sums, weights[units.window] * units.share]),
        groups=units.document,
        strata=units.text,
        claim=units.claim,
    )
    low, high = found.low - found.estimate, found.high - found.estimate
    return Interval(estimate, estimate + low, estimate + high)


def _weights(table: TokenTable, summary: str) -> Floats:
    """What each window counts for in a denominator, shape (windows,).

    Words and bytes are known of whole documents and stand on their last windows; for resampling
    each window gets the share of its scored tokens, which leaves every document's total as it is.
    """
    name = {"exp_per_word": "words", "exp_per_byte": "bytes"}.get(summary, "scored")
    weights: Floats = table.windows[name].astype(np.float64)
    if name == "scored":
        return weights
    document, scored = table.windows["document"], table.windows["scored"]
    totals = np.bincount(document, weights)
    tokens = np.maximum(1, np.bincount(document, scored))
    share: Floats = (totals / tokens)[document] * scored
    return share


def _percentile(values: NDArray[Any], summary: str, units: Units) -> Interval:
    if summary == "max":
        return Interval(float(values.max()), math.nan, math.nan)
    q = float(summary.removeprefix("p"))
    if units.claim is Claim.TOKENS:
        return Interval(*[float(np.percentile(values.astype(np.float64), q))] * 3)
    return bootstrap_percentile(
        values, units.unit, q, groups=units.document, strata=units.text, claim=units.claim
    )
