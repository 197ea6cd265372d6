"""Blocks of neighbouring units: how far a statistic of them varies, and resampling to match.

1. The statistic is linearised: its jackknife influence values say how much each unit moves it.
2. The variance of their sum is estimated with the neighbours' correlation in it: where the claim is
   about other documents from the totals of whole documents, where it is about the same documents
   by the equal-weighted cosine estimator within each, whose ratio follows Student's t with as many
   degrees of freedom as there are cosines (Lazarus, Lewis, Stock and Watson 2018, "HAR inference:
   recommendations for practice", Journal of Business & Economic Statistics 36:541).
3. Blocks of consecutive units are resampled. The number of blocks drawn is not the number there
   are but the one that gives the resampled statistic that variance, widened by t over normal (the
   m-out-of-n bootstrap). A plain block bootstrap covers 85 to 90 % where 95 % is meant below a
   hundred units, because a block cannot see the correlation beyond its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.fft import dct
from scipy.special import ndtri, stdtrit

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]
Statistic = Callable[[FloatArray], FloatArray]

# More blocks than this do not change the interval: its width comes from the variance estimate and
# its shape from the central limit theorem. The bound keeps the cost flat in the length of the text.
MAX_BLOCKS = 256
# Fewer draws than this make the resampled distribution so coarse that its tails are too short.
MIN_DRAWS = 8
# The fewest cosines used. From as many degrees of freedom on, the totals of documents are the
# better source of the variance: they hold for any dependence within a document.
MIN_COSINES = 4
ENOUGH_DOCUMENTS = MIN_COSINES + 1
# A stronger correlation of neighbouring units cannot be told from a trend in the text.
MAX_CORRELATION = 0.7


@dataclass(frozen=True)
class Blocks:
    """How one stratum is resampled: its units in text order, cut into consecutive blocks."""

    units: IndexArray
    starts: IndexArray
    variance: float
    degrees_of_freedom: float


def influence_values(
    statistic: Statistic, table: FloatArray, strata: list[IndexArray]
) -> FloatArray:
    """Jackknife influence of each unit, shape (units,), centred within each stratum.

    All are zero where there is no more than rounding, nan where leaving out a window leaves the
    statistic undefined.
    """
    totals = table.sum(axis=0)
    estimate = float(statistic(totals[None, :])[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        influence = np.asarray((len(table) - 1) * (estimate - statistic(totals - table)))
        for units in strata:
            influence[units] -= influence[units].mean()
    rounding = 64 * np.finfo(np.float64).eps * len(table) * abs(estimate)
    return np.zeros_like(influence) if np.abs(influence).max() <= rounding else influence


def split_strata(texts: IndexArray | None, count: int) -> list[IndexArray]:
    """Indices of the units of each text or document; a single unit joins those before it.

    One unit says nothing of its variance. Joining it to another is the usual remedy
    (collapsed strata: Cochran 1977, "Sampling techniques", 5A.12) and can only widen the interval.
    """
    if texts is None:
        return [np.arange(count)]
    parts: list[IndexArray] = []
    for text in range(int(texts.max()) + 1):
        units = np.flatnonzero(texts == text)
        if parts and (len(units) == 1 or len(parts[-1]) == 1):
            parts[-1] = np.sort(np.concatenate([parts[-1], units]))
        else:
            parts.append(units)
    return parts


def cut_documents(influence: FloatArray, units: IndexArray, documents: IndexArray | None) -> Blocks:
    """Each document of one text as a block; the totals of documents give the variance.

    They are independent of each other, whatever the dependence within.
    """
    values = influence[units]
    borders = _borders(documents, units)
    sizes = np.diff(np.append(borders, len(values)))
    effective = len(values) ** 2 / float((sizes**2).sum())
    scale = len(borders) / (len(borders) - 1)
    variance = scale * float((np.add.reduceat(values, borders) ** 2).sum())
    return Blocks(units, borders[:: -(-len(borders) // MAX_BLOCKS)], variance, effective - 1)


def cut_passages(influence: FloatArray, strata: list[IndexArray]) -> list[Blocks]:
    """Consecutive units of each document as blocks; the cosines give the variance.

    The correlation of neighbours is one for all documents, as a short one tells little of its own.
    """
    correlation = _correlation([influence[units] for units in strata])
    longest = -(-sum(map(len, strata)) // MAX_BLOCKS)
    found = []
    for units in strata:
        cosines = _cosine_count(len(units))
        variance = _long_run_variance(influence[units], cosines, correlation)
        block = max(longest, _block_length(correlation, len(units)))
        found.append(Blocks(units, _cut(len(units), block), variance, cosines))
    return found


def _borders(documents: IndexArray | None, units: IndexArray) -> IndexArray:
    """Positions among `units` at which a document starts."""
    if documents is None:
        return np.zeros(1, dtype=np.int64)
    return np.append(np.int64(0), np.flatnonzero(np.diff(documents[units])) + 1)


def _cosine_count(length: int) -> int:
    """Number of low-frequency cosines: 0.3 n^(2/3).

    Lazarus and others (2018) use 0.4; fewer cosines trade a slightly wider interval for coverage
    where the correlation reaches far, as it does within an article.
    """
    return min(length - 1, max(MIN_COSINES, round(0.3 * math.cbrt(length) ** 2)))


def _correlation(series: list[FloatArray]) -> float:
    """Correlation of neighbouring values of centred series, between 0 and MAX_CORRELATION.

    Corrected for its bias in short series, (1 + 4 correlation) / n (Kendall 1954, Biometrika
    41:403).
    """
    length = sum(map(len, series))
    lagged = sum(float(values[1:] @ values[:-1]) for values in series)
    lagged /= sum(float(values @ values) for values in series) or 1.0
    count = len(series)
    corrected = (length * lagged + count) / max(length / 4, length - 4 * count)
    return min(MAX_CORRELATION, max(0.0, corrected))


def _long_run_variance(values: FloatArray, cosines: int, correlation: float) -> float:
    """Variance of the sum of centred values.

    The cosines see the spectrum a little away from frequency zero, where that of a first-order
    autoregression is lower; the variance is raised by what such a one would lose there.
    """
    variance = float((dct(values, type=2)[1 : cosines + 1] ** 2).mean()) / 2
    frequencies = np.pi * np.arange(1, cosines + 1) / len(values)
    fall = 1 + 2 * correlation * (1 - np.cos(frequencies)) / (1 - correlation) ** 2
    return variance / float((1 / fall).mean())


def _block_length(correlation: float, length: int) -> int:
    """Units per block: the rule of Politis and White (2004, Econometric Reviews 23:53).

    For a first-order autoregression it depends on the correlation of neighbours alone. Eight
    blocks are kept where possible.
    """
    optimal = math.cbrt(1.5 * (2 * correlation / (1 - correlation**2)) ** 2 * length)
    return max(1, min(round(optimal), length // 8))


def _cut(length: int, block: int) -> IndexArray:
    """Starts of nearly equal blocks of about `block` units."""
    count = max(1, round(length / block))
    return (np.arange(count) * length) // count


def resample_totals(
    table: FloatArray,
    influence: FloatArray,
    plan: list[Blocks],
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[FloatArray, float]:
    """Resampled totals (resamples, k), and the factor their deviations still lack.

    Drawing m of B blocks gives the sum a variance of B²/m times that of a block. m is chosen to
    meet the target; what rounding and the lower limit of m leave is the factor. The degrees of
    freedom of several texts are Satterthwaite's (1946, Biometrics Bulletin 2:110).
    """
    rng = np.random.default_rng(seed)
    variance = sum(part.variance for part in plan)
    degrees = variance**2 / sum(part.variance**2 / part.degrees_of_freedom for part in plan)
    tail = (1 - confidence) / 2
    widening = (stdtrit(degrees, tail) / ndtri(tail)) ** 2
    resampled = np.zeros((resamples, table.shape[1]))
    achieved = 0.0
    # Many documents are as many sums: few draws of each make their total smooth.
    most = max(MIN_DRAWS, 4 * MAX_BLOCKS // len(plan))
    for part in plan:
        blocks = np.add.reduceat(table[part.units], part.starts, axis=0)
        moved = np.add.reduceat(influence[part.units], part.starts).var() * len(blocks) ** 2
        target = part.variance * widening
        wanted = moved / target if target > 0 else len(blocks)
        draws = int(np.clip(round(wanted), MIN_DRAWS, most))
        resampled += _draw(rng, blocks, draws, resamples)
        achieved += moved / draws
    return resampled, float(np.sqrt(variance * widening / achieved))


def _draw(rng: np.random.Generator, blocks: FloatArray, draws: int, resamples: int) -> FloatArray:
    """Totals of `draws` blocks taken with replacement, scaled to the size of all blocks."""
    count = len(blocks)
    picked = rng.integers(0, count, size=(resamples, draws))
    picked += np.arange(resamples)[:, None] * count
    times = np.bincount(picked.ravel(), minlength=resamples * count).reshape(resamples, count)
    return np.asarray(times @ blocks * (count / draws))
