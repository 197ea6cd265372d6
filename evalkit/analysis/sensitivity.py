"""The statistics of a damage map: additivity, ranks, and which pieces need more text.

Pure functions of per-token values; how these are measured is in `evalkit.running.sensitivity`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from evalkit.analysis.bootstrap import Interval, bootstrap_interval
from evalkit.analysis.summaries import Floats, TokenTable, exp_of, mean_of_units
from evalkit.analysis.units import FEWEST_UNITS
from evalkit.records import Claim

# Pieces that change less than this part of the whole need no rank among each other.
_NEGLIGIBLE = 0.01
# A whole that is within so many noise floors is none that a sum could be held against.
_NOISY = 10.0
FEWEST_RANKED = 3


def unit_sums(table: TokenTable, column: str = "kl") -> Floats:
    """Sums of `column` over the units of `table`."""
    return table.units(None).sums(table.tokens(column))


def damage_sums(piece: TokenTable, whole: TokenTable | None = None) -> Floats:
    """The damage of a piece over each unit: its divergence, or restored what `whole` loses by it.

    Both passes are of the same windows.
    """
    return unit_sums(piece) if whole is None else unit_sums(whole) - unit_sums(piece)


def mean_divergence(table: TokenTable, sums: Floats, noise: float) -> Interval:
    """Mean a token of what sums to `sums` over the units of `table`, with its interval.

    Units too few to say how much they vary leave the noise floor as all that is uncertain.
    """
    found = mean_of_units(table, sums)
    if table.units(None).claim is Claim.TOKENS:
        return Interval(found.estimate, found.estimate - noise, found.estimate + noise)
    return found


def mean_of_windows(sums: Floats, tokens: Floats) -> Interval:
    """Mean a token of what sums to `sums` over windows of so many `tokens`, with its interval.

    Fewer windows than an interval needs leave it without a width.
    """
    estimate = float(sums.sum() / tokens.sum())
    if len(sums) < FEWEST_UNITS:
        return Interval(estimate, estimate, estimate)
    return bootstrap_interval(
        lambda totals: totals[:, 0] / totals[:, 1], np.column_stack([sums, tokens])
    )


def perplexity_change(of: TokenTable, against: TokenTable) -> float:
    """Perplexity of the pass `of` less that of `against`, over the same windows."""
    tokens = float(of.windows["scored"].sum())
    one, other = (float(table.windows["sum_nll"].sum()) / tokens for table in (of, against))
    return float(exp_of(one)) - float(exp_of(other))


def perplexity(table: TokenTable) -> float:
    """exp(Σ nll / Σ tokens) of a pass."""
    nll, tokens = (float(table.windows[name].sum()) for name in ("sum_nll", "scored"))
    return float(exp_of(nll / tokens))


def additivity(parts: Sequence[float], whole: float, noise: float) -> float | None:
    """The sum of the pieces' divergences over that of all together, on the same tokens.

    None where the whole is too small to be told from the noise floor.
    """
    return sum(parts) / whole if whole > _NOISY * noise else None


def additivity_words(ratio: float | None) -> str:
    """What the ratio of sum and whole means."""
    if ratio is None:
        return "no ratio of sum and whole: a piece was not measured, or the whole is within noise"
    if ratio > 1.25:
        why = "pieces make up for each other: what one alone costs is less where others are changed"
    elif ratio < 0.8:
        why = "errors add to more than each alone costs: a mix may lose more than the map predicts"
    else:
        why = "the pieces' divergences add up, so that a mix of formats is predicted by its sum"
    return f"sum of the pieces / whole = {ratio:.2f}: {why}"


def control_words(measured: float, control: float) -> str:
    """What a piece's divergence beside that of noise of the same size says it needs."""
    ratio = measured / control if control > 0 else float("inf")
    if ratio > 1.5:
        return "better rounding"
    return "more bits" if ratio > 0.67 else "well rounded"


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None of fewer than three pieces, or where all are alike."""
    if len(one) < FEWEST_RANKED or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)


def open_ranks(table: TokenTable, damage: Mapping[str, Floats]) -> frozenset[str]:
    """The pieces whose rank is open; `damage` are their sums over the units of `table`.

    Those are neighbours in rank whose paired difference may be zero, unless both are negligible
    beside the sum.
    """
    units = table.units(None)
    ranked = sorted(damage, key=lambda name: -float(damage[name].sum()))
    total = sum(float(one.sum()) for one in damage.values())
    found: set[str] = set()
    for upper, lower in itertools.pairwise(ranked):
        if float(damage[upper].sum()) < _NEGLIGIBLE * total:
            break
        difference = mean_of_units(table, damage[upper] - damage[lower])
        if units.claim is Claim.TOKENS or not difference.low > 0:
            found |= {upper, lower}
    return frozenset(found)
