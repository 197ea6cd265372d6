"""Confidence intervals for statistics of text: a paired block bootstrap over units.

Neighbouring units of one text resemble each other, so they carry less information than as many
independent units would, and an interval that ignores this is too narrow. `blocks` holds what
answers it. All columns of one unit are resampled together, which is what makes a comparison of
two variants paired.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evalkit.analysis.blocks import (
    FloatArray,
    IndexArray,
    Statistic,
    cut_documents,
    cut_passages,
    influence_values,
    resample_totals,
    split_strata,
)
from evalkit.analysis.units import widest_claim
from evalkit.errors import EvalkitError
from evalkit.records import Claim


@dataclass(frozen=True)
class Interval:
    """A value and its confidence bounds, all in the unit of the statistic.

    The bounds are nan where no interval is possible, for example with a single unit.
    """

    estimate: float
    low: float
    high: float

    @property
    def is_possible(self) -> bool:
        """Whether both bounds are known."""
        return not (np.isnan(self.low) or np.isnan(self.high))


def bootstrap_interval(
    statistic: Statistic,
    sums: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    groups: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    claim: Claim | None = None,
) -> Interval:
    """Confidence interval of a function of sums over units, by paired block bootstrap.

    Args:
        statistic: maps totals of shape (m, k) to values of shape (m,). It must be a function of
            the totals that does not change when they are all scaled by one factor, as a mean,
            a perplexity or a difference of two perplexities is.
        sums: sums over units of shape (units, k), in text order, for example the negative
            log-likelihood under the baseline, under the variant, and the number of tokens.
        confidence: probability that the interval covers the true value.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling; equal input and seed give equal bounds.
        groups: document of each unit, shape (units,).
        strata: text (slice) of each unit, shape (units,). Texts are taken as fixed: units are
            resampled within each, so that differences between texts widen nothing.
        claim: of what the interval speaks; default the widest that the units allow. For TEXTS
            documents are taken as drawn from a population and independent of each other; else
            they are fixed as well, and units are resampled within each.

    Returns:
        The statistic of all units with its bounds. The width is zero where no unit moves the
        statistic; the bounds are nan for one unit, or where a resample leaves the statistic
        undefined.

    Raises:
        EvalkitError: for empty, non-finite or wrongly shaped input.
    """
    table = _checked_sums(sums)
    _check_level(confidence, resamples)
    documents = _labels(groups, len(table), "groups")
    texts = _labels(strata, len(table), "strata")
    estimate = float(statistic(table.sum(axis=0, keepdims=True))[0])
    if len(table) == 1:
        return Interval(estimate, np.nan, np.nan)
    about_texts = (claim or widest_claim(len(table), documents, texts)) is Claim.TEXTS
    fixed = split_strata(texts if about_texts or documents is None else documents, len(table))
    influence = influence_values(statistic, table, fixed)
    if not np.isfinite(influence).all():
        return Interval(estimate, np.nan, np.nan)
    if not influence.any():
        return Interval(estimate, estimate, estimate)
    plan = (
        [cut_documents(influence, units, documents) for units in fixed]
        if about_texts
        else cut_passages(influence, fixed)
    )
    resampled, stretch = resample_totals(table, influence, plan, confidence, resamples, seed)
    values = statistic(resampled)
    if not np.isfinite(values).all():
        return Interval(estimate, np.nan, np.nan)
    tail = (1 - confidence) / 2
    bounds = np.quantile(values, [tail, 1 - tail], method="weibull")
    low, high = estimate + stretch * (bounds - estimate)
    return Interval(estimate, float(low), float(high))


def bootstrap_percentile(
    values: npt.ArrayLike,
    unit_ids: npt.ArrayLike,
    q: float,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    groups: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    claim: Claim | None = None,
) -> Interval:
    """Confidence interval of a percentile of per-token values, by block bootstrap over units.

    The share of tokens at or below the percentile is a ratio of sums over units; its bootstrap
    interval is read back through the distribution of the values (Woodruff 1952, "Confidence
    intervals for medians and other position measures", JASA 47:635). One sort of the values is
    all it costs, so a million tokens take a fraction of a second.

    Args:
        values: one value per token, shape (tokens,), in any unit.
        unit_ids: unit of each token, shape (tokens,); units are in text order of their ids.
        q: percentile between 0 and 100, both excluded.
        confidence, resamples, seed: as in `bootstrap_interval`.
        groups, strata, claim: as there, in the order of the unit ids.

    Returns:
        The percentile with its bounds, in the unit of the values. The bounds are nan where the
        tokens are too few to bound it, as for the 99.9th percentile of a few hundred tokens.

    Raises:
        EvalkitError: for empty, non-finite or wrongly shaped input.
    """
    tokens = np.asarray(values, dtype=np.float64)
    if tokens.ndim != 1 or tokens.size == 0 or not np.isfinite(tokens).all():
        raise EvalkitError(
            f"values of shape {tokens.shape}: one finite number per token is needed; "
            "leave masked tokens out"
        )
    if not 0 < q < 100:
        raise EvalkitError(f"percentile {q}: it must lie between 0 and 100; try 99")
    labels = _labels(unit_ids, len(tokens), "unit_ids")
    assert labels is not None
    ordered = np.sort(tokens)
    estimate = float(np.quantile(ordered, q / 100))
    counts = np.bincount(labels).astype(np.float64)
    below = np.bincount(labels, weights=tokens <= estimate)
    share = bootstrap_interval(
        lambda totals: totals[:, 0] / totals[:, 1],
        np.column_stack([below, counts]),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        groups=groups,
        strata=strata,
        claim=claim,
    )
    levels = q / 100 + np.array([share.low, share.high]) - share.estimate
    if ordered[0] == ordered[-1] and len(counts) > 1:
        return Interval(estimate, estimate, estimate)
    # A level outside the observed distribution (or an unknown one) bounds nothing.
    if not (levels[0] >= 0 and levels[1] <= 1):
        return Interval(estimate, np.nan, np.nan)
    low, high = np.quantile(ordered, levels)
    return Interval(estimate, float(low), float(high))


def _checked_sums(sums: npt.ArrayLike) -> FloatArray:
    table = np.asarray(sums, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise EvalkitError(
            f"sums of shape {table.shape}: a table (units, columns) with at least one unit "
            "is needed"
        )
    if not np.isfinite(table).all():
        unit = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise EvalkitError(
            f"sums of unit {unit} are not finite: score it again or leave it out of both sides"
        )
    return table


def _check_level(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise EvalkitError(f"confidence {confidence}: it must lie between 0 and 1; try 0.95")
    if resamples < 100:
        raise EvalkitError(f"resamples {resamples}: at least 100 are needed; try 2000")


def _labels(ids: npt.ArrayLike | None, length: int, name: str) -> IndexArray | None:
    """Ids of any kind as integers 0, 1, … in their sorted order."""
    if ids is None:
        return None
    labels = np.asarray(ids)
    if labels.shape != (length,):
        raise EvalkitError(f"{name} of shape {labels.shape}: one id for each of {length} is needed")
    return np.asarray(np.unique(labels, return_inverse=True)[1], dtype=np.int64)
